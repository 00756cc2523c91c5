//! The program `rollcall`: reads its arguments and carries them out.

use std::process::ExitCode;

use clap::Parser;
use rollcall_registry::cli::args::Cli;
use rollcall_registry::cli::execute;

fn main() -> ExitCode {
    // Wrong arguments end the program with code 2, help and version with 0.
    execute(Cli::parse()).into()
}
