//! `dev`, `server` and `config`: what a node is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::values::{self, SettingArg};
use crate::config::{ListenSettings, Override, Sources};

const DEFAULT_PORT_BASE: u16 = 8300;
const HTTP_OFFSET: u16 = 200;
const GRPC_OFFSET: u16 = 202;
const DNS_OFFSET: u16 = 300;
const NODE_STEP: u16 = 10;
/// The highest base whose ninth node still has a DNS port.
const PORT_BASE_MAX: i64 = 65_535 - DNS_OFFSET as i64 - 8 * NODE_STEP as i64;

/// Arguments of `rollcall dev`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  rollcall dev
  rollcall dev --nodes 3 --demo
  rollcall dev --port-base 0 -o json

With -o json one line is printed when all nodes are ready.")]
pub struct DevArgs {
    /// How many nodes to run, 1 to 9
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,

    /// First port: peer P, HTTP P+200, gRPC P+202, DNS P+300, and 10 more for each further node;
    /// 0 takes any free ports
    #[arg(long, value_name = "P", default_value_t = DEFAULT_PORT_BASE)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=PORT_BASE_MAX))]
    pub port_base: u16,

    /// Keep the data in this directory; a temporary one is used otherwise
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Also run three small services, one of which now and then dies and comes back
    #[arg(long)]
    pub demo: bool,
}

impl DevArgs {
    /// The listeners of node `index`, counted from 0: loopback, no two nodes on one port.
    pub fn listen(&self, index: u16) -> ListenSettings {
        let at = |offset: u16| {
            let fixed = self.port_base != 0;
            let port = if fixed { self.port_base + offset + NODE_STEP * index } else { 0 };
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        };
        ListenSettings {
            peer: at(0),
            http: at(HTTP_OFFSET),
            grpc: at(GRPC_OFFSET),
            dns: at(DNS_OFFSET),
            ..ListenSettings::default()
        }
    }
}

/// Arguments of `rollcall server`, and of `rollcall config check|show`: the flags of a node.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Examples:
  rollcall server --bootstrap --data-dir /var/lib/rollcall
  rollcall server --config rollcall.toml --set raft.heartbeat=50ms
  rollcall server --name n2 --listen-peer 127.0.0.1:8310 --join 127.0.0.1:8300

Every setting stands in config.example.toml. Precedence: defaults, file, environment
(ROLLCALL__SECTION__KEY), --set, then the flags below.")]
pub struct ServerArgs {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of this node; the host name otherwise
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Directory for everything the node keeps
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where to serve the gRPC API
    #[arg(long, value_name = "IP:PORT")]
    pub listen_grpc: Option<SocketAddr>,

    /// Where to serve health, readiness and metrics
    #[arg(long, value_name = "IP:PORT")]
    pub listen_http: Option<SocketAddr>,

    /// Where to answer DNS, UDP and TCP
    #[arg(long, value_name = "IP:PORT")]
    pub listen_dns: Option<SocketAddr>,

    /// Where to talk to the other members
    #[arg(long, value_name = "IP:PORT")]
    pub listen_peer: Option<SocketAddr>,

    /// Make a new cluster of this node; on exactly one node of a cluster
    #[arg(long)]
    pub bootstrap: bool,

    /// Peer address of a member to join; may be repeated
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = values::peer_address)]
    pub join: Vec<String>,

    /// Allow listeners that are not on loopback, without TLS and access control
    #[arg(long)]
    pub insecure: bool,

    /// Any setting, such as raft.heartbeat=50ms; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting)]
    pub set: Vec<SettingArg>,
}

impl ServerArgs {
    /// The file and the flags as sources of the configuration, without the environment.
    pub fn sources(&self) -> Sources {
        let mut flags: Vec<Override> = Vec::new();
        for SettingArg { key, text } in &self.set {
            flags.push(Override { key: key.clone(), text: text.clone(), origin: "--set".into() });
        }
        let mut named = |flag: &str, key: &str, text: Option<String>| {
            let with = |text| Override { key: key.into(), text, origin: flag.into() };
            flags.extend(text.map(with));
        };
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let address = |address: &Option<SocketAddr>| address.map(|address| address.to_string());
        named("--name", "node.name", self.name.clone());
        named("--data-dir", "node.data_dir", self.data_dir.as_ref().map(path));
        named("--listen-grpc", "listen.grpc", address(&self.listen_grpc));
        named("--listen-http", "listen.http", address(&self.listen_http));
        named("--listen-dns", "listen.dns", address(&self.listen_dns));
        named("--listen-peer", "listen.peer", address(&self.listen_peer));
        named("--bootstrap", "cluster.bootstrap", self.bootstrap.then(|| "true".into()));
        named("--join", "cluster.join", (!self.join.is_empty()).then(|| self.join.join(",")));
        named("--insecure", "listen.insecure", self.insecure.then(|| "true".into()));
        Sources { file: self.config.clone(), flags, ..Sources::default() }
    }
}

/// Actions of `rollcall config`. Both take the flags of `server`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong with a configuration, and exit
    #[command(after_help = "Examples:
  rollcall config check --config rollcall.toml")]
    Check(ServerArgs),
    /// Print the settings that count, and where each one came from
    #[command(after_help = "Examples:
  rollcall config show
  rollcall config show --config rollcall.toml --set lease.default_ttl=5s")]
    Show(ServerArgs),
}
