//! What the catalogue keeps of an instance's checks and of its own word: the signals of life beside its lease.
//!
//! Most instances have none of it and pay one pointer. What follows from the signals stands in `state/health.rs`.

use crate::{
    check::{Opinion, Verdict},
    name::Label,
};
use std::{fmt, sync::Arc};

/// How busy an instance is, by its own word: 0 = idle, 100 = as busy as it can be. No decision of the registry rests on
/// it, so it stands beside the records: without revision, event or share in the state hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Utilization(u8);

impl Utilization {
    /// The most that can be said.
    pub const MAX: u32 = 100;

    /// So many percent; `None` above 100.
    pub fn new(percent: u32) -> Option<Self> {
        let percent = u8::try_from(percent).ok()?;
        (u32::from(percent) <= Self::MAX).then_some(Self(percent))
    }

    /// 0-100.
    pub fn percent(self) -> u32 {
        self.0.into()
    }
}

/// The signals of one instance; nothing where it has neither checks nor anything to say.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Signals(Option<Arc<Heard>>);

/// What was heard of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Heard {
    /// Revision of the last registration that changed something. A verdict from before it is refused.
    pub basis: u64,
    /// Cluster time since which its checks wait for a first success, where they do; ms.
    pub since_ms: u64,
    /// What its checks came to. One that is missing was set by a policy after the registration and counts as passing
    /// until it fails: a new policy does not take an instance out of service.
    pub standings: Vec<Standing>,
    /// Why it serves badly, by its own word.
    pub self_report: Option<Arc<str>>,
    /// Cluster time at which its lease ran out, while its checks keep it listed; ms.
    pub lost_ms: Option<u64>,
    /// Revision at which it became UNHEALTHY, while it is.
    pub unhealthy_since: Option<u64>,
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Id of the check.
    pub check: Label,
    /// Its verdict.
    pub opinion: Opinion,
}

impl Signals {
    /// These signals; what says nothing takes no memory.
    pub fn of(heard: Heard) -> Self {
        let silent = heard.standings.is_empty()
            && heard.self_report.is_none()
            && heard.lost_ms.is_none()
            && heard.unhealthy_since.is_none();
        Self((!silent).then(|| Arc::new(heard)))
    }

    /// What was heard, if anything.
    pub fn heard(&self) -> Option<&Heard> {
        self.0.as_deref()
    }

    /// Revision of the registration that they belong to; 0 where nothing was heard.
    pub fn basis(&self) -> u64 {
        self.heard().map_or(0, |heard| heard.basis)
    }

    /// What a check came to; one that nobody has found fault with passes.
    pub fn opinion(&self, check: &Label) -> Opinion {
        self.standing(check).map_or(Opinion::PASSING, |standing| standing.opinion)
    }

    /// What is kept of a check.
    pub fn standing(&self, check: &Label) -> Option<&Standing> {
        self.heard()?.standings.iter().find(|standing| standing.check == *check)
    }

    /// Whether the check passes.
    pub fn passes(&self, check: &Label) -> bool {
        self.opinion(check).verdict == Verdict::Passing
    }

    /// The same signals, changed.
    #[must_use]
    pub(crate) fn with(&self, change: impl FnOnce(&mut Heard)) -> Self {
        let mut heard = self.heard().cloned().unwrap_or_default();
        change(&mut heard);
        Self::of(heard)
    }
}

impl Heard {
    /// Keeps what a check came to.
    pub(crate) fn note(&mut self, check: &Label, opinion: Opinion) {
        match self.standings.iter_mut().find(|standing| standing.check == *check) {
            Some(standing) => standing.opinion = opinion,
            None => self.standings.push(Standing { check: check.clone(), opinion }),
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::hash::Hash for Signals {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Without signals a record has the hash that it had before there were any.
        if let Some(heard) = &self.0 {
            heard.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_says_nothing_pays_one_word() {
        assert_eq!(size_of::<Signals>(), size_of::<usize>());
        assert_eq!(Signals::of(Heard { basis: 7, ..Heard::default() }), Signals::default());
    }

    #[test]
    fn a_check_that_nobody_found_fault_with_passes() {
        let check = Label::parse("check_id", "c").unwrap();
        let signals = Signals::default();
        assert!(signals.passes(&check));
        let failing = Opinion { verdict: Verdict::Failing, ..Opinion::PASSING };
        let signals = signals.with(|heard| heard.note(&check, failing));
        assert!(!signals.passes(&check));
        let signals = signals.with(|heard| heard.note(&check, Opinion::PASSING));
        assert_eq!(signals.heard().unwrap().standings.len(), 1);
        assert!(signals.passes(&check));
    }
}
