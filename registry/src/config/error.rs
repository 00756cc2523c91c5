//! What is wrong with a configuration, in words that name the setting and the way out.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, such as `raft.election_min`.
    pub key: String,
    /// Where its value came from, where known: a file, an environment variable, a flag.
    pub origin: Option<String>,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(out, "`{}` (from {origin}) {}", self.key, self.text),
            None => write!(out, "`{}` {}", self.key, self.text),
        }
    }
}

/// Why no configuration could be made. The text of each is complete: print it and exit.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file given by `--config` cannot be read.
    #[error("read configuration file {}: {source}", path.display())]
    Read {
        /// The file as it was given.
        path: PathBuf,
        /// The refusal of the operating system.
        source: io::Error,
    },
    /// The file is not TOML; the text shows the line.
    #[error("configuration file {}: {text}", path.display())]
    Syntax {
        /// The file as it was given.
        path: PathBuf,
        /// Line, column and what was expected.
        text: String,
    },
    /// Unknown keys, values of the wrong type, and values outside their range: all that were
    /// found, not only the first.
    #[error("{}", lines(.0))]
    Refused(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
