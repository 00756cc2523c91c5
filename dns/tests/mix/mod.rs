//! A catalogue that keeps changing, queries of every kind about it, and the comparison of the two paths.
//!
//! Used by `tests/differential.rs` (some thousands of queries) and `examples/differential.rs` (as many as wanted).

mod ask;
mod world;

use crate::{given::Given, hickory};
use hickory_proto::{
    op::Message,
    serialize::binary::{BinDecodable, BinDecoder},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rollcall_dns::{
    Answered, Fast, Front, Outcome, Query, RateLimit, Settings, Standing, Transport, Truncation,
};
use std::{fmt, sync::Arc};

/// Of so many queries, a node that sleeps answers the first ones.
const CYCLE: u64 = 2_500;
const AWAKE: u64 = 300;
/// One query in so many goes through hickory too.
const HICKORY: u64 = 3;

/// What was compared.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Queries in all, changes of the catalogue between them.
    pub(crate) queries: u64,
    pub(crate) changes: u64,
    /// Queries that the fast path answered, and among them by what.
    pub(crate) fast: u64,
    pub(crate) records: u64,
    pub(crate) no_data: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) truncated: u64,
    pub(crate) stale: u64,
    pub(crate) cookies: u64,
    pub(crate) tcp: u64,
    /// Dropped by the rate limit, or answered by a short reply.
    pub(crate) limited: u64,
    pub(crate) slipped: u64,
    /// Queries that got no reply.
    pub(crate) dropped: u64,
    /// Replies that were compared with those of hickory's server.
    pub(crate) hickory: u64,
}

/// One round: a catalogue, and nodes that answer from it.
pub(crate) struct Round {
    given: Given,
    nodes: Vec<Node>,
    dice: StdRng,
    tally: Tally,
}

/// A front of its own, because the rate limit counts, and its fast path.
struct Node {
    front: Arc<Front>,
    fast: Fast,
    /// It sleeps for most of the time: then it has more changes to catch up with than the journal holds.
    sleeps: bool,
}

impl Node {
    fn new(settings: &Settings, memory: usize, sleeps: bool, dice: &mut StdRng) -> Self {
        let front = Arc::new(Front::new(settings.clone()).expect("settings"));
        Self { fast: Fast::new(front.clone(), memory, dice.random()), front, sleeps }
    }
}

impl Round {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let settings = settings(&mut dice);
        // The usual one, one with next to no memory, one that is mostly behind.
        let tight = dice.random_range(0..60_000);
        let nodes = [(Fast::MEMORY, false), (tight, false), (Fast::MEMORY, true)]
            .map(|(memory, sleeps)| Node::new(&settings, memory, sleeps, &mut dice))
            .into();
        let mut given = Given::with(settings);
        world::begin(&mut given, &mut dice);
        Self { given, nodes, dice, tally: Tally::default() }
    }

    /// Compares that many queries, with changes of the catalogue between them.
    pub(crate) fn run(&mut self, queries: u64) -> Tally {
        for _ in 0..queries {
            if self.dice.random_ratio(1, 20) {
                world::change(&mut self.given, &mut self.dice);
                self.tally.changes += 1;
            }
            self.compare();
        }
        self.tally
    }

    fn compare(&mut self) {
        let asked = ask::query(&self.given, &mut self.dice);
        let query = Query {
            bytes: &asked.bytes,
            peer: asked.peer,
            transport: asked.transport,
            now: self.given_now(),
            unix: asked.unix,
            random: self.dice.random(),
        };
        let catalog = self.given.catalog();
        let mut expected = Vec::new();
        let full = self.given.front.answer(&query, &catalog, &mut expected);
        let settings = self.given.front.settings();
        check(&query, settings, full, &expected);
        self.tally.queries += 1;
        if self.tally.queries.is_multiple_of(HICKORY)
            && let Some(theirs) = hickory::sent(&query, &expected)
        {
            hickory::same(&query, &expected, &theirs);
            self.tally.hickory += 1;
        }
        self.tally.dropped += u64::from(matches!(full, Outcome::Drop(_)));
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let mut reply = vec![0xEE; 7];
            let asked = !node.sleeps || self.tally.queries % CYCLE < AWAKE;
            let fast = asked.then(|| node.fast.answer(&query, &catalog, &mut reply)).flatten();
            if at == 0 && fast.is_some() {
                self.tally.count(&query, &reply, self.given.standing);
                let slipped = matches!(fast, Some(Outcome::Reply(answered)) if answered.slipped);
                self.tally.slipped += u64::from(slipped);
            }
            let outcome = fast.unwrap_or_else(|| node.front.answer(&query, &catalog, &mut reply));
            same(&query, (full, &expected), (outcome, &reply));
        }
    }

    fn given_now(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.tally.queries)
    }
}

/// The outcome but for how it came about.
fn plain(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Reply(answered) => Outcome::Reply(Answered { ready: false, ..answered }),
        Outcome::Drop(_) => outcome,
    }
}

fn same(query: &Query<'_>, full: (Outcome, &[u8]), fast: (Outcome, &[u8])) {
    if full != (plain(fast.0), fast.1) {
        let message = |bytes| Message::from_vec(bytes).map(|message| message.to_string());
        panic!(
            "{:?} from {}: {}\nfull path: {:?}\n{:?}\n{:02x?}\nfast path: {:?}\n{:?}\n{:02x?}",
            query.transport,
            query.peer,
            query.bytes.escape_ascii(),
            full.0,
            message(full.1),
            full.1,
            fast.0,
            message(fast.1),
            fast.1,
        );
    }
}

/// What holds for every reply: hickory reads it to its last byte, and it is no longer than it may be.
fn check(query: &Query<'_>, settings: &Settings, outcome: Outcome, reply: &[u8]) {
    let Outcome::Reply(_) = outcome else {
        assert!(reply.is_empty(), "a drop leaves bytes");
        return;
    };
    let asked = query.bytes.escape_ascii();
    let mut decoder = BinDecoder::new(reply);
    let message = Message::read(&mut decoder).unwrap_or_else(|error| panic!("{asked}: {error}"));
    assert!(decoder.is_empty(), "{asked}: bytes behind the reply");
    let offered = message.edns.is_some().then(|| {
        let asked = Message::from_vec(query.bytes).ok().and_then(|asked| asked.edns);
        asked.map_or(512, |edns| edns.max_payload())
    });
    let limit = match query.transport {
        Transport::Tcp => 65_535,
        Transport::Udp => offered.unwrap_or(512).clamp(512, settings.udp_payload),
    };
    assert!(reply.len() <= limit.into(), "{asked}: {} of {limit} bytes", reply.len());
}

/// Settings that an operator might have, of some hundred kinds.
fn settings(dice: &mut StdRng) -> Settings {
    let mut settings = Settings { rate: None, ..Settings::default() };
    if dice.random_bool(0.5) {
        let rate = RateLimit { answers: 3, negatives: 3, table: 1_000, ..RateLimit::default() };
        let exempt = vec!["10.0.0.0/8".parse().expect("a range")];
        settings.rate = Some(RateLimit { exempt, slip: dice.random_range(0..3), ..rate });
    }
    if dice.random_bool(0.3) {
        settings.truncation = Truncation::Always;
    }
    if dice.random_bool(0.2) {
        settings.address_limit = dice.random_range(1..20);
        settings.srv_limit = dice.random_range(1..20);
    }
    if dice.random_bool(0.4) {
        settings.localities = world::localities();
        settings.local_min = dice.random_range(1..4);
    }
    if dice.random_bool(0.3) {
        settings.udp_payload = [512, 1400, 4096][dice.random_range(0..3)];
    }
    if dice.random_bool(0.3) {
        settings.browse = true;
        settings.nsid = b"n1".to_vec();
        settings.reverse = vec!["10.0.0.0/8".parse().expect("a range")];
    }
    settings.ttl = [0, 5, 3600][dice.random_range(0..3)];
    settings
}

impl Tally {
    fn count(&mut self, query: &Query<'_>, reply: &[u8], standing: Standing) {
        self.fast += 1;
        if reply.is_empty() {
            self.limited += 1;
            return;
        }
        let code = reply[3] & 0x0F;
        self.records += u64::from(code == 0 && reply[6..8] != [0, 0]);
        self.no_data += u64::from(code == 0 && reply[6..8] == [0, 0]);
        self.unknown += u64::from(code == 3);
        self.refused += u64::from(code == 5);
        self.truncated += u64::from(reply[2] & 0x02 != 0);
        self.stale += u64::from(standing == Standing::Stale);
        self.cookies += u64::from(reply.windows(4).any(|bytes| bytes == [0, 10, 0, 24]));
        self.tcp += u64::from(query.transport == Transport::Tcp);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.queries += other.queries;
        self.changes += other.changes;
        self.fast += other.fast;
        self.records += other.records;
        self.no_data += other.no_data;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.truncated += other.truncated;
        self.stale += other.stale;
        self.cookies += other.cookies;
        self.tcp += other.tcp;
        self.limited += other.limited;
        self.slipped += other.slipped;
        self.dropped += other.dropped;
        self.hickory += other.hickory;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} queries over {} changes, {} answered by the fast path: {} with records, {} NODATA, \
             {} NXDOMAIN, {} REFUSED, {} truncated, {} stale, {} with a cookie, {} over TCP, {} \
             limited, {} slipped; {} dropped; {} compared with hickory's server",
            self.queries,
            self.changes,
            self.fast,
            self.records,
            self.no_data,
            self.unknown,
            self.refused,
            self.truncated,
            self.stale,
            self.cookies,
            self.tcp,
            self.limited,
            self.slipped,
            self.dropped,
            self.hickory,
        )
    }
}
