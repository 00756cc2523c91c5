//! Configuration of a server: every setting, its default, and where its value came from.
//!
//! Start at [`load`]: defaults < file < environment < flags, merged once, then validated. This
//! module is the only reader of the environment; everything else is handed a [`Config`].
//! `sections.rs` is the data (`dns.rs` that of DNS, with its reading), `layers.rs` the merging, `validate.rs` the rules, `options.rs` what a
//! node is started with, `error.rs` what a person is told. There is no reload: a node reads its configuration once.

mod dns;
mod error;
mod layers;
mod options;
mod sections;
#[cfg(test)]
mod tests;
mod validate;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use dns::DnsSection;
pub use error::{ConfigError, Problem};
pub use layers::{Loaded, Override, Sources, load};
pub use sections::{
    ApiSettings, CheckSettings, ClusterSettings, JournalSettings, LeaseSettings, LimitSettings,
    ListenSettings, LogFormat, NodeSettings, ProtectionSettings, RaftSettings, TelemetrySettings,
};

/// All settings of one server. The default runs one node on a laptop, on loopback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is and where it keeps its data.
    pub node: NodeSettings,
    /// The sockets of this node.
    pub listen: ListenSettings,
    /// How this node finds its cluster.
    pub cluster: ClusterSettings,
    /// Consensus and its log.
    pub raft: RaftSettings,
    /// Leases.
    pub lease: LeaseSettings,
    /// The gate that holds back mass expiry.
    pub protection: ProtectionSettings,
    /// Active checks.
    pub checks: CheckSettings,
    /// Streams that a node keeps open.
    pub limits: LimitSettings,
    /// The journal of lifecycle events.
    pub journal: JournalSettings,
    /// Limits of the public gRPC server.
    pub api: ApiSettings,
    /// DNS.
    pub dns: DnsSection,
    /// What the node writes to standard error.
    pub telemetry: TelemetrySettings,
}

impl Config {
    /// The node's name: the configured one, else the host name.
    pub fn node_name(&self) -> String {
        if self.node.name.is_empty() {
            gethostname::gethostname().to_string_lossy().into_owned()
        } else {
            self.node.name.clone()
        }
    }

    /// True where no listener can be reached from another machine.
    pub fn is_loopback(&self) -> bool {
        self.listeners().iter().all(|(_, address)| address.ip().is_loopback())
    }

    /// Whether instances on loopback are registered and probed.
    pub fn allow_loopback(&self) -> bool {
        self.checks.allow_loopback.unwrap_or_else(|| self.is_loopback())
    }

    /// Every rule that these settings break; empty when they can be used.
    pub fn validate(&self) -> Vec<Problem> {
        validate::problems(self)
    }

    fn listeners(&self) -> [(&'static str, SocketAddr); 4] {
        [
            ("listen.grpc", self.listen.grpc),
            ("listen.http", self.listen.http),
            ("listen.dns", self.listen.dns),
            ("listen.peer", self.listen.peer),
        ]
    }
}

/// The settings as a TOML file that [`load`] reads back to the same settings.
pub fn render(config: &Config) -> String {
    toml::to_string_pretty(config).expect("tables of strings, numbers and lists are TOML")
}
