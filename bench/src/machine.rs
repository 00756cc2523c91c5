//! What the figures belong to: machine, system, and the versions of all programs.

use crate::{
    outcome::Outcome,
    servers::{self, Program},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path, process::Command};
use sysinfo::System;

/// Said with every table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) system: String,
    pub(crate) kernel: String,
    /// Load average of the minute before the run: above 1 somebody else was at work.
    pub(crate) load_before: f64,
    /// Program and the first line of what it says about its version.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Machine {
    /// `programs` are those that will be measured; one that is missing is no error here.
    pub(crate) fn look(rollcall: &Path, programs: &[Program]) -> Outcome<Self> {
        let system = System::new_all()?;
        let mut versions = BTreeMap::new();
        versions
            .insert("rollcall".to_owned(), first_line(Command::new(rollcall).arg("--version"))?);
        for program in programs {
            if let Ok(version) = servers::version(*program) {
                versions.insert(program.name().to_owned(), version);
            }
        }
        let cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
        Ok(Self {
            cpu: cpu.unwrap_or_default(),
            cores: system.cpus().len(),
            memory_mib: system.total_memory() >> 20,
            system: System::long_os_version().unwrap_or_default(),
            kernel: System::kernel_version().unwrap_or_default(),
            load_before: System::load_average()?.one,
            versions,
        })
    }
}

/// First line that a command prints, on either of its outputs.
pub(crate) fn first_line(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
