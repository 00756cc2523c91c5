//! What a case is, and the list of all of them.

use std::error::Error;
use std::time::Duration;

use crate::stage::Stage;
use crate::{dns, health, network};

/// Why a case did not hold.
pub(crate) type Checked<T = ()> = Result<T, Box<dyn Error>>;

/// What must be there for a case to run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A program on the path.
    Program(&'static str),
    /// Root, for network namespaces and ports below 1024.
    Root,
    /// So many open files for one process.
    Files(u64),
    /// A Python 3 with this module.
    Python(&'static str),
}

/// One case.
pub(crate) struct Case {
    /// Its topic, by which it is selected.
    pub(crate) topic: &'static str,
    /// A sentence that says what holds.
    pub(crate) name: &'static str,
    /// It has failed when it takes longer.
    pub(crate) deadline: Duration,
    /// What it needs.
    pub(crate) needs: &'static [Need],
    /// The test itself.
    pub(crate) play: fn(&mut Stage) -> Checked,
}

/// All cases, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    network::CASES.iter().chain(dns::CASES).chain(health::CASES)
}

/// Fails with what was seen unless `holds`.
pub(crate) fn check(holds: bool, seen: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(seen().into()) }
}
