//! Which nodes probe: the leader watches whom it hears, and names the set to the whole cluster. A node leaves it when
//! it was silent for 3 s and returns when it was heard for 10 s without a gap. A new member has not left anything: it
//! comes in after 1 s.

use super::{CheckStats, Checks};
use rollcall_core::{Command, command::SetCheckers};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// How often the leader looks.
const TICK: Duration = Duration::from_millis(100);
/// How often a node looks where the members and its own interfaces are.
const PORTS_TICKS: u32 = 10;
/// A longer silence is a gap.
const GAP: Duration = Duration::from_secs(1);
/// A proposal is given up after this, and made again where it is still needed.
const DEADLINE: Duration = Duration::from_secs(2);

/// What a leader knows of the others, by its own clock.
#[derive(Debug, Default)]
struct Watch {
    /// Since when it leads, and in which term.
    term: u64,
    /// It has looked before: whoever is a member since has become one in this reign.
    looked: bool,
    heard: BTreeMap<u64, Heard>,
}

/// When a node was heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    last: Duration,
    /// Beginning of the time without a gap.
    since: Duration,
    /// It became a member in this reign, and was never in the set since.
    is_new: bool,
}

impl Watch {
    /// The set as it should be. `ages` = how long ago each member was heard, where it was.
    fn decide(
        &mut self,
        me: u64,
        ages: &BTreeMap<u64, Option<Duration>>,
        current: &[u64],
        now: Duration,
        (leave_after, return_after): (Duration, Duration),
    ) -> Vec<u64> {
        self.heard.retain(|id, _| ages.contains_key(id));
        let mut set = BTreeSet::from([me]);
        for (id, age) in ages.iter().filter(|(id, _)| **id != me) {
            let last = age.map(|age| now.saturating_sub(age));
            // Whom this leader has not heard yet may be there: its silence counts from now.
            let is_new = self.looked;
            let begun = Heard { last: last.unwrap_or(now), since: now, is_new };
            let heard = self.heard.entry(*id).or_insert(begun);
            if let Some(last) = last {
                heard.last = heard.last.max(last);
            }
            let silent = now.saturating_sub(heard.last);
            if silent > GAP || last.is_none() {
                heard.since = now;
            }
            let stays = if current.contains(id) {
                heard.is_new = false;
                silent < leave_after
            } else {
                let first = current.is_empty() && age.is_some_and(|age| age < GAP);
                let steady = if heard.is_new { GAP.min(return_after) } else { return_after };
                first || now.saturating_sub(heard.since) >= steady
            };
            if stays {
                set.insert(*id);
            }
        }
        self.looked = true;
        set.into_iter().collect()
    }
}

/// Keeps the set as long as this node leads, and the ports of the members current on every node.
pub(super) async fn run(checks: Checks) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut watch, mut ticks) = (Watch::default(), 0_u32);
    loop {
        if ticks.is_multiple_of(PORTS_TICKS) {
            checks.learn_ports();
        }
        ticks = ticks.wrapping_add(1);
        tick.tick().await;
        let reign = checks.0.leadership.borrow().reign;
        match reign {
            Some(reign) => checks.look_around(&mut watch, reign.term).await,
            None => watch = Watch::default(),
        }
    }
}

impl Checks {
    fn learn_ports(&self) {
        let machine = self.0.host.net.addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "list the addresses of this machine");
            Vec::new()
        });
        self.0.egress.know_machine(machine);
        self.0.egress.know(&self.0.replica.members());
    }

    async fn look_around(&self, watch: &mut Watch, term: u64) {
        if watch.term != term {
            *watch = Watch { term, ..Watch::default() };
        }
        let replica = &self.0.replica;
        let ages: BTreeMap<u64, Option<Duration>> = replica
            .status()
            .members
            .iter()
            .map(|(id, member)| (*id, member.last_contact.or_else(|| replica.contact_age(*id))))
            .collect();
        if !ages.contains_key(&self.0.node) {
            return;
        }
        let now = self.0.host.clock.monotonic();
        let (epoch, current) = {
            let seen = self.0.view.load();
            let checkers = seen.state.checkers();
            (checkers.epoch(), checkers.nodes().to_vec())
        };
        let settings = &self.0.settings;
        let times = (settings.leave_after, settings.return_after);
        let nodes = watch.decide(self.0.node, &ages, &current, now, times);
        if nodes == current {
            return;
        }
        tracing::info!(?current, ?nodes, "the set of checkers changes");
        CheckStats::add(&self.0.stats.changes, 1);
        let set = SetCheckers { epoch: epoch + 1, nodes, actor: self.actor() };
        let proposed = replica.propose_in_term(term, Command::SetCheckers(set), DEADLINE).await;
        if let Err(error) = proposed {
            tracing::debug!(%error, "the set of checkers was not committed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));

    /// A leader 1 with members 2 and 3, of which 3 is heard when it should be.
    struct Rig {
        watch: Watch,
        current: Vec<u64>,
        now: Duration,
        /// When 3 was heard last.
        last: Option<Duration>,
        members: Vec<u64>,
    }

    impl Rig {
        fn new(current: &[u64]) -> Self {
            let now = Duration::from_secs(100);
            let (watch, current, last) = (Watch::default(), current.to_vec(), Some(now));
            Self { watch, current, now, last, members: vec![1, 2, 3] }
        }

        /// Lets time pass; returns when the set changes first, in ms.
        fn pass(&mut self, ms: u64, heard: bool) -> Option<u64> {
            for passed in (100..=ms).step_by(100) {
                self.now += Duration::from_millis(100);
                if heard {
                    self.last = Some(self.now);
                }
                let age = self.last.map(|last| self.now - last);
                let mut ages = BTreeMap::from([(1, None), (2, Some(Duration::ZERO)), (3, age)]);
                ages.retain(|id, _| self.members.contains(id));
                let set = self.watch.decide(1, &ages, &self.current, self.now, TIMES);
                if set != self.current {
                    self.current = set;
                    return Some(passed);
                }
            }
            None
        }
    }

    #[test]
    fn a_silent_node_leaves_after_three_seconds() {
        let mut rig = Rig::new(&[1, 2, 3]);
        assert_eq!(rig.pass(60_000, true), None);
        assert_eq!(rig.pass(60_000, false), Some(3_000));
        assert_eq!(rig.current, [1, 2]);
    }

    #[test]
    fn a_node_returns_after_ten_seconds_without_a_gap() {
        let mut rig = Rig::new(&[1, 2]);
        assert_eq!(rig.pass(9_000, true), None);
        assert_eq!(rig.pass(1_500, false), None);
        assert_eq!(rig.pass(9_900, true), None);
        assert!(rig.pass(300, true).is_some());
        assert_eq!(rig.current, [1, 2, 3]);
    }

    #[test]
    fn the_first_set_takes_everybody_who_is_there() {
        let mut rig = Rig::new(&[]);
        rig.last = None;
        assert_eq!(rig.pass(100, false), Some(100));
        assert_eq!(rig.current, [1, 2]);
    }

    #[test]
    fn a_new_member_comes_in_after_a_second() {
        // A node that made its cluster by itself, and named itself at once.
        let mut rig = Rig::new(&[]);
        rig.members = vec![1];
        assert_eq!((rig.pass(100, true), rig.current.clone()), (Some(100), vec![1]));
        assert_eq!(rig.pass(5_000, true), None);
        rig.members = vec![1, 2, 3];
        assert_eq!(rig.pass(5_000, true), Some(1_100));
        assert_eq!(rig.current, [1, 2, 3]);
        // Who has left waits its whole time, until it is made a member anew.
        assert_eq!(rig.pass(5_000, false), Some(3_000));
        assert_eq!(rig.pass(9_900, true), None);
        rig.members = vec![1, 2];
        assert_eq!(rig.pass(100, true), None);
        rig.members = vec![1, 2, 3];
        assert_eq!(rig.pass(5_000, true), Some(1_100));
    }

    #[test]
    fn a_new_member_comes_in_when_it_is_heard_and_not_before() {
        let mut rig = Rig::new(&[1, 2]);
        rig.members = vec![1, 2];
        assert_eq!(rig.pass(1_000, true), None);
        (rig.members, rig.last) = (vec![1, 2, 3], None);
        assert_eq!(rig.pass(20_000, false), None);
        assert_eq!(rig.pass(20_000, true), Some(1_000));
        assert_eq!(rig.current, [1, 2, 3]);
    }

    #[test]
    fn silence_counts_from_the_last_word_even_if_another_leader_heard_it() {
        // The former leader died two seconds before this one was elected; the follower heard it last then.
        let mut rig = Rig::new(&[1, 2, 3]);
        rig.now += Duration::from_secs(2);
        assert_eq!(rig.pass(60_000, false), Some(1_000));
    }

    #[test]
    fn whom_a_new_leader_has_not_heard_yet_is_not_gone() {
        let mut rig = Rig::new(&[1, 2, 3]);
        rig.last = None;
        assert_eq!(rig.pass(2_900, false), None);
        assert_eq!(rig.pass(60_000, true), None);
    }
}
