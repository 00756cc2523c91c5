//! What every command that talks to a registry has: a client, and how to print.

use std::time::Duration;

use rollcall_client::{Builder, Client};

use super::args::Output;
use super::failure::Failure;
use super::values::RegistryAddress;

/// Longest time for one question. An election after a leader's death takes less, so that a write survives it.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a connection: the next address is tried then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Client and output of one run of the program.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) output: Output,
}

impl Context {
    /// Connects nothing yet.
    pub(super) fn new(addresses: &[RegistryAddress], output: Output) -> Result<Self, Failure> {
        let client = Builder::new(addresses.iter().map(RegistryAddress::as_str))
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { client, output })
    }

    /// Whether data is for programs.
    pub(super) fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}
