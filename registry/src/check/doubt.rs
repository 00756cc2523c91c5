//! Self-doubt: where most targets fail at once, the fault is more likely on the side of the checker. It then holds
//! back what it thinks of them until another checker sees the same, all others doubt as well, or nobody answers for two
//! intervals. What another checker sees alive stays held: docs/decisions/009.

use super::{
    Checks,
    book::Key,
    now::{How, WAIT_MAX, Wanted},
    peer::{ANSWER, ITEMS_MAX, request_out},
};
use rollcall_core::{check::Verdict, command::Finding};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Fewer targets that fail at once are no reason to doubt.
const FAILING_MIN: usize = 3;
/// How often what is held is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often another checker is asked, in ticks.
const ASK_TICKS: u32 = 4;
/// Checks that it is asked about at a time, those first that were not asked about for longest. If it sees all of so
/// many fail, it is believed about the rest.
const SAMPLE: usize = ITEMS_MAX;
/// Timeout of its probes, all of which run at once.
const CONFIRM: Duration = Duration::from_secs(2);
/// How it shall probe.
const HOW: How = How { rounds: 1, gap: Duration::ZERO, timeout: CONFIRM };
/// Where no other checker has answered for so many intervals of a check, its verdict is told all the same.
const INTERVALS: u32 = 2;
/// A node that doubted so long ago may not do so any more.
const DOUBT_AGE: Duration = Duration::from_secs(5);

/// What is held back. At most one entry for each check of this node.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    held: BTreeMap<Key, Held>,
    /// What may be told in spite of the doubt.
    free: BTreeSet<Key>,
    /// When other checkers said that they doubt too, ms.
    others: BTreeMap<u64, u64>,
    /// When another checker answered that does not doubt, ms; 0 = none did.
    heard: u64,
    /// When this node was last seen to doubt, ms; `None` = never.
    doubted: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    since: u64,
    /// When another checker was asked last, ms; 0 = not yet.
    asked: u64,
    /// Another checker saw it alive.
    is_refuted: bool,
}

impl Doubts {
    /// Whether this may be told; it is held otherwise. Only failures are doubtful: while the checker doubts itself, for
    /// two intervals after that, since they may stand on probes that began or failed meanwhile, and where it was held
    /// since.
    pub(super) fn may_tell(
        &mut self,
        (key, interval): (&Key, Option<Duration>),
        finding: &Finding,
        (doubts, now): (bool, u64),
    ) -> bool {
        if doubts {
            self.doubted = Some(now);
        }
        let doubtful = self.doubted.is_some_and(|at| !is_over(at, now, interval));
        let is_free = self.free.remove(key) || !(doubtful || self.held.contains_key(key));
        if finding.opinion.verdict != Verdict::Failing || is_free {
            self.held.remove(key);
            return true;
        }
        self.held.entry(key.clone()).or_insert(Held { since: now, asked: 0, is_refuted: false });
        false
    }

    /// Lets these go.
    fn release(&mut self, keys: Vec<Key>) -> Vec<Key> {
        for key in &keys {
            self.held.remove(key);
            self.free.insert(key.clone());
        }
        keys
    }

    /// The doubt is over: what another checker saw alive, or what passes again, is forgotten; what was held for two
    /// intervals since then may go. The rest fails since so short a time that its last probe may be of the time of the doubt: it
    /// waits for one of these, or for the word of another checker.
    fn end(
        &mut self,
        now: u64,
        passes: impl Fn(&Key) -> bool,
        interval: impl Fn(&Key) -> Option<Duration>,
    ) -> (Vec<Key>, Vec<Key>) {
        let (mut wrong, mut right) = (Vec::new(), Vec::new());
        let doubted = self.doubted.unwrap_or_default();
        self.held.retain(|key, held| {
            let into = if held.is_refuted || passes(key) {
                &mut wrong
            } else if is_over(held.since.max(doubted), now, interval(key)) {
                &mut right
            } else {
                return true;
            };
            into.push(key.clone());
            false
        });
        (wrong, self.release(right))
    }

    fn release_all(&mut self) -> Vec<Key> {
        let all = self.held.keys().cloned().collect();
        self.release(all)
    }

    /// What nobody could be asked about for its time. While another checker answers, each waits for its turn: whoever is
    /// cut off itself would else strike off what it did not get to ask about.
    fn waited(&self, now: u64, interval: impl Fn(&Key) -> Option<Duration>) -> Vec<Key> {
        let has_waited = |(key, held): &(&Key, &Held)| {
            !held.is_refuted && is_over(held.since.max(self.heard), now, interval(key))
        };
        self.held.iter().filter(has_waited).map(|(key, _)| key.clone()).collect()
    }

    /// Up to [`SAMPLE`] of what is held, and marks them as asked about.
    fn sample(&mut self, now: u64) -> Vec<Key> {
        let mut turns: Vec<_> = self.held.iter().map(|(key, held)| (held.asked, key)).collect();
        turns.sort_unstable();
        let sample: Vec<Key> = turns.into_iter().take(SAMPLE).map(|(_, key)| key.clone()).collect();
        for key in &sample {
            if let Some(held) = self.held.get_mut(key) {
                held.asked = now;
            }
        }
        sample
    }

    /// Takes what another checker saw of a sample: failed, or alive; `None` = it could not tell. Returns what may go.
    fn heard(&mut self, sample: &[Key], failed: &[Option<bool>], now: u64) -> Vec<Key> {
        self.heard = now;
        // Of fewer, none was left out: what is held and not among them was not held yet when it was asked.
        if sample.len() == SAMPLE && failed.iter().all(|failed| *failed == Some(true)) {
            return self.release_all();
        }
        let mut confirmed = Vec::new();
        for (key, failed) in sample.iter().zip(failed) {
            match failed {
                Some(true) => confirmed.push(key.clone()),
                Some(false) => {
                    if let Some(held) = self.held.get_mut(key) {
                        held.is_refuted = true;
                    }
                }
                None => {}
            }
        }
        self.release(confirmed)
    }
}

/// Whether two intervals have passed.
fn is_over(since: u64, now: u64, interval: Option<Duration>) -> bool {
    let wait = interval.unwrap_or_default() * INTERVALS;
    u128::from(now.saturating_sub(since)) >= wait.as_millis()
}

/// Looks after what is held, until the node stops.
pub(super) async fn run(checks: Checks) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ticks, mut turn) = (0_u32, 0_usize);
    let mut told = false;
    loop {
        tick.tick().await;
        let doubts = checks.doubts_itself();
        let left = checks.look_after(doubts);
        if doubts != told {
            told = doubts;
            match doubts {
                true => tracing::warn!("most targets fail at once: verdicts are held back"),
                false => tracing::info!("this node trusts its probes again"),
            }
        }
        checks.0.stats.doubts.store(u64::from(doubts), Ordering::Relaxed);
        checks.0.stats.held.store(left as u64, Ordering::Relaxed);
        ticks = ticks.wrapping_add(1);
        if left > 0 && ticks.is_multiple_of(ASK_TICKS) {
            turn = turn.wrapping_add(1);
            checks.ask_another(turn).await;
        }
    }
}

impl Checks {
    pub(super) fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.0.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether most of what passes by the catalogue fails here. A single checker has nobody to ask and never doubts.
    pub(super) fn doubts_itself(&self) -> bool {
        if self.other_checkers().is_empty() {
            return false;
        }
        let (passing, failing) = self.book().failing_at_once();
        failing >= FAILING_MIN && failing * 2 > passing
    }

    /// The checkers but for this node, in order.
    pub(super) fn other_checkers(&self) -> Vec<u64> {
        let seen = self.0.view.load();
        let nodes = seen.state.checkers().nodes().iter().copied();
        nodes.filter(|node| *node != self.0.node).collect()
    }

    /// Lets go what needs no confirmation any more; returns how much is left.
    fn look_after(&self, doubts: bool) -> usize {
        let others = self.other_checkers();
        let (mut book, mut held, now) = (self.book(), self.doubts(), self.now());
        held.held.retain(|key, _| {
            book.finding(key).is_some_and(|found| found.opinion.verdict == Verdict::Failing)
        });
        held.free.retain(|key| book.finding(key).is_some());
        let age = u64::try_from(DOUBT_AGE.as_millis()).unwrap_or(u64::MAX);
        held.others.retain(|id, at| others.contains(id) && now.saturating_sub(*at) < age);
        if doubts {
            held.doubted = Some(now);
        }
        let free = if !doubts {
            let passes = |key: &Key| book.has_just_passed(key);
            let (wrong, right) = held.end(now, passes, |key| book.interval(key));
            wrong.iter().for_each(|key| book.forget(key, now));
            right
        } else if held.others.len() == others.len() {
            held.release_all()
        } else {
            let waited = held.waited(now, |key| book.interval(key));
            held.release(waited)
        };
        let left = held.held.len();
        drop((book, held));
        self.0.findings.add(free);
        left
    }

    /// Asks one of the other checkers whether it sees the same.
    async fn ask_another(&self, turn: usize) {
        let others = self.other_checkers();
        let Some(other) = others.get(turn % others.len().max(1)).copied() else { return };
        let sample = self.doubts().sample(self.now());
        let patience = ANSWER + WAIT_MAX + WAIT_MAX + CONFIRM;
        let answer = timeout(patience, self.confirm(other, &sample)).await;
        let (failed, other_doubts) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => {
                tracing::debug!(%status, other = format!("{other:016x}"), "ask another checker");
                return;
            }
            Err(_) => return,
        };
        let now = self.now();
        let mut held = self.doubts();
        let free = if other_doubts {
            held.others.insert(other, now);
            Vec::new()
        } else {
            held.others.remove(&other);
            held.heard(&sample, &failed, now)
        };
        drop(held);
        self.0.findings.add(free);
    }

    /// What `other` sees of these checks, and whether it doubts itself.
    async fn confirm(
        &self,
        other: u64,
        sample: &[Key],
    ) -> Result<(Vec<Option<bool>>, bool), tonic::Status> {
        let gone = || tonic::Status::unavailable("it is no member any more");
        let mut client = self.peer(other).ok_or_else(gone)?;
        let wanted = sample
            .iter()
            .map(|(generation, check)| Wanted { generation: *generation, check: check.clone() });
        let wanted: Vec<Wanted> = wanted.collect();
        let request = request_out(&wanted, HOW);
        let mut answers = client.probe_now(request).await?.into_inner();
        let mut failed = vec![None; sample.len()];
        let mut doubts = false;
        while let Some(answer) = answers.message().await? {
            doubts |= answer.doubts;
            for result in answer.results.iter().filter(|result| result.probed) {
                let place = usize::try_from(result.item).ok();
                if let Some(place) = place.and_then(|place| failed.get_mut(place)) {
                    *place = Some(!result.failure.is_empty());
                }
            }
        }
        Ok((failed, doubts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_core::{check::Opinion, name::Label};

    fn key(generation: u64) -> Key {
        (generation, Label::parse("check_id", "tcp").unwrap())
    }

    fn finding(verdict: Verdict) -> Finding {
        let (generation, check) = key(1);
        let opinion = Opinion { verdict, ..Opinion::PASSING };
        Finding { generation, basis: 1, check, opinion, evidence: "".into() }
    }

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    /// Whether it may be told that a check with an interval of a second fails.
    fn fails(doubts: &mut Doubts, generation: u64, at: (bool, u64)) -> bool {
        doubts.may_tell((&key(generation), SECOND), &finding(Verdict::Failing), at)
    }

    fn holding(count: u64) -> Doubts {
        let mut doubts = Doubts::default();
        for generation in 1..=count {
            assert!(!fails(&mut doubts, generation, (true, 1_000)));
        }
        doubts
    }

    #[test]
    fn what_passes_is_never_held() {
        let mut doubts = holding(1);
        let passing = finding(Verdict::Passing);
        assert!(doubts.may_tell((&key(1), SECOND), &passing, (true, 2_000)));
        assert!(doubts.held.is_empty());
    }

    #[test]
    fn what_another_sees_dead_goes_and_what_it_sees_alive_stays() {
        let mut doubts = holding(3);
        let sample = [key(1), key(2), key(3)];
        let free = doubts.heard(&sample, &[Some(true), Some(false), None], 1_000);
        assert_eq!(free, [key(1)]);
        assert!(fails(&mut doubts, 1, (true, 1_000)), "once");
        assert!(!fails(&mut doubts, 1, (true, 1_000)));
        let waited = doubts.waited(60_000, |_| Some(Duration::from_secs(10)));
        assert_eq!(waited, [key(1), key(3)], "the one that was seen alive does not run out");
    }

    #[test]
    fn a_sample_that_is_dead_altogether_speaks_for_all() {
        let mut doubts = holding(100);
        let sample = doubts.sample(2_000);
        assert_eq!(sample.len(), SAMPLE);
        assert_eq!(doubts.heard(&sample, &[Some(true); SAMPLE], 2_000).len(), 100);
    }

    #[test]
    fn the_death_of_a_few_says_nothing_of_what_was_held_after_they_were_asked_about() {
        let mut doubts = holding(1);
        let sample = doubts.sample(1_000);
        assert!(!fails(&mut doubts, 2, (true, 1_500)));
        assert_eq!(doubts.heard(&sample, &[Some(true)], 2_000), [key(1)]);
        assert!(!fails(&mut doubts, 2, (true, 2_000)));
    }

    #[test]
    fn everything_held_has_its_turn_and_waits_for_it_while_another_answers() {
        let mut doubts = holding(100);
        let interval = |_: &Key| Some(Duration::from_secs(1));
        let first = doubts.sample(2_000);
        assert_eq!(doubts.heard(&first, &[Some(false); SAMPLE], 2_500), []);
        assert_eq!(doubts.waited(4_499, interval), [], "36 were not asked about yet");
        let second = doubts.sample(3_000);
        assert!((65..=100).all(|at| second.contains(&key(at))));
        assert_eq!(
            doubts.waited(4_500, interval).len(),
            36,
            "nobody has answered for two intervals"
        );
    }

    #[test]
    fn at_the_end_only_what_fails_by_every_word_goes_and_not_before_two_intervals() {
        let mut doubts = holding(3);
        doubts.heard(&[key(1)], &[Some(false)], 1_000);
        let (passes, interval) = (|of: &Key| *of == key(2), |_: &Key| Some(Duration::from_secs(1)));
        let (wrong, right) = doubts.end(2_999, passes, interval);
        assert_eq!((wrong, right), (vec![key(1), key(2)], vec![]));
        assert!(!fails(&mut doubts, 3, (false, 2_999)), "it is still held");
        assert_eq!(doubts.end(3_000, passes, interval), (vec![], vec![key(3)]));
        assert!(doubts.held.is_empty());
        assert!(fails(&mut doubts, 3, (false, 3_000)));
    }

    #[test]
    fn a_doubt_that_comes_and_goes_holds_nothing_longer_than_two_intervals_after_its_last_time() {
        let mut doubts = holding(1);
        let interval = |_: &Key| Some(Duration::from_secs(1));
        // The looks at what is held have seen it all the time.
        doubts.doubted = Some(4_000);
        assert_eq!(doubts.end(5_999, |_| false, interval), (vec![], vec![]));
        assert_eq!(doubts.end(6_000, |_| false, interval), (vec![], vec![key(1)]));
        assert!(fails(&mut doubts, 1, (true, 6_001)), "what was let go is not held anew");
    }

    #[test]
    fn what_fails_right_after_a_doubt_is_held_for_it_may_stand_on_probes_of_its_time() {
        let mut doubts = Doubts::default();
        assert!(fails(&mut doubts, 1, (false, 500)), "there was no doubt yet");
        assert!(!fails(&mut doubts, 2, (true, 1_000)));
        assert!(!fails(&mut doubts, 3, (false, 2_999)), "the doubt was there two intervals ago");
        assert!(fails(&mut doubts, 4, (false, 3_000)));
        assert_eq!(
            doubts.held.keys().map(|(generation, _)| *generation).collect::<Vec<_>>(),
            [2, 3]
        );
    }

    #[test]
    fn what_nobody_speaks_about_goes_after_two_intervals() {
        let doubts = holding(2);
        let interval = |key: &Key| Some(Duration::from_secs(key.0));
        assert_eq!(doubts.waited(2_999, interval), []);
        assert_eq!(doubts.waited(3_000, interval), [key(1)]);
        assert_eq!(doubts.waited(5_000, interval), [key(1), key(2)]);
        assert_eq!(Doubts::default().sample(7), Vec::<Key>::new());
    }
}
