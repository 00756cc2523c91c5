//! Why a command failed: a text for standard error and the exit code that goes with it.

use rollcall_client::Error;
use tonic::Code;

use super::Exit;
use super::stdout::complain;

/// A failed command.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    /// `None`: nobody reads any more.
    text: Option<String>,
}

impl Failure {
    /// A failure without an exit code of its own.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self::with(Exit::Error, text)
    }

    /// A failure with this exit code.
    pub(super) fn with(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: Some(text.into()) }
    }

    /// Whoever read our output has gone away: that is how `| head` works, and no error.
    pub(super) fn of_output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self { exit: Exit::Ok, text: None }
        } else {
            Self::new(format!("write to standard output: {error}"))
        }
    }

    /// Says what happened; returns how the program ends.
    pub(super) fn tell(self) -> Exit {
        if let Some(text) = self.text {
            complain(&format!("error: {text}"));
        }
        self.exit
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match &error {
            // A node that answers `no leader` was reached.
            Error::Unreachable(tried) if tried.tried.iter().all(|node| node.reason.is_none()) => {
                let hint = "give the registry's address with --addr or ROLLCALL_ADDR, or start one \
                            with `rollcall dev`";
                Self::with(Exit::Unreachable, format!("{text}\n{hint}"))
            }
            Error::Refused(refusal) if refusal.code == Code::NotFound => {
                Self::with(Exit::Unknown, text)
            }
            Error::Invalid(_) => Self::with(Exit::Usage, text),
            _ => Self::new(text),
        }
    }
}
