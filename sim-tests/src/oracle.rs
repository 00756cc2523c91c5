//! What the clients were told: every write with its outcome, every read with its answer, every acknowledged beat.
//! The invariants judge it against what the nodes show. Nothing here looks into a node.

use crate::points::Points;
use rollcall_client::Error;
use rollcall_core::name::{InstanceName, ServiceName};
use rollcall_proto::v1;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a write asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// List an instance, with a marker in its address.
    Register,
    /// Remove one, with a marker in its reason.
    Deregister,
    /// Drain it, take it into maintenance, or enable it again, with a marker in its reason.
    Admin,
    /// Store or delete the policy of a service.
    Policy,
}

/// What a client knows of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered yet, or the client is gone.
    Open,
    /// Done.
    Acknowledged {
        /// The revision that the answer names for this write.
        revision: u64,
        /// It changed something, by the word of the answer.
        changed: bool,
    },
    /// Not done, and never will be.
    Refused {
        /// The reason code.
        reason: String,
    },
    /// Nobody knows.
    Unknown,
}

/// One write of one client, all its attempts together.
#[derive(Debug, Clone)]
pub struct Write {
    /// Marks it in the journal: see [`Write::marker`].
    pub id: u32,
    /// What was asked.
    pub asked: Asked,
    /// The instance; for a policy the service with an empty id is not possible, so `None`.
    pub instance: Option<InstanceName>,
    /// Its compare-and-set.
    pub expected: Option<u64>,
    /// The generation that it names: it may end no other one. 0 = any.
    pub generation: u64,
    /// It registers something with a lease that nobody renews.
    pub leased: bool,
    /// When it was sent, simulated time.
    pub start: Duration,
    /// When the answer was here.
    pub end: Option<Duration>,
    /// What it came to.
    pub outcome: Outcome,
}

impl Write {
    /// What stands in the evidence of the event that this write makes.
    pub fn marker(&self) -> String {
        match self.asked {
            Asked::Register => format!("{}:{PORT}", address_of(self.id)),
            Asked::Deregister | Asked::Admin | Asked::Policy => format!("op {}", self.id),
        }
    }
}

/// Port of the instances that writers register.
pub const PORT: u32 = 80;

/// Address of the instance that a write registers: its number.
pub fn address_of(id: u32) -> String {
    let [_, a, b, c] = id.to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

/// The number of the write that registered an instance at this address.
pub fn registered_by(address: &str) -> Option<u32> {
    let [_, a, b, c] = address.parse::<Ipv4Addr>().ok()?.octets();
    Some(u32::from_be_bytes([0, a, b, c]))
}

/// How fresh a read had to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever there is.
    Stale,
    /// At most so old.
    Bounded(Duration),
    /// Confirmed.
    Linearizable,
}

/// One answered read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which machine answered.
    pub node: usize,
    /// The service.
    pub service: ServiceName,
    /// What was asked.
    pub freshness: Freshness,
    /// The revision that had to be visible; 0 = none.
    pub min_revision: u64,
    /// Highest revision that any client had been told of when the read (less its bound) began.
    pub floor: u64,
    /// When it began.
    pub start: Duration,
    /// Revision of the answer.
    pub revision: u64,
    /// Service revision of the answer.
    pub service_revision: u64,
    /// Ids and revisions of the instances.
    pub instances: Vec<(String, u64)>,
}

/// A linearizable read, by the writes that it showed.
#[derive(Debug, Clone)]
pub struct Confirmed {
    /// The service.
    pub service: ServiceName,
    /// When it began.
    pub start: Duration,
    /// When the answer was here.
    pub end: Duration,
    /// Ids of the instances, and which write registered each.
    pub shown: Vec<(String, u32)>,
}

/// Last acknowledged sign of life of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When it was handed to the connection: the lease is counted from a later moment.
    pub sent: Duration,
    /// Generation it was for.
    pub generation: u64,
    /// Length of the lease.
    pub ttl: Duration,
}

/// What a bookmark of a watch claims: nothing up to its revision is missing in what is shown.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Which watch.
    pub watch: usize,
    /// Up to here.
    pub revision: u64,
    /// It watches every service, also those that it does not show yet.
    pub all: bool,
    /// What it shows, by revision.
    pub services: BTreeMap<ServiceName, u64>,
}

/// One answer over DNS for the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Which machine answered.
    pub node: usize,
    /// Which boot of it.
    pub boot: u64,
    /// When it was asked for.
    pub sent: Duration,
    /// When the answer was here.
    pub got: Duration,
    /// Response code.
    pub code: u16,
    /// The rounds of its records, in order.
    pub rounds: Vec<u16>,
    /// It says that it is stale.
    pub stale: bool,
}

/// Something a client saw that must never be seen.
pub type Complaint = (&'static str, String);

/// Everything the clients know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every write, by its number less one.
    pub writes: Vec<Write>,
    /// Reads that no invariant has judged yet.
    pub reads: Vec<Read>,
    /// Confirmed reads.
    pub confirmed: Vec<Confirmed>,
    /// Bookmarks that no invariant has judged yet.
    pub marks: Vec<Mark>,
    /// Last acknowledged beats of instances that the library keeps.
    pub beats: BTreeMap<InstanceName, Beat>,
    /// Instances whose owner was told to let go of them, or was killed: when.
    pub left: BTreeMap<InstanceName, Duration>,
    /// A write and a confirmed read were answered after the faults.
    pub served: bool,
    /// Answers over DNS that no invariant has judged yet.
    pub lookups: Vec<Lookup>,
    /// Rounds of the pair that were acknowledged, and when.
    pub rounds: Vec<(Duration, u16)>,
    /// When each machine that stood still last went on.
    pub resumed: BTreeMap<usize, Duration>,
    /// When the probed instance died that is dead now.
    pub died: Option<Duration>,
    /// What the workload saw that must not be.
    pub complaints: Vec<Complaint>,
    /// Events that tails were sent and no invariant has judged yet: `(tail, event)`.
    pub tailed: Vec<(usize, v1::Event)>,
    /// Highest acknowledged revision by the time at which it was known.
    told: Vec<(Duration, u64)>,
}

/// Shared by all clients of a run and the invariants. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    ledger: Arc<Mutex<Ledger>>,
    /// Rare states that were reached.
    pub points: Points,
}

/// Simulated time as the clients' hosts see it.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Oracle {
    /// What is known.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write is about to be sent.
    pub fn begin(
        &self,
        asked: Asked,
        instance: Option<InstanceName>,
        expected: Option<u64>,
    ) -> Write {
        let mut ledger = self.ledger();
        let id = u32::try_from(ledger.writes.len()).unwrap_or(u32::MAX).saturating_add(1);
        let (start, outcome) = (now(), Outcome::Open);
        let (generation, leased, end) = (0, false, None);
        let write =
            Write { id, asked, instance, expected, generation, leased, start, end, outcome };
        ledger.writes.push(write.clone());
        write
    }

    /// Adds to what is known of a write before it is sent.
    pub fn amend(&self, id: u32, more: impl FnOnce(&mut Write)) {
        more(&mut self.ledger().writes[id as usize - 1]);
    }

    /// A write was answered: `Ok` holds its revision and whether it changed anything.
    pub fn end(&self, id: u32, answer: Result<(u64, bool), &Error>) {
        let outcome = match answer {
            Ok((revision, changed)) => Outcome::Acknowledged { revision, changed },
            Err(error) if error.outcome_unknown() => Outcome::Unknown,
            Err(error) => Outcome::Refused { reason: reason_of(error) },
        };
        self.count(&outcome, id);
        let mut ledger = self.ledger();
        if let Outcome::Acknowledged { revision, .. } = outcome {
            ledger.tell(revision);
        }
        let write = &mut ledger.writes[id as usize - 1];
        (write.end, write.outcome) = (Some(now()), outcome);
    }

    fn count(&self, outcome: &Outcome, id: u32) {
        let compared = self.ledger().writes[id as usize - 1].expected.is_some();
        match outcome {
            Outcome::Acknowledged { .. } => {
                self.points.hit("a write was acknowledged");
                if compared {
                    self.points.hit("a compare-and-set succeeded");
                }
            }
            Outcome::Refused { reason } => {
                self.points.hit("a write was refused");
                match reason.as_str() {
                    "REVISION_MISMATCH" => self.points.hit("a compare-and-set lost"),
                    "NO_LEADER" => self.points.hit("a write was refused without a leader"),
                    "DISK_FULL" => self.points.hit("a write was refused for a full disk"),
                    _ => {}
                }
            }
            Outcome::Unknown => self.points.hit("the outcome of a write was unknown"),
            Outcome::Open => {}
        }
    }

    /// A client saw something that must never be seen.
    pub fn complain(&self, invariant: &'static str, seen: String) {
        self.ledger().complaints.push((invariant, seen));
    }
}

impl Ledger {
    /// Somebody was told of this revision.
    pub fn tell(&mut self, revision: u64) {
        let known = self.told.last().map_or(0, |(_, known)| *known);
        if revision > known {
            self.told.push((now(), revision));
        }
    }

    /// Highest revision that anybody had been told of at this time.
    pub fn told_at(&self, time: Duration) -> u64 {
        let until = self.told.partition_point(|(at, _)| *at <= time);
        until.checked_sub(1).map_or(0, |last| self.told[last].1)
    }
}

/// The reason code of an error, or its kind where it has none.
pub fn reason_of(error: &Error) -> String {
    match error {
        Error::Unreachable(unreachable) => {
            let tried = unreachable.tried.iter().find_map(|tried| tried.reason.clone());
            tried.unwrap_or_else(|| "UNREACHABLE".to_owned())
        }
        other => other.reason().unwrap_or("REFUSED").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_from_then_on() {
        let ledger = Ledger {
            told: vec![(Duration::from_secs(1), 5), (Duration::from_secs(3), 9)],
            ..Ledger::default()
        };
        let told = |ms| ledger.told_at(Duration::from_millis(ms));
        assert_eq!((told(999), told(1_000), told(2_999), told(5_000)), (0, 5, 5, 9));
    }

    #[test]
    fn the_address_of_a_write_is_its_number() {
        assert_eq!(address_of(1), "10.0.0.1");
        assert_eq!(address_of(70_000), "10.1.17.112");
        assert_eq!(registered_by("10.1.17.112"), Some(70_000));
    }
}
