//! How the table follows what is applied: leases that are granted and end, and what is to be looked at later.

use super::{super::evict::removal, Book, Entry, LeaseTable, millis};
use rollcall_core::{
    State,
    instance::Ttl,
    lease::grant,
    record::{AdminState, Event, LeaseState, Reason, Record, Subject},
};
use std::sync::Arc;

/// So many TTLs after its last beat an instance is EXPIRED even though its checks pass.
const LOST_TTLS: u64 = 10;

impl Book {
    /// What is to be done about an instance later, as far as it is not running.
    fn follow(&mut self, state: &State, record: &Record, now: u64) {
        let generation = record.generation;
        match removal(state, record) {
            Some((ground, after)) => self.evictions.wait(generation, ground, now, after),
            None => self.evictions.forget(generation),
        }
        match (record.lease.map(|lease| lease.state), record.spec.ttl) {
            (Some(LeaseState::Lost), Some(ttl)) => {
                self.lost.note(generation, now, lost_limit(state, record, ttl, now));
            }
            _ => self.lost.forget(generation),
        }
    }

    /// The policy of its service has changed: other waits, other checks.
    fn follow_policy(&mut self, state: &State, record: &Record, now: u64) {
        self.follow(state, record, now);
        if let Some((_, after)) = removal(state, record) {
            self.evictions.change(record.generation, after);
        }
        self.lost.again(record.generation, now);
    }
}

/// When an instance is over whose lease is lost, though its checks pass. Cluster time tells for how long it is lost
/// already; it may lag by some seconds while nobody writes.
fn lost_limit(state: &State, record: &Record, ttl: Ttl, now: u64) -> u64 {
    let since = record.signals.heard().and_then(|heard| heard.lost_ms);
    let passed = since.map_or(0, |since| state.cluster_ms().saturating_sub(since));
    // It was lost one TTL after its last beat.
    now.saturating_add(((LOST_TTLS - 1) * ttl.millis()).saturating_sub(passed))
}

impl LeaseTable {
    /// Takes a record over as it is now; a running lease is granted anew.
    pub(super) fn load_record(
        &self,
        book: &mut Book,
        state: &State,
        record: &Record,
        now: u64,
        remaining: Option<u32>,
    ) {
        let generation = record.generation;
        let running = record.lease.filter(|lease| lease.state == LeaseState::Current);
        if let (Some(lease), Some(ttl)) = (running, record.spec.ttl) {
            let deadline = now + millis(grant(ttl, remaining)) + 1;
            let named = state.checkpoint(generation);
            let mut entry = Entry {
                deadline,
                beat: now,
                ttl,
                epoch: lease.epoch,
                deciding: None,
                marked: u32::from(named.is_some()),
                named,
            };
            if let Some(before) = self.entries.get(&generation)
                && before.epoch == lease.epoch
            {
                // A checkpoint or an expiry of this epoch may be on its way into the log.
                entry.marked = entry.marked.max(before.marked);
                entry.deciding = before.deciding.clone();
            }
            self.entries.insert(generation, entry);
            book.arm(generation, deadline, now);
        } else {
            self.entries.remove(&generation);
        }
        book.follow(state, record, now);
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
            match &event.subject {
                Subject::Instance(_) => {
                    if event.reason == Reason::TakenOver {
                        self.forget_before(&mut book, state, event);
                    }
                    self.follow_instance(&mut book, state, event, now);
                }
                Subject::Policy(name) => {
                    let instances = state.service(name).map(|service| &service.instances);
                    for record in instances.into_iter().flat_map(|instances| instances.values()) {
                        book.follow_policy(state, record, now);
                    }
                }
                Subject::Protection(_) => {}
            }
        }
    }

    fn follow_instance(&self, book: &mut Book, state: &State, event: &Event, now: u64) {
        let Some(record) = state.by_generation(event.generation) else {
            self.entries.remove(&event.generation);
            book.evictions.forget(event.generation);
            book.lost.forget(event.generation);
            return;
        };
        let maintained = |status: Option<rollcall_core::record::Status>| {
            status.is_some_and(|status| status.admin == AdminState::Maintenance)
        };
        let returned = maintained(event.from) && !maintained(event.to);
        if returned {
            // Maintenance suspends the wait for the removal: it begins anew.
            book.evictions.forget(event.generation);
        }
        let grants = matches!(
            event.reason,
            Reason::Registered | Reason::Updated | Reason::TakenOver | Reason::Restored
        );
        let runs = record.lease.is_some_and(|lease| lease.state == LeaseState::Current);
        if grants || returned || !runs {
            self.load_record(book, state, record, now, None);
        } else {
            book.follow(state, record, now);
        }
        if returned {
            // Its checks may have failed meanwhile.
            book.lost.again(record.generation, now);
        }
    }

    /// Forgets the generation that was taken over by this event, which names the new one alone.
    fn forget_before(&self, book: &mut Book, state: &State, event: &Event) {
        match taken_over(state, event) {
            Some(before) => {
                self.entries.remove(&before);
                book.evictions.forget(before);
                book.lost.forget(before);
            }
            // What waits for its removal or its checks is let go when it is looked at.
            None => self.entries.retain(|handle, _| state.by_generation(*handle).is_some()),
        }
    }
}

/// The generation that was taken over by this event. `None`: so much has happened to the instance at once that its
/// history does not tell any more, or it is gone.
pub fn taken_over(state: &State, event: &Event) -> Option<u64> {
    let Subject::Instance(name) = &event.subject else { return None };
    let mut events = state.instance(name)?.history.events().iter().rev();
    let before = events.find(|before| before.generation < event.generation)?;
    Some(before.generation)
}
