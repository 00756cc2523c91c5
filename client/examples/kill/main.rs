//! What callers notice when backends die, hang, slow down, fail or are restarted, and when the registry is gone:
//! real processes under load, this library side by side with tonic's `balance_channel` and with direct calls.
//!
//! `cargo build -p rollcall-registry && cargo run -p rollcall-client --example kill -- run`. It prints a table in
//! Markdown and the aims that were met or missed, and fails where one was missed. Everything runs on loopback, is bounded in count and time, and every
//! process that is started is also ended, by its id.

mod backend;
mod fleet;
mod fresh;
mod load;
mod outage;
mod report;
mod scenario;
mod way;

use clap::{Args, Parser, Subcommand};
use report::Report;
use scenario::Fault;
use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

/// What can go wrong here is told, never handled.
type Problem = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Problem>;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Run the scenarios and print what was found.
    Run(Run),
    /// One backend; started by `run`.
    #[command(hide = true)]
    Backend(backend::Backend),
    /// A process that starts while the registry is gone; started by `run`.
    #[command(hide = true)]
    Fresh(fresh::Fresh),
}

#[derive(Args)]
struct Run {
    /// The registry's binary; beside this program otherwise.
    #[arg(long)]
    rollcall: Option<PathBuf>,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Callers at the same time, each with one call in flight.
    #[arg(long, default_value_t = 32)]
    callers: usize,
    /// How long the registry is gone, in seconds; 0 leaves that out.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Only these scenarios; all otherwise.
    #[arg(long, value_enum)]
    only: Vec<Fault>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match (Arguments::parse().role, runtime) {
        (_, Err(error)) => Err(error.into()),
        (Role::Run(run), Ok(runtime)) => runtime.block_on(all(&run)),
        (Role::Backend(backend), Ok(runtime)) => runtime.block_on(backend.serve()),
        (Role::Fresh(fresh), Ok(runtime)) => runtime.block_on(fresh.call()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            report::complain(&*problem);
            ExitCode::FAILURE
        }
    }
}

async fn all(run: &Run) -> Outcome {
    let binary = match &run.rollcall {
        Some(binary) => binary.clone(),
        None => fleet::beside_this_program()?,
    };
    let mut report = Report::new(run.seconds, run.callers);
    let wanted = |fault: &Fault| run.only.is_empty() || run.only.contains(fault);
    let length = Duration::from_secs(run.seconds);
    for fault in Fault::ALL.into_iter().filter(wanted) {
        scenario::compare(fault, &binary, length, run.callers, &mut report).await?;
    }
    if run.outage > 0 {
        outage::survive(&binary, Duration::from_secs(run.outage), run.callers, &mut report).await?;
    }
    match report.aims() {
        0 => Ok(()),
        missed => Err(format!("{missed} aims were missed").into()),
    }
}
