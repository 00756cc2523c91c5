//! The targets of this node: what to probe, when next, what came of it. No I/O, no clock: time is an argument, in
//! milliseconds of the monotonic clock.
//!
//! Regular probes stand on a grid of their own, spread by hash, with 5 % of jitter, so that neither a mass registration
//! nor a late round puts them all at one moment. Cheap for many: one heap, no task for a target.

#[cfg(test)]
mod tests;

use super::{
    pace::Pace,
    probe::{Report, output::printable},
};
use crate::host::Random;
use rollcall_core::{
    State,
    check::{Check, Judge, Opinion, Probed, Verdict},
    command::Finding,
    name::Label,
    record::Record,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use xxhash_rust::xxh3::xxh3_64;

/// Outputs kept of each check.
pub const OUTPUTS_MAX: usize = 5;
/// Above this many bytes in all, outputs are kept short.
const OUTPUT_BYTES_TOTAL: usize = 64 << 20;
/// What short means. It is also the bound of evidence in the journal.
pub(super) const SHORT_BYTES: usize = 256;
/// Jitter of a regular probe, in percent of its interval, either way.
const JITTER_PERCENT: u64 = 5;

/// One check of one instance: its generation and the id of the check.
pub(super) type Key = (u64, Label);

/// What one probe came to, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Wall clock at its end, ms; for display.
    pub wall_ms: u64,
    /// What the judge was told.
    pub probed: Probed,
    /// What was seen.
    pub text: Arc<str>,
}

#[derive(Debug)]
struct Target {
    check: Arc<Check>,
    address: SocketAddr,
    judge: Judge,
    /// What the catalogue holds, as seen last.
    recorded: Opinion,
    basis: u64,
    /// Where it stands on its grid; the next probe is due here, give or take the jitter.
    grid: u64,
    due: u64,
    /// Only the newest entry of the heap counts.
    turn: u64,
    /// It has been given its moment by the pace.
    reserved: bool,
    running: bool,
    kept: VecDeque<Kept>,
}

/// A probe to be run now.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) key: Key,
    turn: u64,
    pub(super) address: SocketAddr,
    pub(super) check: Arc<Check>,
    /// How much later than due it begins.
    pub(super) late: Duration,
}

impl Job {
    /// The instance that is probed.
    pub(super) fn generation(&self) -> u64 {
        self.key.0
    }
}

/// How a check stands with its checker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Id of the check.
    pub check: Label,
    /// What is probed.
    pub address: SocketAddr,
    /// What the checker thinks; the catalogue may be a moment behind.
    pub opinion: Opinion,
    /// Time until the next probe begins.
    pub next: Duration,
    /// The last outputs, oldest first, at most [`OUTPUTS_MAX`].
    pub kept: Vec<Kept>,
}

/// The targets of this node.
#[derive(Debug)]
pub(super) struct Book {
    /// By generation: at most 8 each.
    instances: BTreeMap<u64, Vec<Target>>,
    heap: BinaryHeap<Reverse<(u64, u64, Key)>>,
    pace: Pace,
    random: Random,
    turns: u64,
    kept_bytes: usize,
}

impl Book {
    pub(super) fn new(pace: Pace, random: Random) -> Self {
        Self {
            instances: BTreeMap::new(),
            heap: BinaryHeap::new(),
            pace,
            random,
            turns: 0,
            kept_bytes: 0,
        }
    }

    /// How many checks this node runs.
    pub(super) fn len(&self) -> usize {
        self.instances.values().map(Vec::len).sum()
    }

    /// The generations that are probed, in order.
    pub(super) fn generations(&self) -> Vec<u64> {
        self.instances.keys().copied().collect()
    }

    fn target(&self, key: &Key) -> Option<&Target> {
        self.instances.get(&key.0)?.iter().find(|target| target.check.id == key.1)
    }

    fn target_mut(&mut self, key: &Key) -> Option<&mut Target> {
        self.instances.get_mut(&key.0)?.iter_mut().find(|target| target.check.id == key.1)
    }

    /// Takes over what the catalogue says of an instance that this node has to probe. Returns the checks on which the
    /// catalogue has to be told what is thought here.
    pub(super) fn take_up(&mut self, state: &State, record: &Record, now: u64) -> Vec<Key> {
        let generation = record.generation;
        let wanted: Vec<&Check> = state.checks(record).collect();
        for key in self.keys_of(generation) {
            if wanted.iter().all(|check| check.id != key.1) {
                self.strike(&key);
            }
        }
        let basis = state.basis(record);
        let mut to_tell = Vec::new();
        for check in wanted {
            let Some(address) = check.address(&record.spec) else { continue };
            let key = (generation, check.id.clone());
            let recorded = record.signals.opinion(&check.id);
            match self.target_mut(&key) {
                Some(target) if *target.check == *check && target.address == address => {
                    target.basis = basis;
                    if target.recorded != recorded {
                        target.recorded = recorded;
                        if target.judge.opinion() != recorded {
                            // Decided without this checker: by quick probes, or by a new registration.
                            target.judge = Judge::new(recorded, age(state, record), now);
                            let soon = now + millis(target.judge.pace(check));
                            if !target.running && soon < target.due {
                                self.schedule(&key, soon);
                            }
                        }
                    } else if target.judge.opinion() != recorded {
                        to_tell.push(key);
                    }
                }
                Some(_) | None => self.begin(key, state, record, check, address, now),
            }
        }
        to_tell
    }

    fn begin(
        &mut self,
        key: Key,
        state: &State,
        record: &Record,
        check: &Check,
        address: SocketAddr,
        now: u64,
    ) {
        self.strike(&key);
        let recorded = record.signals.opinion(&check.id);
        let target = Target {
            check: Arc::new(check.clone()),
            address,
            judge: Judge::new(recorded, age(state, record), now),
            recorded,
            basis: state.basis(record),
            grid: 0,
            due: 0,
            turn: 0,
            reserved: false,
            running: false,
            kept: VecDeque::new(),
        };
        self.instances.entry(key.0).or_default().push(target);
        if recorded.verdict == Verdict::Starting {
            self.schedule(&key, now);
        } else {
            // Taken over from another checker, or set by a policy: within one interval.
            let grid = first_on_grid(&key, millis(check.interval), now);
            self.schedule_on_grid(&key, grid, grid);
        }
    }

    /// Gives up every check of an instance.
    pub(super) fn drop_instance(&mut self, generation: u64) {
        for key in self.keys_of(generation) {
            self.strike(&key);
        }
    }

    fn keys_of(&self, generation: u64) -> Vec<Key> {
        let own = self.instances.get(&generation).into_iter().flatten();
        own.map(|target| (generation, target.check.id.clone())).collect()
    }

    fn strike(&mut self, key: &Key) {
        let Some(targets) = self.instances.get_mut(&key.0) else { return };
        let Some(at) = targets.iter().position(|target| target.check.id == key.1) else { return };
        for kept in targets.remove(at).kept {
            self.kept_bytes = self.kept_bytes.saturating_sub(kept.text.len());
        }
        if targets.is_empty() {
            self.instances.remove(&key.0);
        }
    }

    // === When ===

    fn schedule(&mut self, key: &Key, due: u64) {
        self.schedule_on_grid(key, due, due);
    }

    fn schedule_on_grid(&mut self, key: &Key, grid: u64, due: u64) {
        self.turns += 1;
        let turn = self.turns;
        let Some(target) = self.target_mut(key) else { return };
        (target.grid, target.due, target.turn, target.reserved) = (grid, due, turn, false);
        self.heap.push(Reverse((due, turn, key.clone())));
    }

    /// When the next probe is due; something may be due earlier that has been given up since.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due, ..))| *due)
    }

    /// The next probe that is due and may run now.
    pub(super) fn next_job(&mut self, now: u64) -> Option<Job> {
        while let Some(Reverse((at, turn, key))) = self.heap.peek().cloned() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let current = self.target(&key).filter(|target| target.turn == turn);
            let Some((address, reserved)) = current.map(|t| (t.address, t.reserved)) else {
                continue;
            };
            let moment = match reserved {
                true => now,
                false => self.pace.take(address, now * 1_000).div_ceil(1_000),
            };
            let Some(target) = self.target_mut(&key) else { continue };
            if moment > now {
                target.reserved = true;
                self.heap.push(Reverse((moment, turn, key)));
                continue;
            }
            target.running = true;
            let late = Duration::from_millis(now.saturating_sub(target.due));
            let check = target.check.clone();
            return Some(Job { key, turn, address, check, late });
        }
        None
    }

    /// Takes a moment at which this target may be probed beside the schedule; returns the wait until then. `None`: it
    /// would be longer than `most`, and no moment was taken.
    pub(super) fn take_moment(
        &mut self,
        address: SocketAddr,
        now: u64,
        most: Duration,
    ) -> Option<Duration> {
        let now_us = now * 1_000;
        let moment = self.pace.take_until(address, now_us, now_us + millis(most) * 1_000)?;
        Some(Duration::from_micros(moment - now_us))
    }

    /// Takes the result of a probe. `true`: the catalogue has to be told.
    pub(super) fn finish(&mut self, job: &Job, report: Report, wall_ms: u64, now: u64) -> bool {
        let key = &job.key;
        let is_short = self.kept_bytes > OUTPUT_BYTES_TOTAL;
        let current = self.target_mut(key).filter(|target| target.turn == job.turn);
        let Some(target) = current else { return false };
        target.running = false;
        let changed = target.judge.observe(&target.check, &report.probed, now).is_some();
        let text = match target.kept.back() {
            Some(last) if last.text == report.output => last.text.clone(),
            _ if is_short => printable(report.output.as_bytes(), SHORT_BYTES).into(),
            _ => report.output,
        };
        let added = text.len();
        target.kept.push_back(Kept { wall_ms, probed: report.probed, text });
        let surplus = target.kept.len() > OUTPUTS_MAX;
        let oldest = if surplus { target.kept.pop_front() } else { None };
        let pace = millis(target.judge.pace(&target.check));
        let (grid, interval) = (target.grid, millis(target.check.interval));
        let removed = oldest.map_or(0, |kept| kept.text.len());
        self.kept_bytes = (self.kept_bytes + added).saturating_sub(removed);
        if pace < interval {
            self.schedule(key, (grid + pace).max(now));
            return changed;
        }
        let next = next_on_grid(key, interval, grid, now);
        let spread = interval * JITTER_PERCENT / 100;
        let due = next.saturating_sub(spread).saturating_add(self.random.between(0, 2 * spread));
        self.schedule_on_grid(key, next, due.max(now));
        changed
    }

    // === What is told ===

    /// The verdict to be reported on a check, unless the catalogue holds it already.
    pub(super) fn finding(&self, key: &Key) -> Option<Finding> {
        let target = self.target(key)?;
        let opinion = target.judge.opinion();
        if opinion == target.recorded || opinion.verdict == Verdict::Starting {
            return None;
        }
        let text = target.kept.back().map_or("", |kept| &kept.text);
        Some(Finding {
            generation: key.0,
            basis: target.basis,
            check: key.1.clone(),
            opinion,
            evidence: printable(text.as_bytes(), SHORT_BYTES).into(),
        })
    }

    /// How many targets pass by the catalogue, and how many of these have just failed here.
    pub(super) fn failing_at_once(&self) -> (usize, usize) {
        let all = self.instances.values().flatten();
        let passing = all.filter(|target| target.recorded.verdict == Verdict::Passing);
        passing.fold((0, 0), |(passing, failing), target| {
            let failed = target.kept.back().is_some_and(|kept| kept.probed.failure.is_some());
            (passing + 1, failing + usize::from(failed))
        })
    }

    /// Whether the last probe of a check succeeded.
    pub(super) fn has_just_passed(&self, key: &Key) -> bool {
        let last = self.target(key).and_then(|target| target.kept.back());
        last.is_some_and(|kept| kept.probed.failure.is_none())
    }

    /// Forgets what was thought of a check here: what the catalogue holds counts, and it is judged anew.
    pub(super) fn forget(&mut self, key: &Key, now: u64) {
        if let Some(target) = self.target_mut(key) {
            // Its grace at the start has had its time.
            target.judge = Judge::new(target.recorded, target.check.startup_grace, now);
        }
    }

    /// The interval of a check.
    pub(super) fn interval(&self, key: &Key) -> Option<Duration> {
        self.target(key).map(|target| target.check.interval)
    }

    /// How the checks of an instance stand.
    pub(super) fn show(&self, generation: u64, now: u64) -> Vec<Shown> {
        let shown = |key: &Key| {
            let target = self.target(key)?;
            Some(Shown {
                check: key.1.clone(),
                address: target.address,
                opinion: target.judge.opinion(),
                next: Duration::from_millis(target.due.saturating_sub(now)),
                kept: target.kept.iter().cloned().collect(),
            })
        };
        self.keys_of(generation).iter().filter_map(shown).collect()
    }
}

/// Time since which the checks of an instance wait for a first success.
fn age(state: &State, record: &Record) -> Duration {
    let since = record.signals.heard().map_or_else(|| state.cluster_ms(), |heard| heard.since_ms);
    Duration::from_millis(state.cluster_ms().saturating_sub(since))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The first moment of this check's own grid after `now`.
fn first_on_grid(key: &Key, interval: u64, now: u64) -> u64 {
    let mut bytes = key.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(key.1.as_str().as_bytes());
    let phase = xxh3_64(&bytes) % interval;
    let begun = now - now % interval;
    // All arithmetic is far from the end of u64, which is half a billion years.
    if begun + phase > now { begun + phase } else { begun + interval + phase }
}

/// The moment after `grid`, which the last probe had. One that was not on the grid, or that is whole intervals behind,
/// goes on with the first one from now.
fn next_on_grid(key: &Key, interval: u64, grid: u64, now: u64) -> u64 {
    let first = first_on_grid(key, interval, now);
    let on_grid = first.abs_diff(grid).is_multiple_of(interval);
    let next = grid + interval;
    if on_grid && next + interval > now { next } else { first }
}
