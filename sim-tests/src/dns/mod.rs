//! DNS in the simulation: one machine changes a pair of instances, always both in one batch, another asks all nodes
//! for it over UDP and TCP, and [`judge`] says which answers break a promise.
//!
//! The port of the pair is the number of its round, so that an answer tells which state it was made from.

mod ask;
pub mod judge;

use crate::{cluster::Cluster, net::connector};
use judge::Judge;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rollcall_client::Builder;
use rollcall_proto::v1;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use turmoil::Sim;

/// The service that is changed.
const SERVICE: &str = "pair";
/// Port of the first round.
const FIRST: u16 = 9000;
const ROUND: Duration = Duration::from_millis(700);
const RETRY: Duration = Duration::from_millis(200);

/// What both machines share: the answers so far, judged.
#[derive(Debug, Clone, Default)]
pub struct Lookups(Arc<Mutex<Judge>>);

impl Lookups {
    /// The judge.
    pub fn judge(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds both machines to the simulation.
    pub fn start(sim: &mut Sim<'_>, cluster: &Cluster, seed: u64) -> Self {
        let lookups = Self::default();
        let mut dice = SmallRng::seed_from_u64(seed);
        let (addresses, told, seed) = (cluster.addresses(), lookups.clone(), dice.next_u64());
        sim.client("pair", change(addresses, told, seed));
        let (machines, told, seed) = (cluster.machines.clone(), lookups.clone(), dice.next_u64());
        sim.client("ask", ask::ask(machines, told, seed));
        lookups
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Registers the pair again and again, the next round only when the one before was acknowledged.
async fn change(addresses: Vec<String>, lookups: Lookups, seed: u64) -> turmoil::Result {
    let mut bytes = [0; 32];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let client = Builder::new(addresses).connector(connector()).seed(bytes).build()?;
    for round in FIRST..=u16::MAX {
        let items = ["a", "b"].map(|id| registration(id, round)).into();
        // The same id for every attempt: a late one has no second effect.
        let request = v1::RegisterRequest { items, request_id: format!("pair-{round}") };
        while client.register_once(request.clone()).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        lookups.judge().acknowledged(round, now());
        tokio::time::sleep(ROUND).await;
    }
    Ok(())
}

fn registration(id: &str, round: u16) -> v1::Registration {
    let endpoint = v1::Endpoint {
        name: "http".into(),
        host: if id == "a" { "10.1.0.1" } else { "10.1.0.2" }.into(),
        port: round.into(),
        ..Default::default()
    };
    v1::Registration {
        name: Some(v1::InstanceName {
            namespace: String::new(),
            service: SERVICE.into(),
            instance_id: id.into(),
        }),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![endpoint],
            persistent: true,
            ..Default::default()
        }),
        owner_nonce: vec![9; 16],
        ..Default::default()
    }
}
