//! The command tree, with its help. Start at [`Cli`]; each group of commands has a file.
//!
//! `serve.rs` runs registry nodes, `own.rs` keeps a service registered, `read.rs` asks,
//! `operate.rs` changes what others registered and looks after the cluster.
//! Clap ends the program with code 2 for anything that cannot be parsed.

mod operate;
mod own;
mod read;
mod serve;
#[cfg(test)]
mod tests;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use operate::{
    AdminArgs, EnableArgs, LeaderCommand, MemberCommand, PolicyCommand, PolicySetArgs,
    ProtectionCommand, SnapshotCommand,
};
pub use own::{RegisterArgs, RunArgs, SpecArgs};
pub use read::{CheckCommand, EventsArgs, LsArgs, ResolveArgs, SelectorArgs, WatchArgs, WhyArgs};
pub use serve::{ConfigCommand, DevArgs, ServerArgs};

use super::values::{self, InstanceArg, RegistryAddress};

const EXIT_CODES: &str = "Exit codes:
  0 ok   1 error   2 usage   3 unknown service or instance
  4 known, but no instance is routable   5 no registry node answered
  70 the disk of a server failed   128+N ended by signal N
  (`run` exits with the code of the program it ran)

Examples:
  rollcall dev --demo
  rollcall run --service web --port 8080 -- python3 -m http.server 8080
  rollcall resolve web
  rollcall why web-1";

/// Service discovery that knows who is there: services answer the roll call, or are struck off.
#[derive(Clone, Debug, Parser)]
#[command(name = "rollcall", version, after_help = EXIT_CODES, infer_subcommands = false)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Registry nodes to talk to: `HOST[:PORT]`, several separated by commas
    #[arg(long, global = true, env = "ROLLCALL_ADDR", value_name = "ADDR")]
    #[arg(value_delimiter = ',', value_parser = values::registry_address)]
    #[arg(default_value = "127.0.0.1:8502", help_heading = "Global options")]
    pub addr: Vec<RegistryAddress>,

    /// How to print data
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    #[arg(value_name = "FORMAT", help_heading = "Global options")]
    pub output: Output,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How data is printed. Messages always go to standard error, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs: the field names of the API, lists as arrays, 64-bit ids as hex strings
    Json,
}

/// Everything that `rollcall` can be asked to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run one or more nodes in this process, on loopback, to try things out
    Dev(DevArgs),
    /// Run a registry node
    Server(ServerArgs),
    /// Check a configuration, or show the one that counts
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Register a service, run a program as its instance, deregister when it ends
    Run(RunArgs),
    /// Register one instance, and beat for it until interrupted
    Register(RegisterArgs),
    /// Find the instances of a service that can be called now
    Resolve(ResolveArgs),
    /// List services, or all instances of one service
    Ls(LsArgs),
    /// Follow services: their instances now, then every change
    Watch(WatchArgs),
    /// Remove an instance
    #[command(after_help = "Examples:
  rollcall deregister web/web-1
  rollcall deregister shop/web/web-1")]
    Deregister {
        /// [NAMESPACE/]SERVICE/ID, or an ID that only one instance of the namespace `default` has
        #[arg(value_parser = values::instance)]
        instance: InstanceArg,
    },
    /// Give an instance no new work; it stays registered
    #[command(after_help = "Examples:
  rollcall drain web/web-1 --reason 'new kernel' --for 30m
  rollcall enable web/web-1")]
    Drain(AdminArgs),
    /// Take an instance out on purpose; it is neither expired nor removed meanwhile
    #[command(after_help = "Examples:
  rollcall maintenance web/web-1 --reason 'disk swap' --for 2h
  rollcall enable web/web-1")]
    Maintenance(AdminArgs),
    /// End draining or maintenance of an instance
    Enable(EnableArgs),
    /// Tell what happened to an instance: who did what, when and why
    Why(WhyArgs),
    /// Look at the checks of an instance
    #[command(subcommand)]
    Check(CheckCommand),
    /// Show the journal of everything that happened, oldest first
    Events(EventsArgs),
    /// Show or set how a service is treated
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show or release the protection against mass expiry
    #[command(subcommand)]
    Protection(ProtectionCommand),
    /// Show the cluster: members, leader, lag, revision, state hash
    #[command(after_help = "Examples:
  rollcall status
  rollcall status -o json --addr 127.0.0.1:8512")]
    Status,
    /// Add, remove or promote members of the cluster
    #[command(subcommand)]
    Member(MemberCommand),
    /// Move the leadership
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// Make, save or look into a snapshot of the state
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Print the completion script of a shell
    #[command(after_help = "Examples:
  rollcall completion bash
  rollcall completion zsh")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// The completion script of `shell` for the whole command tree.
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rollcall", &mut script);
    script
}
