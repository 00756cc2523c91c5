//! The programs that are compared, each started for a measurement and ended after it.
//!
//! * [`rollcall`] ours, the release binary
//! * [`etcd`] one or three members
//! * [`bare`], [`prober`] tonic, or TCP connections, without anything behind them: what the machine allows

pub(crate) mod bare;
pub(crate) mod etcd;
pub(crate) mod prober;
pub(crate) mod rollcall;

use crate::{
    machine::first_line,
    outcome::{Outcome, Problem},
    process::Place,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

/// Longest wait for a server to be ready.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// Somebody else's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    Etcd,
    Knot,
    Dnsmasq,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Knot => "knotd",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Etcd => "etcd-server",
            Self::Knot => "knot",
            Self::Dnsmasq => "dnsmasq-base",
        }
    }

    /// Where Debian puts it; `/usr/sbin` is not on the path of everybody.
    pub(crate) fn path(self) -> Outcome<PathBuf> {
        let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        let mut found = places.iter().map(|place| Path::new(place).join(self.name()));
        found.find(|path| path.is_file()).ok_or_else(|| self.missing())
    }

    fn missing(self) -> Problem {
        format!(
            "{} is not installed; on Debian: apt-get install --no-install-recommends {} (and see that it does not start \
             by itself)",
            self.name(),
            self.package()
        )
        .into()
    }
}

/// All that are missing, in one message.
pub(crate) fn require(programs: &[Program]) -> Outcome {
    let missing: Vec<&Program> = programs.iter().filter(|p| p.path().is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|program| program.name()).collect();
    let packages: Vec<&str> = missing.iter().map(|program| program.package()).collect();
    Err(format!(
        "not installed: {}. On Debian: apt-get install --no-install-recommends {} (and see that they do not start by \
         themselves)",
        names.join(", "),
        packages.join(" ")
    )
    .into())
}

/// What a program says about its version.
pub(crate) fn version(program: Program) -> Outcome<String> {
    let flag = match program {
        Program::Knot => "-V",
        _ => "--version",
    };
    first_line(Command::new(program.path()?).arg(flag))
}

/// Where servers keep their data: on the disk of the working directory, never on a file system in memory by chance.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) rollcall: PathBuf,
    directory: TempDir,
}

impl Lab {
    pub(crate) fn open(rollcall: Option<PathBuf>, directory: Option<&Path>) -> Outcome<Self> {
        let rollcall = match rollcall {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("rollcall"),
        };
        if !rollcall.is_file() {
            return Err(format!(
                "{} is no file: cargo build --release, or pass --rollcall",
                rollcall.display()
            )
            .into());
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("rollcall-bench-");
        let directory = match directory {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir_in(rollcall.parent().unwrap_or_else(|| Path::new(".")))?,
        };
        Ok(Self { rollcall, directory })
    }

    /// A directory that nobody had before.
    pub(crate) fn fresh(&self, name: &str) -> Outcome<PathBuf> {
        let directory = tempfile::Builder::new().prefix(name).tempdir_in(self.directory.path())?;
        Ok(directory.keep())
    }
}

/// How many members, and where they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    One,
    Three,
}

impl Size {
    pub(crate) fn members(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }

    pub(crate) fn place(self) -> Place {
        match self {
            Self::One => Place::Core0,
            Self::Three => Place::Anywhere,
        }
    }
}
