//! Proves the promises of the registry on real processes: kills them, fills them, measures them.
//!
//! `cargo run --release -p rollcall-registry --example prove -- EXPERIMENT`. Each experiment prints a table and the
//! promises that it checked; the exit code is 1 when one was broken. Everything runs on loopback and is bounded in
//! count and time; every process that is started is also ended, by its id.

mod failover;
mod footprint;
mod leader_changes;
mod load;
mod nodes;
mod report;
mod runner;
mod storm;
mod witness;

use clap::{Parser, Subcommand};
use nodes::Lab;
use report::{Outcome, Report};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
struct Arguments {
    /// The binary to be proved; beside this program otherwise.
    #[arg(long, global = true)]
    rollcall: Option<PathBuf>,
    /// Keep the directories with data and logs.
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// kill -9 of a `rollcall run`: time from its last acknowledged beat to invisible.
    Runner {
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// kill -9 of the leader of three under load, then of all three.
    Failover {
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        #[arg(long, default_value_t = 10_000)]
        instances: usize,
    },
    /// Silent and beating instances under three leader changes in a row.
    LeaderChanges {
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Memory, start-up and throughput of one node with many instances.
    Footprint {
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        #[arg(long, default_value_t = 100_000)]
        instances: usize,
        /// Length of each measurement of throughput, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Many leases that run out at once.
    Storm {
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        #[arg(long, default_value_t = 100_000)]
        instances: usize,
        #[arg(long, default_value_t = 10_000)]
        silent: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let done = async {
        let mut lab = Lab::open(arguments.rollcall, arguments.keep)?;
        // Boxed: the experiments are large, and only one of them runs.
        run(arguments.experiment, &mut lab, &mut report).await
    };
    // Dropping the experiment ends its processes.
    let outcome = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        outcome = done => outcome,
    };
    report.finish(outcome)
}

async fn run(experiment: Experiment, lab: &mut Lab, report: &mut Report) -> Outcome {
    match experiment {
        Experiment::Runner { rounds } => Box::pin(runner::run(lab, report, rounds)).await,
        Experiment::Failover { rounds, instances } => {
            Box::pin(failover::run(lab, report, rounds, instances)).await
        }
        Experiment::LeaderChanges { rounds } => {
            Box::pin(leader_changes::run(lab, report, rounds)).await
        }
        Experiment::Footprint { rounds, instances, seconds } => {
            let length = std::time::Duration::from_secs(seconds);
            Box::pin(footprint::run(lab, report, rounds, instances, length)).await
        }
        Experiment::Storm { rounds, instances, silent } => {
            Box::pin(storm::run(lab, report, rounds, instances, silent)).await
        }
    }
}
