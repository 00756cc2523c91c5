//! The lease table with a hand-driven clock, against the real catalogue.

use super::*;
use rollcall_core::{
    Command, Stamped,
    command::{
        ExpireLeases, Expiry, LeaseCheckpoint, PutServicePolicy, Register, Registration,
        SetAdminState,
    },
    instance::{Endpoint, Spec, Transport},
    name::{InstanceName, Label},
    record::{Actor, AdminState},
};
use std::sync::atomic::AtomicU64;

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Default)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

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

    /// Time passes while the leader looks.
    fn pass(&self, ms: u64) {
        for _ in 0..ms / 100 {
            self.clock.pass(100);
            self.table.time().look(true);
        }
        self.clock.pass(ms % 100);
        self.table.time().look(true);
    }

    /// Time passes while the process stands still.
    fn pause(&self, ms: u64) {
        self.clock.pass(ms);
    }

    fn apply(&mut self, command: Command) {
        let stamped = Stamped { wall_ms: 0, advance_ms: 0, command };
        let applied = self.state.apply(&stamped);
        assert!(applied.outcome.result.is_ok(), "{:?}", applied.outcome);
        self.table.follow(&self.state, &applied.events);
    }

    fn expire(&mut self, generation: u64) {
        let lease = self.state.by_generation(generation).unwrap().lease.unwrap();
        let lease_epoch = lease.epoch;
        let item = Expiry { generation, lease_epoch, overdue: false, evidence: "".into() };
        let actor = Actor::Registry("".into());
        self.apply(Command::ExpireLeases(ExpireLeases { items: vec![item], actor }));
    }

    fn set_admin(&mut self, state: AdminState) {
        self.apply(Command::SetAdminState(SetAdminState {
            name: InstanceName::parse("", "web", "a").unwrap(),
            generation: 0,
            state,
            actor: Actor::Operator("".into()),
            reason: "".into(),
            expire_after: None,
            request_id: None,
            expected_revision: None,
        }));
    }

    /// What the leader's checkpoint task does.
    fn checkpoint(&mut self) -> Vec<Missed> {
        let missed = self.table.checkpoint();
        let items = missed.iter().map(|missed| LeaseCheckpoint {
            generation: missed.generation,
            lease_epoch: missed.lease_epoch,
            remaining_ms: Some(missed.remaining),
        });
        self.apply(Command::CheckpointLeases(items.collect()));
        self.table.named(&missed);
        missed
    }

    fn evictions(&self) -> Vec<u64> {
        let now = self.table.now();
        self.table.book().evictions.due(now, 100, now + 1_000)
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

fn missed(generation: u64, remaining: u32) -> Missed {
    Missed { generation, lease_epoch: 1, remaining }
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
    let (_deciding, decision) = watch::channel(());
    assert_eq!(rig.table.take_overdue(100, &decision).len(), 1);
    assert_eq!(rig.beat(handle).undecided.len(), 1);
    rig.table.undecide(handle, &decision, Duration::ZERO);
    assert!(is_acknowledged(&rig.beat(handle)));
}

#[test]
fn an_expired_lease_is_told_to_register_again() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(3_001);
    let overdue = rig.overdue();
    let item = Expiry {
        generation: handle,
        lease_epoch: overdue[0].lease_epoch,
        overdue: false,
        evidence: "".into(),
    };
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
fn a_take_over_leaves_nothing_of_the_old_generation() {
    let mut rig = Rig::new();
    let old = rig.register("a", 1);
    rig.pass(3_001);
    rig.overdue();
    rig.expire(old);
    rig.table.book().lost.note(old, rig.table.now(), u64::MAX);
    assert_eq!(rig.table.book().evictions.len(), 1);
    let new = rig.register("a", 2);
    assert!(rig.table.book().evictions.is_empty());
    assert!(rig.table.book().lost.is_empty());
    assert!(is_acknowledged(&rig.beat(new)));
}

#[test]
fn a_pause_of_the_process_prolongs_every_lease() {
    let mut rig = Rig::new();
    rig.register("a", 1);
    rig.pause(5_000);
    rig.table.time().look(true);
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
    assert_eq!(rig.table.checkpoint(), [missed(handle, 1_501)]);
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
    rig.pass(1_000);
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
    rig.set_admin(AdminState::Maintenance);
    rig.pass(10_000);
    rig.set_admin(AdminState::Enabled);
    rig.pass(2_999);
    assert_eq!(rig.overdue(), []);
    rig.pass(2);
    assert_eq!(rig.overdue().len(), 1);
}

#[test]
fn a_beat_after_maintenance_still_needs_the_clear_of_a_checkpoint_in_it() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.set_admin(AdminState::Maintenance);
    rig.pass(2_000);
    assert_eq!(rig.checkpoint().len(), 1);
    rig.set_admin(AdminState::Enabled);
    assert_eq!(rig.beat(handle).clear, [handle]);
}

#[test]
fn a_checkpoint_that_is_not_committed_yet_outlives_the_end_of_maintenance() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.set_admin(AdminState::Maintenance);
    rig.pass(2_000);
    assert_eq!(rig.table.checkpoint().len(), 1);
    rig.set_admin(AdminState::Enabled);
    assert_eq!(rig.beat(handle).clear, [handle]);
}

#[test]
fn an_undecided_expiry_outlives_the_end_of_maintenance() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.set_admin(AdminState::Maintenance);
    rig.pass(3_001);
    let (_deciding, decision) = watch::channel(());
    assert_eq!(rig.table.take_overdue(100, &decision).len(), 1);
    rig.set_admin(AdminState::Enabled);
    assert_eq!(rig.beat(handle).undecided.len(), 1);
}

#[test]
fn a_beat_that_comes_before_a_pause_is_noticed_is_not_given_the_pause_on_top() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pause(5_000);
    assert!(is_acknowledged(&rig.beat(handle)));
    rig.table.time().look(true);
    rig.pass(3_001);
    assert_eq!(rig.overdue().len(), 1);
}

#[test]
fn a_lease_is_named_to_the_next_leader_once_until_it_beats() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(1_500);
    assert_eq!(rig.checkpoint(), [missed(handle, 1_501)]);
    rig.pass(500);
    assert_eq!(rig.checkpoint(), []);
    rig.beat(handle);
    rig.table.cleared(&rig.table.marks(&[handle]));
    rig.pass(1_500);
    assert_eq!(rig.checkpoint(), [missed(handle, 1_501)]);
}

#[test]
fn a_checkpoint_that_was_lost_is_made_again() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(1_500);
    assert_eq!(rig.table.checkpoint(), [missed(handle, 1_501)]);
    rig.pass(500);
    assert_eq!(rig.table.checkpoint(), [missed(handle, 1_001)]);
}

#[test]
fn in_an_interrupted_reign_every_beat_waits_for_checkpoints_of_its_first_half() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(1_500);
    // Proposed, and in the log only after the leases are loaded again.
    assert_eq!(rig.table.checkpoint().len(), 1);
    rig.table.deactivate();
    let state = rig.state.clone();
    rig.table.activate(1, || state);
    assert_eq!(rig.beat(handle).clear, [handle]);
}

#[test]
fn many_owners_at_once_leave_no_lease_behind() {
    let mut rig = Rig::new();
    let first = rig.register("a", 1);
    let term = rig.table.book().term;
    // Ten take-overs in one batch: the history of the instance does not reach back to the first owner.
    rig.table.book().term = 0;
    let before = rig.state.revision();
    let last = (2..12).map(|nonce| rig.register("a", nonce)).last().unwrap();
    rig.table.book().term = term;
    let events: Vec<_> = rig.state.events_after(before).unwrap().cloned().collect();
    rig.table.follow(&rig.state, &events);
    assert_eq!(rig.beat(first).fenced, [(first, Fence::Superseded)]);
    assert!(is_acknowledged(&rig.beat(last)));
    assert_eq!(rig.table.len(), 1);
}

#[test]
fn an_expiry_of_something_that_is_gone_leaves_no_lease_behind() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(3_001);
    let (_deciding, decision) = watch::channel(());
    assert_eq!(rig.table.take_overdue(100, &decision).len(), 1);
    rig.table.reconcile(&State::new(10), handle, &decision, Duration::ZERO);
    assert!(rig.table.is_empty());
}

#[test]
fn an_old_decision_does_not_end_the_wait_for_a_newer_one() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.pass(3_001);
    let (_old, old) = watch::channel(());
    assert_eq!(rig.table.take_overdue(100, &old).len(), 1);
    rig.table.undecide(handle, &old, Duration::ZERO);
    let (_new, new) = watch::channel(());
    assert_eq!(rig.table.take_overdue(100, &new).len(), 1);
    rig.table.undecide(handle, &old, Duration::ZERO);
    assert_eq!(rig.beat(handle).undecided.len(), 1);
}

#[test]
fn an_instance_that_expires_again_waits_its_whole_time_for_its_removal_again() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.expire(handle);
    rig.pass(20_000);
    // Registered again by the same owner, and silent again.
    assert_eq!(rig.register("a", 1), handle);
    rig.expire(handle);
    rig.pass(29_900);
    assert!(rig.evictions().is_empty());
    rig.pass(100);
    assert_eq!(rig.evictions(), [handle]);
}

#[test]
fn a_policy_changes_the_wait_of_what_is_expired_already() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.expire(handle);
    rig.pass(2_000);
    assert!(rig.evictions().is_empty());
    let policy = rollcall_core::policy::Policy {
        evict_after: Some(Duration::from_secs(1)),
        ..Default::default()
    };
    rig.apply(Command::PutServicePolicy(PutServicePolicy {
        service: rollcall_core::name::ServiceName::parse("", "web").unwrap(),
        policy,
        actor: Actor::Operator("".into()),
        request_id: None,
    }));
    assert_eq!(rig.evictions(), [handle]);
}

#[test]
fn what_changes_on_an_expired_instance_does_not_delay_its_removal() {
    let mut rig = Rig::new();
    let handle = rig.register("a", 1);
    rig.expire(handle);
    rig.pass(29_900);
    rig.set_admin(AdminState::Draining);
    rig.pass(100);
    assert_eq!(rig.evictions(), [handle]);
}
