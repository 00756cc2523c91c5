//! The command line: what can be asked for, and what each way of ending means.
//!
//! `args/` is the command tree and its help, `values.rs` the words that stand in it. Parsing
//! decides nothing and touches nothing; carrying a command out is the work of other modules.

pub mod args;
mod values;

pub use values::{
    Consistency, EndpointArg, HealthArg, InstanceArg, MetadataPair, NodeArg, RegistryAddress,
    ServiceArg, SettingArg,
};

/// How the program ends. `run` ends with its child's code instead.
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
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
