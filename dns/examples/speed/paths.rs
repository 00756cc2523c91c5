//! What an answer costs without sockets: nanoseconds of the two paths, each query about another service.

use crate::{data, load::Asker};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rollcall_core::name::Label;
use rollcall_dns::{
    Catalog, CookieSecret, Fast, Front, Node, Query, Settings, Standing, Transport,
};
use std::{
    error::Error,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

const QUERIES: usize = 50_000;
const ROUNDS: usize = 8;

/// Prints a table; the best of some rounds, because others may use the machine.
pub(crate) fn paths(services: &str) -> Result<(), Box<dyn Error>> {
    let services = services.parse()?;
    let state = data::state(services);
    let front = Arc::new(Front::new(Settings::default())?);
    let addresses = vec![Ipv4Addr::LOCALHOST.into()];
    let nodes = [Node { name: Label::parse("node", "n1")?, addresses }];
    let secret = CookieSecret([7; 16]);
    let (standing, cookies) = (Standing::Current, Some(&secret));
    let catalog = Catalog { state: &state, nodes: &nodes, standing, cookies };
    println!("| kind | fast path, ns | full path, ns |\n|---|---|---|");
    for kind in ["a", "srv", "aaaa", "random", "cookie"] {
        let asker = Asker::new(kind, services)?;
        let mut dice = SmallRng::seed_from_u64(1);
        let queries: Vec<Vec<u8>> = (0..QUERIES)
            .map(|_| {
                let mut query = Vec::new();
                asker.ask(1, None, &mut dice, &mut query);
                query
            })
            .collect();
        let mut path = Fast::new(front.clone(), Fast::MEMORY, 7);
        let mut reply = Vec::with_capacity(4096);
        let fast = best(&queries, |query| {
            path.answer(query, &catalog, &mut reply).expect("a plain query");
        });
        let full = best(&queries, |query| {
            front.answer(query, &catalog, &mut reply);
        });
        println!("| {kind} | {fast:.0} | {full:.0} |");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn best(queries: &[Vec<u8>], mut answer: impl FnMut(&Query<'_>)) -> f64 {
    let mut dice = SmallRng::seed_from_u64(2);
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for bytes in queries {
            answer(&Query {
                bytes,
                peer: (Ipv4Addr::LOCALHOST, 4242).into(),
                transport: Transport::Udp,
                now: Duration::ZERO,
                unix: 1_700_000_000,
                random: dice.random(),
            });
        }
        best = best.min(began.elapsed().as_nanos() as f64 / queries.len() as f64);
    }
    best
}
