//! What can go wrong here is told, never handled.

use std::{error::Error, fmt::Display};

pub(crate) type Problem = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Problem>;

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Into<Problem>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Outcome<T> {
        self.map_err(|problem| format!("{what}: {}", told(&*problem.into())).into())
    }
}

/// A problem with its causes: tonic says of most failures "transport error", and the reason below it.
pub(crate) fn told(problem: &(dyn Error + 'static)) -> String {
    let mut text = problem.to_string();
    let mut cause = problem.source();
    while let Some(below) = cause {
        let more = below.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = below.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_problem_is_told_with_what_was_done_and_why_it_failed() {
        #[derive(Debug)]
        struct Above(io::Error);
        impl Display for Above {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("transport error")
            }
        }
        impl Error for Above {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let failed: Result<(), Above> = Err(Above(io::Error::other("connection refused")));
        let problem = failed.doing("dns, knot").doing("repeat 2").unwrap_err();
        assert_eq!(problem.to_string(), "repeat 2: dns, knot: transport error: connection refused");
    }
}
