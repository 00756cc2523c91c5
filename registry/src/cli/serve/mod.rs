//! Nodes in this process: `server`, `dev`, `config`.

mod addresses;
mod config;
mod demo;
mod dev;
mod nodes;
mod server;

pub(super) use config::config;
pub(super) use dev::dev;
pub(super) use server::server;

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::runtime::Runtime;

use super::args::ServerArgs;
use super::{Exit, Failure};
use crate::config::{ConfigError, Loaded, load};
use crate::raft::runtime::seed_randomness;

/// Reads the configuration: file, environment, flags.
fn load_config(args: &ServerArgs) -> Result<Loaded, Failure> {
    let loaded = load(&args.sources().with_process_environment());
    loaded.map_err(|error| match error {
        ConfigError::Read { .. } => Failure::with(Exit::Usage, error.to_string()),
        ConfigError::Syntax { .. } | ConfigError::Refused(_) => {
            Failure::with(Exit::Usage, format!("the configuration cannot be used:\n{error}"))
        }
    })
}

/// Takes as many open files as this user may have: shells allow 1,024 by default, connections of clients need more.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, limit = limit.current, "raise the limit of open files");
        }
    }
}

/// A runtime for nodes, its randomness seeded by the operating system.
fn runtime() -> Result<(Runtime, u64), Failure> {
    let seed = SysRng.try_next_u64();
    let seed = seed.map_err(|error| Failure::new(format!("get randomness: {error}")))?;
    seed_randomness(seed);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok((runtime.map_err(|error| Failure::new(format!("start: {error}")))?, seed))
}
