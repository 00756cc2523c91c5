//! Brings verdicts into the log, in batches, one at a time. Level-triggered: what could not be committed is told again
//! until the catalogue holds it, or it is no longer thought, or no longer this node's to say.

use super::{CheckStats, Checks, book::Key};
use rollcall_core::{
    Command,
    command::{Done, Finding, Rejection, ReportHealth, Reported, Source},
    instance::limit,
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// Verdicts are collected for so long.
const COLLECT: Duration = Duration::from_millis(10);
/// A batch is given up after this, and its verdicts are told again.
const DEADLINE: Duration = Duration::from_secs(2);
/// Waits between two tries, doubled from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The checks whose verdict is to be told. At most one entry for each check of this node.
#[derive(Debug, Default)]
pub(super) struct Findings {
    keys: Mutex<BTreeSet<Key>>,
    some: Notify,
}

impl Findings {
    pub(super) fn add(&self, keys: impl IntoIterator<Item = Key>) {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        known.extend(keys);
        if known.len() > before {
            self.some.notify_one();
        }
    }

    fn take(&self, count: usize) -> Vec<Key> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(key) = known.pop_first()
        {
            taken.push(key);
        }
        taken
    }
}

pub(super) async fn run(checks: Checks) {
    let mut wait = RETRY_MIN;
    let mut leadership = checks.0.leadership.clone();
    loop {
        leadership.mark_unchanged();
        let keys = checks.0.findings.take(limit::FINDINGS);
        if keys.is_empty() {
            checks.0.findings.some.notified().await;
            tokio::time::sleep(COLLECT).await;
            continue;
        }
        if checks.tell(&keys).await {
            wait = RETRY_MIN;
            continue;
        }
        checks.0.findings.add(keys);
        tokio::select! {
            biased;
            // An outage is over sooner than a long wait.
            changed = leadership.changed() => match changed {
                Ok(()) => wait = RETRY_MIN,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
        }
    }
}

impl Checks {
    /// Tells what is thought of these checks. `false`: it may not have been heard.
    async fn tell(&self, keys: &[Key]) -> bool {
        let items: Vec<Finding> = {
            let doubts = self.doubts_itself();
            let (book, mut held) = (self.book(), self.doubts());
            let now = self.now();
            let found = keys.iter().filter_map(|key| Some((key, book.finding(key)?)));
            let may = |(key, finding): &(&Key, Finding)| {
                held.may_tell((key, book.interval(key)), finding, (doubts, now))
            };
            found.filter(may).map(|(_, finding)| finding).collect()
        };
        if items.is_empty() {
            return true;
        }
        let generations: Vec<u64> = items.iter().map(|item| item.generation).collect();
        let epoch = self.0.view.load().state.checkers().epoch();
        let source = Source::Checker { node: self.0.node, epoch };
        CheckStats::add(&self.0.stats.verdicts, items.len() as u64);
        let report = ReportHealth { source, items, actor: self.actor() };
        match self.0.replica.submit(Command::ReportHealth(report), DEADLINE).await {
            Ok(outcome) => match &outcome.result {
                Ok(Done::Reported(outcomes)) => {
                    self.settle(&generations, outcomes, outcome.revision).await;
                    true
                }
                // The set of checkers has changed; this node will see it, and know whether the instance is still its.
                Err(Rejection::CheckersChanged { .. }) => false,
                Ok(_) | Err(_) => {
                    tracing::error!(outcome = ?outcome.result, "verdicts were not taken");
                    true
                }
            },
            Err(error) => {
                tracing::debug!(%error, "verdicts were not committed");
                false
            }
        }
    }

    /// What was refused was decided on something that has changed meanwhile: it is looked at again when this node knows
    /// it, too. Before, it would be told again and refused again, and each time is an entry of the log.
    pub(super) async fn settle(&self, generations: &[u64], outcomes: &[Reported], revision: u64) {
        let told = generations.iter().zip(outcomes);
        let refused = told.filter(|(_, outcome)| **outcome == Reported::Superseded);
        let refused: Vec<u64> = refused.map(|(generation, _)| *generation).collect();
        if refused.is_empty() {
            return;
        }
        // A node that is behind for longer has other worries, and tells the same again at this pace.
        let _ = timeout(DEADLINE, self.0.view.reached(revision)).await;
        self.0.news.lock().unwrap_or_else(PoisonError::into_inner).generations.extend(refused);
        self.0.wake.notify_one();
    }
}
