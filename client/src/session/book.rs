//! What is registered, under which lease, and when it must beat. Pure: time and dice come in, decisions go out.

use super::{Answer, Cell, Key, Newcomer, link::Goodbye};
use crate::{
    dice::{Backoff, Dice},
    error::Error,
    registration::{Acknowledged, Fence, State},
    report::HealthReport,
};
use rollcall_core::{instance::limit, name::InstanceName};
use rollcall_proto::v1;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Most handles in one message of the heartbeat stream.
pub(super) const HANDLES: usize = 10_000;
/// Most self-reports in one message of the heartbeat stream.
const REPORTS: usize = 1_000;
/// First wait before a registration that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest such wait while the registry does not answer.
const RETRY_CAP: Duration = Duration::from_secs(2);
/// Longest such wait where it refuses.
const REFUSED_CAP: Duration = Duration::from_secs(10);
/// A beat may come earlier than the pace by this share, never later.
const JITTER_LOW: f64 = 0.9;

/// Everything that is kept.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<Key, Entry>,
    handles: BTreeMap<u64, Key>,
    /// Leases that beat together, by length and pace.
    groups: BTreeMap<(Duration, Duration), Group>,
    ready: VecDeque<Job>,
    retries: BTreeSet<(Instant, Key)>,
    /// Who left while its registration was on its way: it must not overtake that of a successor in this process.
    departing: BTreeSet<(InstanceName, Key)>,
    /// What the server asked for on the stream.
    pace: Option<Duration>,
}

/// Registrations that go out in one call.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) keys: Vec<Key>,
    pub(super) timeout: Duration,
    /// Who waits for the outcome: only for a first registration.
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Entry {
    name: InstanceName,
    /// As it is sent; `held_generation` is what this process holds.
    request: v1::Registration,
    cell: Arc<Cell>,
    lease: Option<Lease>,
    timeout: Duration,
    backoff: Backoff,
    in_flight: bool,
    leaving: Option<Leaving>,
}

/// Leases to be renewed by one message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Beat {
    pub(super) handles: Arc<[u64]>,
    /// What the instances of some of them say about themselves.
    pub(super) reports: Vec<(u64, HealthReport)>,
    /// The length of these leases.
    pub(super) ttl: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    handle: u64,
    group: (Duration, Duration),
}

#[derive(Debug)]
enum Leaving {
    Dropped,
    Told(oneshot::Sender<Option<u64>>),
}

#[derive(Debug)]
struct Group {
    handles: BTreeSet<u64>,
    due: Instant,
}

impl Beat {
    /// Renews nothing: the message is for its goodbyes.
    pub(super) fn none() -> Self {
        Self { handles: Arc::from([]), reports: Vec::new(), ttl: Duration::ZERO }
    }
}

impl Book {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing needs a beat.
    pub(super) fn is_silent(&self) -> bool {
        self.handles.is_empty()
    }

    /// The shortest lease that is kept.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.groups.keys().next().map(|(ttl, _)| *ttl)
    }

    /// Keeps newcomers, whose first registration goes out as one call.
    pub(super) fn add(
        &mut self,
        first: Key,
        newcomers: Vec<Newcomer>,
        timeout: Duration,
        answer: Option<Answer>,
    ) {
        let mut keys = Vec::with_capacity(newcomers.len());
        for (key, newcomer) in (first..).zip(newcomers) {
            keys.push(key);
            self.entries.insert(
                key,
                Entry {
                    name: newcomer.name,
                    request: newcomer.request,
                    cell: newcomer.cell,
                    lease: None,
                    timeout,
                    backoff: Backoff::new(RETRY_FIRST, RETRY_CAP),
                    in_flight: false,
                    leaving: None,
                },
            );
        }
        self.ready.push_back(Job { keys, timeout, answer });
    }

    /// The next registrations to send, with what to send.
    pub(super) fn next_job(&mut self, now: Instant) -> Option<(Job, Vec<v1::Registration>)> {
        while let Some((at, key)) = self.retries.first().copied()
            && at <= now
        {
            self.retries.remove(&(at, key));
            self.again(key);
        }
        while let Some(mut job) = self.next_ready() {
            job.keys.retain(|key| self.entries.contains_key(key));
            let mut requests = Vec::with_capacity(job.keys.len());
            for key in &job.keys {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.in_flight = true;
                    requests.push(entry.request.clone());
                }
            }
            if !requests.is_empty() {
                return Some((job, requests));
            }
        }
        None
    }

    /// The first job that waits for nobody: one of an instance whose former registration is still on its way stays.
    fn next_ready(&mut self) -> Option<Job> {
        let waits = |key: &Key| {
            let Some(name) = self.entries.get(key).map(|entry| &entry.name) else { return false };
            let mut those = self.departing.range((name.clone(), 0)..);
            those.next().is_some_and(|(departing, _)| departing == name)
        };
        let free = |job: &Job| self.departing.is_empty() || !job.keys.iter().any(waits);
        let at = self.ready.iter().position(free)?;
        self.ready.remove(at)
    }

    /// The registry answered a job. Returns what is to be done for those that were leaving.
    pub(super) fn registered(
        &mut self,
        job: Job,
        answer: &v1::RegisterResponse,
        (sent, now): (Instant, Instant),
        dice: &Dice,
    ) -> Vec<Goodbye> {
        let mut goodbyes = Vec::new();
        for (key, result) in job.keys.iter().zip(&answer.items) {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.in_flight = false;
            entry.request.held_generation = result.generation;
            entry.cell.acknowledge(Acknowledged { sent, received: now });
            if entry.leaving.is_some() {
                goodbyes.extend(self.take_leave(*key));
                continue;
            }
            entry.cell.set(State::Registered { generation: result.generation });
            self.lease(*key, result, now, dice);
        }
        if let Some(answer) = job.answer {
            // Nobody listens where the caller gave up: its guards are being dropped then.
            let _ = answer.send(Ok(()));
        }
        goodbyes
    }

    /// The registry refused a job, or did not answer. Returns what is to be done for those that were leaving.
    pub(super) fn failed(
        &mut self,
        job: Job,
        error: &Error,
        now: Instant,
        dice: &Dice,
    ) -> Vec<Goodbye> {
        let mut goodbyes = Vec::new();
        let first = job.answer.is_some();
        if let Some(answer) = job.answer {
            let _ = answer.send(Err(error.clone()));
        }
        for key in job.keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.in_flight = false;
            if entry.leaving.is_some() {
                if error.outcome_unknown() {
                    tracing::warn!(instance = %entry.name, %error, "let go, may be listed even so");
                }
                goodbyes.extend(self.take_leave(key));
            } else if first {
                entry.cell.set(State::Stopped);
                self.entries.remove(&key);
            } else if error.is_fenced() {
                let cause = match error.reason() {
                    Some(crate::error::reason::DEREGISTERED) => Fence::Deregistered,
                    _ => Fence::Superseded,
                };
                self.fence(key, cause, &error.to_string());
            } else {
                tracing::warn!(instance = %entry.name, %error, "register again");
                entry.cell.set(State::Registering { problem: Some(error.to_string().into()) });
                entry.backoff.cap(if error.is_retryable() { RETRY_CAP } else { REFUSED_CAP });
                let asked = error.retry_after().unwrap_or_default().min(REFUSED_CAP);
                self.retries.insert((now + entry.backoff.next(dice).max(asked), key));
            }
        }
        goodbyes
    }

    /// Stops keeping a registration whose guard was dropped.
    pub(super) fn release(&mut self, key: Key) -> Option<Goodbye> {
        self.leave(key, Leaving::Dropped)
    }

    /// Stops keeping a registration and tells its generation, once no registration of it is on its way any more.
    pub(super) fn hand_over(&mut self, key: Key, tell: oneshot::Sender<Option<u64>>) {
        // The guard deregisters by itself: nothing comes back here.
        self.leave(key, Leaving::Told(tell));
    }

    /// Forgets everything; returns the leased ones.
    pub(super) fn clear(&mut self) -> Vec<(InstanceName, u64)> {
        let mut held = Vec::new();
        for (_, entry) in std::mem::take(self).entries {
            let fenced = matches!(entry.cell.state(), State::Fenced { .. });
            let generation = entry.request.held_generation;
            if generation != 0 && !fenced && !is_persistent(&entry.request) {
                held.push((entry.name, generation));
            }
            entry.cell.set(State::Stopped);
        }
        held
    }

    fn leave(&mut self, key: Key, leaving: Leaving) -> Option<Goodbye> {
        self.silence(key);
        let Some(entry) = self.entries.get_mut(&key) else {
            if let Leaving::Told(tell) = leaving {
                let _ = tell.send(None);
            }
            return None;
        };
        entry.leaving = Some(leaving);
        // A registration on its way could list it again after its goodbye.
        if entry.in_flight {
            self.departing.insert((entry.name.clone(), key));
            return None;
        }
        self.take_leave(key)
    }

    fn take_leave(&mut self, key: Key) -> Option<Goodbye> {
        let entry = self.entries.remove(&key)?;
        self.departing.remove(&(entry.name.clone(), key));
        let fenced = matches!(entry.cell.state(), State::Fenced { .. });
        if !fenced {
            entry.cell.set(State::Stopped);
        }
        let generation = entry.request.held_generation;
        let ours = generation != 0 && !fenced;
        if let Some(Leaving::Told(tell)) = entry.leaving {
            let _ = tell.send(ours.then_some(generation));
            return None;
        }
        // Without a lease there is no handle to release: 0 is none.
        let handle = entry.lease.map_or(0, |lease| lease.handle);
        let leased = ours && !is_persistent(&entry.request);
        leased.then_some(Goodbye { handle, name: entry.name, generation })
    }

    /// Takes a granted lease into the group that beats at its pace.
    fn lease(&mut self, key: Key, result: &v1::RegistrationResult, now: Instant, dice: &Dice) {
        self.silence(key);
        // A handle is never given twice: whose lease it was has none any more.
        self.reregister(result.lease_handle, now, dice);
        let Some(ttl) = result.ttl.as_ref().and_then(length) else { return };
        if result.lease_handle == 0 {
            return;
        }
        // The registry grants no others; a beat without a pause, or never, would be what it asked for.
        let ttl = ttl.clamp(limit::TTL_MIN, limit::TTL_MAX);
        let asked = result.heartbeat_interval.as_ref().and_then(length);
        let group = (ttl, within(asked.unwrap_or(ttl / 3), ttl));
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.lease = Some(Lease { handle: result.lease_handle, group });
        self.handles.insert(result.lease_handle, key);
        let due = now + group.1;
        let group =
            self.groups.entry(group).or_insert_with(|| Group { handles: BTreeSet::new(), due });
        group.handles.insert(result.lease_handle);
    }

    /// Ends the beats of a registration; its lease stays noted for the goodbye.
    fn silence(&mut self, key: Key) {
        let Some(lease) = self.entries.get(&key).and_then(|entry| entry.lease) else { return };
        self.handles.remove(&lease.handle);
        if let Some(group) = self.groups.get_mut(&lease.group) {
            group.handles.remove(&lease.handle);
            if group.handles.is_empty() {
                self.groups.remove(&lease.group);
            }
        }
    }

    fn again(&mut self, key: Key) {
        if let Some(entry) = self.entries.get(&key)
            && !entry.in_flight
        {
            self.ready.push_back(Job { keys: vec![key], timeout: entry.timeout, answer: None });
        }
    }

    fn fence(&mut self, key: Key, cause: Fence, detail: &str) {
        self.silence(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.lease = None;
            tracing::error!(instance = %entry.name, ?cause, detail, "fenced, not registered again");
            entry.cell.set(State::Fenced { cause, detail: detail.into() });
        }
    }

    /// The registry does not know the lease any more: registers again, with the same nonce. At once, unless no beat was
    /// acknowledged since the last time.
    pub(super) fn reregister(&mut self, handle: u64, now: Instant, dice: &Dice) {
        let Some(key) = self.handles.get(&handle).copied() else { return };
        self.silence(key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.lease = None;
        tracing::warn!(instance = %entry.name, "the lease ran out, register again");
        let problem = Some("the lease ran out or was forgotten".into());
        entry.cell.set(State::Registering { problem });
        let first = entry.backoff.is_fresh();
        entry.backoff.cap(RETRY_CAP);
        let wait = entry.backoff.next(dice);
        if first {
            self.again(key);
        } else {
            self.retries.insert((now + wait, key));
        }
    }

    /// Somebody else has the lease's instance: stops.
    pub(super) fn fenced(&mut self, fenced: &v1::FencedHandle) {
        let Some(key) = self.handles.get(&fenced.lease_handle).copied() else { return };
        let cause = match fenced.reason() {
            v1::fenced_handle::Reason::Deregistered => Fence::Deregistered,
            v1::fenced_handle::Reason::Superseded | v1::fenced_handle::Reason::Unspecified => {
                Fence::Superseded
            }
        };
        self.fence(key, cause, &fenced.detail);
    }

    /// Beats of these handles were acknowledged.
    pub(super) fn acknowledged(&mut self, handles: &[u64], beat: Acknowledged) {
        for key in handles.iter().filter_map(|handle| self.handles.get(handle)) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.backoff.reset();
                entry.cell.acknowledge(beat);
            }
        }
    }

    /// The server asks for another pace on the whole stream.
    pub(super) fn set_pace(&mut self, pace: Duration) {
        self.pace = Some(pace);
    }

    /// The beats that are due, each fit for one message.
    pub(super) fn beat(&mut self, now: Instant, dice: &Dice) -> Vec<Beat> {
        let mut beats = Vec::new();
        for ((ttl, own), group) in &mut self.groups {
            if group.due > now {
                continue;
            }
            let pace = self.pace.map_or(*own, |pace| within(pace, *ttl));
            group.due = now + dice.shorten(pace, JITTER_LOW);
            let handles: Vec<u64> = group.handles.iter().copied().collect();
            let of = |handle: &u64| {
                let cell = &self.entries.get(self.handles.get(handle)?)?.cell;
                Some((*handle, cell.report()?))
            };
            // A message holds fewer reports than handles.
            let size =
                if handles.iter().any(|handle| of(handle).is_some()) { REPORTS } else { HANDLES };
            for part in handles.chunks(size) {
                let reports = part.iter().filter_map(of).collect();
                beats.push(Beat { handles: Arc::from(part), reports, ttl: *ttl });
            }
        }
        beats
    }

    /// Makes the beat of one registration due, and of those that beat with it.
    pub(super) fn hurry_one(&mut self, key: Key, now: Instant) {
        let lease = self.entries.get(&key).and_then(|entry| entry.lease);
        if let Some(group) = lease.and_then(|lease| self.groups.get_mut(&lease.group)) {
            group.due = group.due.min(now);
        }
    }

    /// Makes every beat due.
    pub(super) fn hurry(&mut self, now: Instant) {
        for group in self.groups.values_mut() {
            group.due = group.due.min(now);
        }
    }

    /// When the next beat is due.
    pub(super) fn next_beat(&self) -> Option<Instant> {
        self.groups.values().map(|group| group.due).min()
    }

    /// When a registration is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }
}

/// A pace is never slower than half the lease, whatever the server says, nor faster than a tenth.
fn within(pace: Duration, ttl: Duration) -> Duration {
    pace.clamp(ttl / 10, ttl / 2)
}

fn is_persistent(request: &v1::Registration) -> bool {
    request.spec.as_ref().is_some_and(|spec| spec.persistent)
}

/// A length of the wire; `None` where it is negative or no length.
pub(crate) fn length(wire: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*wire).ok()
}
