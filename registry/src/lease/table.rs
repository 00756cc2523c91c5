//! The leader's memory of leases: deadlines on a monotonic clock, renewed by the arrival time of a beat.
//!
//! A renewal is one look-up in a sharded map and one store: no log entry, no disk, no lock shared with other work.
//! What is due when is kept apart, in [`Book`], and looked at again only when it may be due.

use crate::clock::Clock;
use dashmap::DashMap;
use rollcall_core::{
    State,
    instance::{Spec, Ttl},
    lease::{Deadlines, grant, missed_a_beat},
    record::{AdminState, Event, LeaseState, Reason, Record, Subject},
    state::Retired,
};
use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Shards of the map: fixed, so that its behaviour does not depend on the machine.
const SHARDS: usize = 64;

/// Spreads handles, which are consecutive numbers, over the shards. Fixed, so that runs can be repeated.
#[derive(Debug, Default, Clone, Copy)]
pub struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, handle: u64) {
        self.0 = (self.0.rotate_left(5) ^ handle).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Ends when the expiry that was proposed for a lease is decided.
pub type Decision = watch::Receiver<()>;

#[derive(Debug)]
struct Entry {
    /// Lease time at which it runs out, ms.
    deadline: u64,
    /// Lease time of the last beat, or of what granted the lease, ms.
    beat: u64,
    ttl: Ttl,
    epoch: u32,
    /// Set while an expiry is proposed and undecided: beats wait for it.
    deciding: Option<Decision>,
    /// Counts the checkpoints that named it since it last beat; 0 = none. A beat is then acknowledged only after a
    /// committed clear, because a new leader would else grant less than the acknowledgement promised.
    marked: u32,
    /// Lease time of the last checkpoint that named it, ms.
    marked_at: u64,
}

/// What becomes of the beats of one message.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Unknown or run out: the owner must register again.
    pub reregister: Vec<u64>,
    /// A newer owner, or a removal, stands against it.
    pub fenced: Vec<(u64, Fence)>,
    /// Named in a checkpoint: acknowledge after a committed clear.
    pub clear: Vec<u64>,
    /// An expiry is undecided: ask again when it is.
    pub undecided: Vec<(u64, Decision)>,
}

/// Why a handle is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// A newer owner took the id over.
    Superseded,
    /// It was deregistered.
    Deregistered,
}

impl Fence {
    /// What stands against a handle, by the catalogue.
    pub fn of(state: &State, handle: u64) -> Option<Self> {
        match state.retired(handle)? {
            Retired::Superseded(_) => Some(Self::Superseded),
            Retired::Deregistered(_) => Some(Self::Deregistered),
        }
    }
}

/// A lease that may be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Handle.
    pub generation: u64,
    /// Epoch.
    pub lease_epoch: u32,
    /// Time since its last beat.
    pub silent: Duration,
}

/// What is due when. Times are lease time in ms.
#[derive(Debug, Default)]
pub struct Book {
    /// Leases to look at.
    pub deadlines: Deadlines,
    /// Expired instances to evict.
    pub evictions: Deadlines,
    /// Term for which this node leads and has loaded the leases; 0 = it does not lead.
    term: u64,
}

/// The lease table. Inactive, and empty, on every node but the leader.
#[derive(Debug)]
pub struct LeaseTable {
    clock: Arc<dyn Clock>,
    entries: DashMap<u64, Entry, BuildHasherDefault<HandleHasher>>,
    book: Mutex<Book>,
    /// Term for which every lease is loaded; 0 = none. Set last, so that no beat meets a table that is half full.
    active: AtomicU64,
    /// Pauses of this process that are added to every deadline, ms: lease time is monotonic time less this.
    paused: AtomicU64,
}

impl LeaseTable {
    /// An inactive table.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            entries: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), SHARDS),
            book: Mutex::default(),
            active: AtomicU64::new(0),
            paused: AtomicU64::new(0),
        }
    }

    /// Lease time in ms: monotonic time without the pauses of this process.
    pub fn now(&self) -> u64 {
        millis(self.clock.monotonic()).saturating_sub(self.paused.load(Ordering::Acquire))
    }

    /// Adds a pause of this process to every deadline.
    pub fn add_pause(&self, pause: Duration) {
        self.paused.fetch_add(millis(pause), Ordering::AcqRel);
    }

    /// Pauses so far.
    pub fn paused(&self) -> Duration {
        Duration::from_millis(self.paused.load(Ordering::Acquire))
    }

    /// What is due when.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of running leases.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this node leads in this term and the table speaks for the cluster.
    pub fn is_active(&self, term: u64) -> bool {
        term != 0 && self.active.load(Ordering::Acquire) == term
    }

    /// Forgets everything: this node does not lead.
    pub fn deactivate(&self) {
        self.active.store(0, Ordering::Release);
        *self.book() = Book::default();
        self.entries.clear();
    }

    /// Begins a reign: every running lease gets what a new leader grants, counted from now. `load` reads the state
    /// under the lock, so that nothing published meanwhile is missed.
    pub fn activate(&self, term: u64, load: impl FnOnce() -> State) {
        self.active.store(0, Ordering::Release);
        let mut book = self.book();
        self.entries.clear();
        *book = Book { term, ..Book::default() };
        let state = load();
        let now = self.now();
        for (generation, name) in state.generations() {
            let Some(record) = state.instance(name) else { continue };
            let remaining = state.checkpoint(generation);
            self.load_record(&mut book, &state, record, now, remaining);
        }
        self.active.store(term, Ordering::Release);
    }

    fn load_record(
        &self,
        book: &mut Book,
        state: &State,
        record: &Record,
        now: u64,
        remaining: Option<u32>,
    ) {
        let (Some(lease), Some(ttl)) = (record.lease, record.spec.ttl) else { return };
        match lease.state {
            LeaseState::Current => {
                let deadline = now + millis(grant(ttl, remaining)) + 1;
                let entry = Entry {
                    deadline,
                    beat: now,
                    ttl,
                    epoch: lease.epoch,
                    deciding: None,
                    marked: u32::from(remaining.is_some()),
                    marked_at: now,
                };
                self.entries.insert(record.generation, entry);
                book.deadlines.arm(record.generation, deadline);
            }
            LeaseState::Expired => {
                let at = now + millis(evict_after(state, record));
                book.evictions.arm(record.generation, at);
            }
            LeaseState::Held => {}
        }
    }

    /// Follows what was applied. Called for every batch, before its callers are answered, so that a lease stands in
    /// the table before its owner knows of it.
    pub fn follow(&self, state: &State, events: &[Arc<Event>]) {
        let mut book = self.book();
        if book.term == 0 {
            return;
        }
        let now = self.now();
        for event in events {
            let Subject::Instance(name) = &event.subject else { continue };
            if event.reason == Reason::TakenOver
                && let Some(record) = state.instance(name)
            {
                let mut before = record.history.events().iter().rev();
                if let Some(old) = before.find(|e| e.generation < event.generation) {
                    self.entries.remove(&old.generation);
                }
            }
            let grants = matches!(
                event.reason,
                Reason::Registered | Reason::Updated | Reason::TakenOver | Reason::Restored
            ) || event.from.is_some_and(|from| from.admin == AdminState::Maintenance);
            let current = state.by_generation(event.generation);
            let lease = current.and_then(|record| record.lease);
            let runs = lease.is_some_and(|lease| lease.state == LeaseState::Current);
            if !runs {
                self.entries.remove(&event.generation);
            }
            if let Some(record) = current
                && (grants || !runs)
            {
                self.load_record(&mut book, state, record, now, None);
            }
        }
    }

    /// Renews the leases behind `handles` by a beat that arrived at `arrived` (lease time, ms). `fence` tells of a
    /// handle that is not in the table whether something stands against it.
    pub fn renew(
        &self,
        handles: &[u64],
        arrived: u64,
        fence: impl Fn(u64) -> Option<Fence>,
    ) -> Renewal {
        let mut renewal = Renewal::default();
        for handle in handles {
            let Some(mut entry) = self.entries.get_mut(handle) else {
                match fence(*handle) {
                    Some(fence) => renewal.fenced.push((*handle, fence)),
                    None => renewal.reregister.push(*handle),
                }
                continue;
            };
            if let Some(decision) = &entry.deciding {
                renewal.undecided.push((*handle, decision.clone()));
                continue;
            }
            entry.beat = entry.beat.max(arrived);
            entry.deadline = entry.deadline.max(arrived + entry.ttl.millis() + 1);
            if entry.marked > 0 {
                renewal.clear.push(*handle);
            }
        }
        renewal
    }

    /// Takes the leases that are over, at most `max`, and makes their beats wait for `decision`.
    pub fn take_overdue(&self, max: usize, decision: &Decision) -> Vec<Overdue> {
        let mut book = self.book();
        let now = self.now();
        let mut overdue = Vec::new();
        for handle in book.deadlines.due(now, max) {
            let Some(mut entry) = self.entries.get_mut(&handle) else { continue };
            if entry.deciding.is_some() {
                continue;
            }
            if entry.deadline > now {
                book.deadlines.arm(handle, entry.deadline);
                continue;
            }
            entry.deciding = Some(decision.clone());
            overdue.push(Overdue {
                generation: handle,
                lease_epoch: entry.epoch,
                silent: Duration::from_millis(now.saturating_sub(entry.beat)),
            });
        }
        overdue
    }

    /// An expiry came to nothing: the lease goes on and is looked at again after `after`.
    pub fn undecide(&self, generation: u64, after: Duration) {
        let mut book = self.book();
        if let Some(mut entry) = self.entries.get_mut(&generation) {
            entry.deciding = None;
            let at = entry.deadline.max(self.now() + millis(after));
            book.deadlines.arm(generation, at);
        }
    }

    /// Names the leases that have missed a beat and marks them: from here on their beats need a committed clear.
    /// `(handle, epoch, remaining)`, in order of handle.
    pub fn checkpoint(&self) -> Vec<(u64, u32, Duration)> {
        let now = self.now();
        let mut missed = Vec::new();
        for mut entry in self.entries.iter_mut() {
            let remaining = Duration::from_millis(entry.deadline.saturating_sub(now));
            let interval = millis(rollcall_core::lease::checkpoint_interval(entry.ttl));
            let fresh = entry.marked > 0 && now.saturating_sub(entry.marked_at) < interval;
            if entry.deciding.is_none() && !fresh && missed_a_beat(entry.ttl, remaining) {
                entry.marked += 1;
                entry.marked_at = now;
                missed.push((*entry.key(), entry.epoch, remaining));
            }
        }
        missed.sort_unstable();
        missed
    }

    /// How often a lease was marked, and its epoch, before a clear is proposed.
    pub fn marks(&self, handles: &[u64]) -> Vec<(u64, u32, u32)> {
        let marks = handles.iter().filter_map(|handle| {
            let entry = self.entries.get(handle)?;
            Some((*handle, entry.epoch, entry.marked))
        });
        marks.collect()
    }

    /// A clear was committed: unmarks what was not marked again meanwhile.
    pub fn cleared(&self, marks: &[(u64, u32, u32)]) {
        for (handle, epoch, marked) in marks {
            if let Some(mut entry) = self.entries.get_mut(handle)
                && entry.epoch == *epoch
                && entry.marked == *marked
            {
                entry.marked = 0;
            }
        }
    }
}

/// Time from expiry to removal: the instance's own, then the policy's, then 30 s.
pub fn evict_after(state: &State, record: &Record) -> Duration {
    let policy = || state.service(&record.name.service)?.policy.as_ref()?.evict_after;
    record.spec.evict_after.or_else(policy).unwrap_or(Spec::DEFAULT_EVICT_AFTER)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_core::{
        Command, Stamped,
        command::{ExpireLeases, Expiry, LeaseCheckpoint, Register, Registration, SetAdminState},
        instance::{Endpoint, Transport},
        name::{InstanceName, Label},
        record::Actor,
    };
    use std::sync::atomic::AtomicU64;

    /// A clock that stands still until it is told otherwise.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
        fn wall_ms(&self) -> u64 {
            0
        }
    }

    struct Rig {
        clock: Arc<Hand>,
        table: LeaseTable,
        state: State,
    }

    impl Rig {
        /// A leader with an empty catalogue.
        fn new() -> Self {
            let clock = Arc::new(Hand::default());
            let table = LeaseTable::new(clock.clone());
            let state = State::new(1_000);
            table.activate(1, || state.clone());
            Self { clock, table, state }
        }

        fn pass(&self, ms: u64) {
            self.clock.0.fetch_add(ms, Ordering::Relaxed);
        }

        fn apply(&mut self, command: Command) {
            let stamped = Stamped { wall_ms: 0, advance_ms: 0, command };
            let applied = self.state.apply(&stamped);
            assert!(applied.outcome.result.is_ok(), "{:?}", applied.outcome);
            self.table.follow(&self.state, &applied.events);
        }

        /// Registers with a lease of 3 s; returns the handle.
        fn register(&mut self, id: &str, nonce: u128) -> u64 {
            let endpoint = Endpoint {
                name: Label::parse("name", "http").unwrap(),
                address: "127.0.0.1:80".parse().unwrap(),
                transport: Transport::Tcp,
                app_protocol: "".into(),
            };
            let mut spec = Spec::new(vec![endpoint]).unwrap();
            spec.ttl = Some(Ttl::parse(Duration::from_secs(3)).unwrap());
            let name = InstanceName::parse("", "web", id).unwrap();
            let item = Registration {
                name: name.clone(),
                spec: Arc::new(spec),
                nonce,
                held_generation: 0,
                expected_revision: None,
            };
            self.apply(Command::Register(Register {
                items: vec![item],
                actor: Actor::Owner("".into()),
                request_id: None,
                address_limit: true,
            }));
            self.state.instance(&name).unwrap().generation
        }

        fn beat(&self, handle: u64) -> Renewal {
            let fence = |handle| Fence::of(&self.state, handle);
            self.table.renew(&[handle], self.table.now(), fence)
        }

        fn overdue(&self) -> Vec<Overdue> {
            let (decided, decision) = watch::channel(());
            drop(decided);
            self.table.take_overdue(100, &decision)
        }
    }

    fn is_acknowledged(renewal: &Renewal) -> bool {
        renewal.reregister.is_empty()
            && renewal.fenced.is_empty()
            && renewal.clear.is_empty()
            && renewal.undecided.is_empty()
    }

    #[test]
    fn a_lease_is_never_over_before_its_ttl_since_the_last_beat() {
        let mut rig = Rig::new();
        let handle = rig.register("a", 1);
        rig.pass(2_999);
        assert!(is_acknowledged(&rig.beat(handle)));
        rig.pass(3_000);
        assert_eq!(rig.overdue(), []);
        rig.pass(1);
        let overdue = rig.overdue();
        assert_eq!(overdue.len(), 1);
        assert_eq!(overdue[0].silent, Duration::from_millis(3_001));
    }

    #[test]
    fn a_beat_while_an_expiry_is_undecided_waits_for_it() {
        let mut rig = Rig::new();
        let handle = rig.register("a", 1);
        rig.pass(3_001);
        assert_eq!(rig.overdue().len(), 1);
        assert_eq!(rig.beat(handle).undecided.len(), 1);
        rig.table.undecide(handle, Duration::ZERO);
        assert!(is_acknowledged(&rig.beat(handle)));
    }

    #[test]
    fn an_expired_lease_is_told_to_register_again() {
        let mut rig = Rig::new();
        let handle = rig.register("a", 1);
        rig.pass(3_001);
        let overdue = rig.overdue();
        let item =
            Expiry { generation: handle, lease_epoch: overdue[0].lease_epoch, evidence: "".into() };
        let actor = Actor::Registry("".into());
        rig.apply(Command::ExpireLeases(ExpireLeases { items: vec![item], actor }));
        assert_eq!(rig.beat(handle).reregister, [handle]);
        assert!(rig.table.is_empty());
    }

    #[test]
    fn the_beat_of_an_owner_that_was_taken_over_is_fenced() {
        let mut rig = Rig::new();
        let old = rig.register("a", 1);
        let new = rig.register("a", 2);
        assert_eq!(rig.beat(old).fenced, [(old, Fence::Superseded)]);
        assert!(is_acknowledged(&rig.beat(new)));
        assert_eq!(rig.table.len(), 1);
    }

    #[test]
    fn a_pause_of_the_process_prolongs_every_lease() {
        let mut rig = Rig::new();
        rig.register("a", 1);
        rig.pass(5_000);
        rig.table.add_pause(Duration::from_secs(5));
        assert_eq!(rig.overdue(), []);
        rig.pass(3_001);
        assert_eq!(rig.overdue().len(), 1);
    }

    #[test]
    fn a_beat_after_a_checkpoint_needs_a_committed_clear() {
        let mut rig = Rig::new();
        let handle = rig.register("a", 1);
        assert_eq!(rig.table.checkpoint(), []);
        rig.pass(1_500);
        assert_eq!(rig.table.checkpoint(), [(handle, 1, Duration::from_millis(1_501))]);
        assert_eq!(rig.beat(handle).clear, [handle]);
        let marks = rig.table.marks(&[handle]);
        rig.table.cleared(&marks);
        assert!(is_acknowledged(&rig.beat(handle)));
    }

    #[test]
    fn a_clear_that_a_later_checkpoint_overtook_clears_nothing() {
        let mut rig = Rig::new();
        let handle = rig.register("a", 1);
        rig.pass(1_500);
        rig.table.checkpoint();
        let marks = rig.table.marks(&[handle]);
        rig.pass(2_000);
        rig.table.checkpoint();
        rig.table.cleared(&marks);
        assert_eq!(rig.beat(handle).clear, [handle]);
    }

    #[test]
    fn a_new_leader_gives_a_silent_lease_less_than_a_beating_one() {
        let mut rig = Rig::new();
        let silent = rig.register("a", 1);
        rig.register("b", 2);
        rig.apply(Command::CheckpointLeases(vec![LeaseCheckpoint {
            generation: silent,
            lease_epoch: 1,
            remaining_ms: Some(100),
        }]));
        rig.table.deactivate();
        assert!(!rig.table.is_active(1));
        let state = rig.state.clone();
        rig.table.activate(2, || state);
        rig.pass(2_001);
        let overdue = rig.overdue();
        assert_eq!(overdue.iter().map(|o| o.generation).collect::<Vec<_>>(), [silent]);
        rig.pass(1_000);
        assert_eq!(rig.overdue().len(), 1);
    }

    #[test]
    fn the_end_of_maintenance_grants_a_whole_lease() {
        let mut rig = Rig::new();
        rig.register("a", 1);
        let set = |state| {
            Command::SetAdminState(SetAdminState {
                name: InstanceName::parse("", "web", "a").unwrap(),
                generation: 0,
                state,
                actor: Actor::Operator("".into()),
                reason: "".into(),
                expire_after: None,
                request_id: None,
                expected_revision: None,
            })
        };
        rig.apply(set(AdminState::Maintenance));
        rig.pass(10_000);
        rig.apply(set(AdminState::Enabled));
        rig.pass(2_999);
        assert_eq!(rig.overdue(), []);
        rig.pass(2);
        assert_eq!(rig.overdue().len(), 1);
    }
}
