//! What a case has at hand: the binary under test, a directory, a mark for what it makes outside of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Checked;
use crate::program::{Program, find};
use crate::runner::NOTE;

/// The stage of one case.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The binary under test.
    pub(crate) rollcall: PathBuf,
    /// The case's own directory; removed afterwards.
    pub(crate) directory: PathBuf,
    /// Beginning of the names of network namespaces of this case.
    pub(crate) mark: String,
    /// How often that which is measured is repeated.
    pub(crate) rounds: u32,
}

impl Stage {
    /// A stage over these.
    pub(crate) fn new(rollcall: PathBuf, directory: PathBuf, mark: String, rounds: u32) -> Self {
        Self { rollcall, directory, mark, rounds }
    }

    /// Writes a file of the case.
    pub(crate) fn write(&self, name: &str, text: &str) -> Checked<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The path of a file of the case.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts another program.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> Checked<Program> {
        Program::start(&self.directory, name, command)
    }

    /// A figure worth showing.
    #[expect(clippy::print_stdout, clippy::unused_self, reason = "read by the runner")]
    pub(crate) fn note(&self, text: &str) {
        println!("{NOTE}{text}");
    }
}

/// A call of an installed program.
pub(crate) fn installed(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| Path::new(name).to_owned()))
}
