//! What a user may want to count: each attempt and each change of an endpoint's standing. No exporter is chosen here;
//! the same things are written as `tracing` events (attempts at TRACE, changes at INFO).

use super::endpoint::{Endpoint, Key};
use rollcall_core::name::ServiceName;
use std::{net::SocketAddr, time::Duration};

/// Is told what the balancer does, on the task of the call: it must be quick and must not block.
pub trait Observer: Send + Sync + 'static {
    /// An attempt ended.
    fn attempt(&self, attempt: &Attempt<'_>) {
        let _ = attempt;
    }

    /// An endpoint was ejected or is back, or panic began or ended.
    fn change(&self, service: &ServiceName, change: &Change) {
        let _ = (service, change);
    }
}

/// One attempt of a call.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The service that was called.
    pub service: &'a ServiceName,
    /// Who got it.
    pub endpoint: &'a Endpoint,
    /// Why it was made.
    pub why: Why,
    /// How it ended.
    pub outcome: Outcome,
    /// Time to the head of the answer, or to its end where there was none.
    pub latency: Duration,
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The first of its call.
    First,
    /// The first of its call, and the trial of an endpoint whose ejection is over.
    Probe,
    /// Another attempt failed.
    Retry,
    /// Another attempt takes long.
    Hedge,
}

/// How a call ended, for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It answered. Also when it refused what the caller asked: that is the caller's fault.
    Success,
    /// It failed, or could not be reached.
    Failure,
    /// It did not answer within the deadline.
    Timeout,
    /// It said that it has too much to do. Counts as slow and against its success rate, not as a failure in a row.
    Overloaded,
    /// The caller gave up: nothing is known, except that it took at least so long.
    Cancelled,
}

/// A change of what the balancer thinks of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Taken out.
    Ejected {
        /// Who.
        endpoint: Key,
        /// Why.
        cause: Cause,
        /// For how long at least.
        length: Duration,
    },
    /// A trial went well: it takes its share again.
    Readmitted {
        /// Who.
        endpoint: Key,
    },
    /// So much is out that ejections are ignored, or nothing is routable.
    PanicBegan {
        /// Endpoints that the registry calls routable.
        routable: usize,
    },
    /// Enough is left again.
    PanicEnded,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Its success rate is far below that of the others.
    SuccessRate,
    /// The trial after an ejection failed.
    Probe,
}

impl Change {
    /// The address that it is about, where it is about one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ejected { endpoint, .. } | Self::Readmitted { endpoint } => {
                Some(endpoint.address)
            }
            Self::PanicBegan { .. } | Self::PanicEnded => None,
        }
    }
}
