//! How fast, how small, how soon: the registry side by side with what people use today.
//!
//! `cargo run --release -p rollcall-bench -- all | register | heartbeat | ...` starts and ends all servers by itself,
//! takes ours and theirs in turn, and prints a table; `--json` and `--plots` write the same for programs and for pages.
//! It needs two cores, and Debian's packages of the peers: what is missing is said with the command that installs it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod dns;
mod load;
mod machine;
mod outcome;
mod plot;
mod process;
mod report;
mod servers;
mod work;

use clap::{Parser, Subcommand};
use machine::Machine;
use mimalloc::MiMalloc;
use outcome::Outcome;
use servers::{Lab, Program};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Instant};
use tokio::signal::unix::{SignalKind, signal};
use work::Bench;

/// As in the registry: the bare peers that run in this program are to have no worse one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures the registry side by side with what people use today.
#[derive(Debug, Parser)]
struct Arguments {
    /// Every workload within a minute, on less data, with fewer and shorter repeats: for a first look.
    #[arg(long, global = true)]
    quick: bool,
    /// Times that everything is repeated, ours and theirs in turn; 5 by default, 2 with --quick.
    #[arg(long, global = true, value_parser = clap::value_parser!(u8).range(1..=50))]
    repeats: Option<u8>,
    /// Write all rows there.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the plots of the curves there, as SVG.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// The binary that is measured; beside this program otherwise.
    #[arg(long, global = true, value_name = "FILE")]
    rollcall: Option<PathBuf>,
    /// Where servers keep their data: a real disk; beside the binary otherwise.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Register,
    Heartbeat,
    Resolve,
    Watch,
    Evict,
    Failover,
    Check,
    /// With so many instances of each service.
    Dns(u8),
    Scale,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Everything below.
    All,
    /// Registrations a second and their latency, one node and three.
    Register,
    /// Leases kept alive a second.
    Heartbeat,
    /// Look-ups of ten instances, stale and linearizable.
    Resolve,
    /// How soon changes are with thousands of watchers.
    Watch,
    /// How late the registry notices silence.
    Evict,
    /// How long the death of a leader is felt.
    Failover,
    /// TCP checks a second, and what they cost.
    Check,
    /// Answers a second over UDP and TCP, beside knot, dnsmasq and hickory's server.
    Dns {
        /// Instances of each service.
        #[arg(long, default_value_t = work::dns::INSTANCES, value_parser = clap::value_parser!(u8).range(1..=10))]
        instances: u8,
    },
    /// What an instance costs when there are many.
    Scale,
    /// A peer with nothing behind it; started by the workloads.
    #[command(hide = true)]
    ServeBare { address: SocketAddr, reply: PathBuf },
    #[command(hide = true)]
    ProbeBare { port: u16, targets: u32, rate: u32 },
    #[command(hide = true)]
    ServeHickory { port: u16, services: usize, instances: usize },
    #[command(hide = true)]
    ServeEcho { port: u16 },
}

impl Workload {
    fn named(&self) -> Vec<Named> {
        match self {
            Self::All => Named::ALL.to_vec(),
            Self::Register => vec![Named::Register],
            Self::Heartbeat => vec![Named::Heartbeat],
            Self::Resolve => vec![Named::Resolve],
            Self::Watch => vec![Named::Watch],
            Self::Evict => vec![Named::Evict],
            Self::Failover => vec![Named::Failover],
            Self::Check => vec![Named::Check],
            Self::Dns { instances } => vec![Named::Dns(*instances)],
            Self::Scale => vec![Named::Scale],
            Self::ServeBare { .. }
            | Self::ProbeBare { .. }
            | Self::ServeHickory { .. }
            | Self::ServeEcho { .. } => Vec::new(),
        }
    }
}

impl Named {
    const ALL: [Self; 9] = [
        Self::Dns(work::dns::INSTANCES),
        Self::Register,
        Self::Heartbeat,
        Self::Resolve,
        Self::Watch,
        Self::Evict,
        Self::Failover,
        Self::Check,
        Self::Scale,
    ];

    /// Seconds that it took on two cores: once, and for each repeat.
    fn seconds(self) -> (usize, usize) {
        match self {
            Self::Register => (0, 65),
            Self::Heartbeat => (0, 50),
            Self::Resolve => (0, 40),
            Self::Watch | Self::Evict => (0, 75),
            Self::Failover => (100, 0),
            Self::Check => (0, 30),
            Self::Dns(_) => (0, 90),
            Self::Scale => (200, 0),
        }
    }

    fn peers(self) -> &'static [Program] {
        match self {
            Self::Dns(_) => &[Program::Knot, Program::Dnsmasq],
            Self::Register
            | Self::Heartbeat
            | Self::Resolve
            | Self::Watch
            | Self::Evict
            | Self::Failover
            | Self::Scale => &[Program::Etcd],
            Self::Check => &[],
        }
    }

    async fn run(self, bench: &mut Bench) -> Outcome {
        match self {
            Self::Register => Box::pin(work::register::run(bench)).await,
            Self::Heartbeat => Box::pin(work::heartbeat::run(bench)).await,
            Self::Resolve => Box::pin(work::resolve::run(bench)).await,
            Self::Watch => Box::pin(work::watch::run(bench)).await,
            Self::Evict => Box::pin(work::evict::run(bench)).await,
            Self::Failover => Box::pin(work::failover::run(bench)).await,
            Self::Check => Box::pin(work::check::run(bench)).await,
            Self::Dns(instances) => Box::pin(work::dns::run(bench, instances)).await,
            Self::Scale => Box::pin(work::scale::run(bench)).await,
        }
    }
}

// One thread: the load has one core, and a second thread would be on the server's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = async {
        match &arguments.workload {
            Workload::ServeBare { address, reply } => servers::bare::serve(*address, reply).await,
            Workload::ProbeBare { port, targets, rate } => {
                servers::prober::probe(*port, *targets, *rate).await
            }
            Workload::ServeHickory { port, services, instances } => {
                let data = dns::data::Data { services: *services, instances: *instances };
                dns::serve::hickory(*port, data).await
            }
            Workload::ServeEcho { port } => dns::serve::echo(*port),
            _ => compare(&arguments).await,
        }
    };
    // Dropping a workload ends its servers.
    let outcome = tokio::select! {
        biased;
        outcome = told_to_stop() => outcome,
        outcome = done => outcome,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGINT or SIGTERM.
async fn told_to_stop() -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked?,
        _ = terminate.recv() => {}
    }
    Err("interrupted".into())
}

async fn compare(arguments: &Arguments) -> Outcome {
    let workloads = arguments.workload.named();
    let mut peers: Vec<Program> =
        workloads.iter().flat_map(|workload| workload.peers()).copied().collect();
    peers.sort_unstable();
    peers.dedup();
    servers::require(&peers)?;
    let lab = Lab::open(arguments.rollcall.clone(), arguments.data.as_deref())?;
    let machine = Machine::look(&lab.rollcall, &peers)?;
    let repeats = arguments.repeats.map_or(if arguments.quick { 2 } else { 5 }, usize::from);
    let mut bench = Bench::new(lab, arguments.quick, repeats);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p rollcall-bench -- {}", words.join(" "));
    if !arguments.quick {
        let seconds = workloads.iter().map(|workload| workload.seconds());
        let all: usize = seconds.map(|(once, each)| once + each * repeats).sum();
        bench.say(&format!("{repeats} repeats take about {} minutes", all.div_ceil(60)));
    }
    for workload in workloads {
        let begin = Instant::now();
        if let Err(problem) = workload.run(&mut bench).await {
            bench.failed(&*problem);
        }
        bench.say(&format!("{workload:?}: {} s", begin.elapsed().as_secs()));
        // Whatever comes next: it is a long run.
        if let Some(path) = &arguments.json {
            bench.report.write_json(path, &machine, &command, arguments.quick)?;
        }
    }
    bench.finish();
    // What was measured before something failed is told all the same.
    println!("{}", bench.report.markdown(&machine, &command)?);
    if let Some(directory) = &arguments.plots {
        plot::draw_all(directory, bench.report.curves())?;
    }
    match bench.problems() {
        [] => Ok(()),
        problems => Err(format!("failed:\n{}", problems.join("\n")).into()),
    }
}
