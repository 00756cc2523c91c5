//! Where every query arrives, whichever way it came: it is answered on what readers see now, and counted.

use super::stats::DnsStats;
use crate::{clock::Clock, view::View};
use arc_swap::ArcSwap;
use rollcall_dns::{Catalog, CookieSecret, Fast, Front, Node, Outcome, Query, Standing, Transport};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// What an answer needs besides the state. Replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The nodes of the cluster, in order of name.
    pub nodes: Vec<Node>,
    /// How far the state can be trusted.
    pub standing: Standing,
}

/// A query as it arrives at a socket.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The message.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub peer: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// Random bits, new for each query.
    pub random: u64,
    /// When it came, by the clock of the desk, if it has waited since; that counts as time to answer it.
    pub waited_since: Option<Duration>,
}

/// Answers queries for all sockets of a node.
#[derive(Debug)]
pub struct Desk {
    front: Arc<Front>,
    view: View,
    clock: Arc<dyn Clock>,
    surroundings: ArcSwap<Surroundings>,
    stats: Arc<DnsStats>,
}

impl Desk {
    /// A desk that trusts nothing yet.
    pub fn new(front: Front, view: View, clock: Arc<dyn Clock>, stats: Arc<DnsStats>) -> Self {
        let surroundings = Surroundings { nodes: Vec::new(), standing: Standing::Unready };
        let surroundings = ArcSwap::from_pointee(surroundings);
        Self { front: Arc::new(front), view, clock, surroundings, stats }
    }

    /// What it has counted.
    pub fn stats(&self) -> &Arc<DnsStats> {
        &self.stats
    }

    /// The clock that it counts by.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// What readers see.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// What answers are made with besides the state.
    pub(super) fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.load_full()
    }

    /// Whether answers are made from a state that is in step with a leader.
    pub fn is_current(&self) -> bool {
        self.surroundings.load().standing == Standing::Current
    }

    /// From now on answers are made with these.
    pub(super) fn surround(&self, surroundings: Surroundings) {
        self.surroundings.store(Arc::new(surroundings));
    }

    /// A fast path to this desk, for one caller, keeping at most so many bytes of records.
    pub fn fast(&self, memory: usize, seed: u64) -> Fast {
        Fast::new(self.front.clone(), memory, seed)
    }

    /// Answers one query into `reply`; whether it is to be sent. Counted in `shard`, which one caller at a time uses.
    pub fn answer(&self, arrival: Arrival<'_>, shard: usize, reply: &mut Vec<u8>) -> bool {
        let front = &self.front;
        let full =
            |query: &Query<'_>, catalog: &Catalog<'_>| Some(front.answer(query, catalog, reply));
        self.count(arrival, shard, full).unwrap_or(false)
    }

    /// The same on the fast path. `None`: it is no plain query; nothing has happened, and [`Desk::answer`] is for it.
    pub fn answer_fast(
        &self,
        fast: &mut Fast,
        arrival: Arrival<'_>,
        shard: usize,
        reply: &mut Vec<u8>,
    ) -> Option<bool> {
        let answer = |query: &Query<'_>, catalog: &Catalog<'_>| fast.answer(query, catalog, reply);
        self.count(arrival, shard, answer)
    }

    fn count(
        &self,
        arrival: Arrival<'_>,
        shard: usize,
        answer: impl FnOnce(&Query<'_>, &Catalog<'_>) -> Option<Outcome>,
    ) -> Option<bool> {
        let Arrival { bytes, peer, transport, random, waited_since } = arrival;
        let now = self.clock.monotonic();
        let unix = self.clock.wall_ms() / 1000;
        let query = Query { bytes, peer, transport, now, unix, random };
        // In this order: the state is at least as new as what is said of it.
        let surroundings = self.surroundings.load();
        let seen = self.view.load();
        let secret = seen.state.secret();
        let secret = secret.map(|secret| secret.bits().to_be_bytes());
        let cookies = secret.map(CookieSecret);
        let catalog = Catalog {
            state: &seen.state,
            nodes: &surroundings.nodes,
            standing: surroundings.standing,
            cookies: cookies.as_ref(),
        };
        let outcome = answer(&query, &catalog)?;
        let took = self.clock.monotonic().saturating_sub(waited_since.unwrap_or(now));
        Some(match outcome {
            Outcome::Reply(answered) => {
                self.stats.answered(shard, transport, &answered, took);
                true
            }
            Outcome::Drop(reason) => {
                self.stats.dropped(shard, reason.into());
                false
            }
        })
    }
}
