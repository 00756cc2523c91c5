//! Interruption: SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use super::stdout::complain;
use super::{Exit, Outcome};

/// SIGINT and SIGTERM, caught from now on.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Catches both. Needs a runtime.
    pub(super) fn catch() -> Result<Self, Failure> {
        let caught = |kind| signal(kind).map_err(|e| Failure::new(format!("catch signals: {e}")));
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
        })
    }

    /// The next signal's number.
    pub(super) async fn wait(&mut self) -> u8 {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        let kind = tokio::select! {
            biased;
            _ = self.interrupt.recv() => interrupt,
            _ = self.terminate.recv() => terminate,
        };
        u8::try_from(kind.as_raw_value()).unwrap_or(0)
    }
}

/// Carries on until it is done or interrupted. Not for commands for which an interruption is the normal end.
pub(super) async fn unless_interrupted(work: impl Future<Output = Outcome>) -> Outcome {
    let mut stop = Stop::catch()?;
    tokio::select! {
        biased;
        outcome = work => outcome,
        number = stop.wait() => {
            complain("interrupted; a change that was under way may have been made");
            Ok(Exit::Signal(number))
        }
    }
}
