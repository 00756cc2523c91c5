//! The command line: what can be asked for, how it is carried out, and what each way of ending means.
//!
//! * `args/`, `values`: the command tree, its help and its words. Parsing decides nothing and touches nothing
//! * `read/`, `operate/`: questions and operators' commands, through the client library
//! * `own/`: what keeps an instance registered; `serve/`: nodes in this process
//! * `json`, `words`, `stdout`: how answers look; data on standard output, messages on standard error

pub mod args;
mod context;
mod failure;
mod json;
mod lookup;
mod operate;
mod own;
mod read;
mod serve;
mod signals;
mod stdout;
mod telemetry;
mod values;
mod words;

use args::{Cli, Command};
use context::Context;
use failure::Failure;

pub use values::{
    CheckArg, Consistency, EndpointArg, HealthArg, InstanceArg, MetadataPair, NodeArg,
    RegistryAddress, ServiceArg, SettingArg,
};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Anything that has no code of its own.
    Error,
    /// The command line or the configuration cannot be used.
    Usage,
    /// No such service or instance.
    Unknown,
    /// The service is known, but none of its instances is routable.
    NoneRoutable,
    /// No registry node answered.
    Unreachable,
    /// The disk of a server failed: what it holds can no longer be trusted.
    DiskFailed,
    /// Ended by this signal.
    Signal(u8),
    /// The code of the program that `run` ran.
    Child(u8),
}

impl Exit {
    /// The code given to the operating system.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Unknown => 3,
            Self::NoneRoutable => 4,
            Self::Unreachable => 5,
            Self::DiskFailed => 70,
            Self::Signal(number) => number.saturating_add(128),
            Self::Child(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// How a command ended, where it did not fail.
type Outcome = Result<Exit, Failure>;

/// Carries a command out. Says on standard error why, where it ends with anything but success.
pub fn execute(cli: Cli) -> Exit {
    carry_out(cli).unwrap_or_else(|failure| failure.tell())
}

fn carry_out(cli: Cli) -> Outcome {
    let Cli { addr, output, command } = cli;
    match command {
        Command::Server(args) => serve::server(&args),
        Command::Dev(args) => serve::dev(&args, output),
        Command::Config(command) => serve::config(command, output),
        Command::Completion { shell } => stdout::bytes(&args::completion(shell)),
        command => {
            telemetry::quiet();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::new(format!("start: {error}")))?;
            let outcome = runtime.block_on(async {
                let context = Context::new(&addr, output)?;
                // These go on until they are interrupted, and have something to do then.
                let until_interrupted = matches!(
                    command,
                    Command::Run(_) | Command::Register(_) | Command::Watch(_) | Command::Events(_)
                );
                let work = Box::pin(ask(context, command));
                if until_interrupted {
                    return work.await;
                }
                signals::unless_interrupted(work).await
            });
            // A reader of standard input or a name lookup may block a thread for long.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn ask(context: Context, command: Command) -> Outcome {
    let context = &context;
    match command {
        Command::Run(args) => own::run(context, args).await,
        Command::Register(args) => own::register(context, args).await,
        Command::Resolve(args) => read::resolve(context, args).await,
        Command::Ls(args) => read::ls(context, args).await,
        Command::Watch(args) => read::watch(context, args).await,
        Command::Why(args) => read::why(context, args).await,
        Command::Check(command) => read::check(context, command).await,
        Command::Events(args) => read::events(context, args).await,
        Command::Deregister { instance } => operate::deregister(context, instance).await,
        Command::Drain(args) => operate::drain(context, args).await,
        Command::Maintenance(args) => operate::maintenance(context, args).await,
        Command::Enable(args) => operate::enable(context, args).await,
        Command::Policy(command) => operate::policy(context, command).await,
        Command::Protection(command) => operate::protection(context, command).await,
        Command::Status => operate::status(context).await,
        Command::Member(command) => operate::member(context, command).await,
        Command::Leader(command) => operate::leader(context, command).await,
        Command::Snapshot(command) => operate::snapshot(context, command).await,
        Command::Server(_) | Command::Dev(_) | Command::Config(_) | Command::Completion { .. } => {
            unreachable!("carried out without a client")
        }
    }
}
