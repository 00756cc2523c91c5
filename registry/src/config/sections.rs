//! Every setting of a server: its meaning, unit, default and range. Plain data, no behaviour.
//!
//! Ranges are stated here in words and enforced in `validate.rs`; the same words stand in
//! `config.example.toml`, which a test compares with these defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who this node is and where it keeps its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Name shown to people, 1-128 characters of `[A-Za-z0-9._-]`. Empty: the host name.
    pub name: String,
    /// Directory of the log, the snapshots and the node's identity. One node per directory.
    pub data_dir: PathBuf,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { name: String::new(), data_dir: PathBuf::from("rollcall-data") }
    }
}

/// The sockets of this node. Port 0 takes any free port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSettings {
    /// Public gRPC API.
    pub grpc: SocketAddr,
    /// HTTP: health, readiness and metrics.
    pub http: SocketAddr,
    /// DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// Traffic between the members of the cluster; not for clients.
    pub peer: SocketAddr,
    /// IP address that other members are told to dial. Unset: the listen address itself, so it
    /// is required where a listener is bound to a wildcard (0.0.0.0).
    pub advertise: Option<IpAddr>,
    /// Allow listeners that are not on loopback although there is no TLS and no access control.
    pub insecure: bool,
}

impl Default for ListenSettings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            grpc: loopback(8502),
            http: loopback(8500),
            dns: loopback(8600),
            peer: loopback(8300),
            advertise: None,
            insecure: false,
        }
    }
}

/// How this node finds its cluster. A node that already belongs to one needs neither setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Make a new cluster of this one node. Set on exactly one node; ignored, with a notice, when
    /// the data directory already belongs to a cluster.
    pub bootstrap: bool,
    /// Peer addresses (`host:port`) of members to join. Joining never makes a new cluster.
    pub join: Vec<String>,
}

/// Consensus and its log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSettings {
    /// Pace at which the leader contacts its followers. 10ms to 10s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Shortest wait before an election. At least 3 heartbeats.
    #[serde(with = "humantime_serde")]
    pub election_timeout_min: Duration,
    /// Longest wait before an election. More than `election_timeout_min`, at most 1m. Writes pause
    /// for at most twice this plus 0.3s when a leader dies.
    #[serde(with = "humantime_serde")]
    pub election_timeout_max: Duration,
    /// A connection to another member must stand within this. 10ms to 1m.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Another member must answer within this. 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub rpc_timeout: Duration,
    /// Idle time after which a connection to another member is pinged, and time to answer that ping.
    /// 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// A snapshot must be sent and installed within this. 1s to 24h.
    #[serde(with = "humantime_serde")]
    pub snapshot_timeout: Duration,
    /// Entries applied since the last snapshot that trigger the next one. 10 to 100,000,000.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot, so that a slow follower need not be sent the
    /// snapshot. 0 to 100,000,000.
    pub kept_entries: u64,
    /// A joining member becomes a voter when it lags by no more entries than this. 1 to 1,000,000.
    pub catch_up_entries: u64,
    /// Most writes waiting for their outcome on the leader; further ones are refused with
    /// RESOURCE_EXHAUSTED. 1 to 1,000,000.
    pub in_flight_max: u32,
    /// Most reads waiting for one confirmation by the leader; further ones are refused with
    /// RESOURCE_EXHAUSTED. 1 to 1,000,000.
    pub waiting_reads_max: u32,
    /// Largest write in bytes; a batch of 1,000 instances has to fit. 65,536 to 33,554,432.
    pub command_bytes_max: u32,
    /// Pace at which a member that nobody reads from finds out how far it is behind. 10ms to 10s.
    #[serde(with = "humantime_serde")]
    pub freshness_interval: Duration,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            connect_timeout: Duration::from_millis(500),
            rpc_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(1),
            snapshot_timeout: Duration::from_secs(600),
            snapshot_entries: 20_000,
            kept_entries: 5_000,
            catch_up_entries: 500,
            in_flight_max: 4_096,
            waiting_reads_max: 16_384,
            command_bytes_max: 12 << 20,
            freshness_interval: Duration::from_millis(250),
        }
    }
}

/// Leases: how long an instance stays listed without a heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseSettings {
    /// TTL of a registration that names none. 1s to 24h.
    #[serde(with = "humantime_serde")]
    pub default_ttl: Duration,
    /// A node that hears no leader for so long sends its heartbeat streams to other nodes.
    /// 10ms to 1m.
    #[serde(with = "humantime_serde")]
    pub leaderless_grace: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { default_ttl: Duration::from_secs(10), leaderless_grace: Duration::from_millis(500) }
    }
}

/// The gate that holds back mass expiry. Keep it equal on all members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProtectionSettings {
    /// Off: every lease that runs out is expired, however many do so at once.
    pub enabled: bool,
    /// Sliding window over which lost leases are counted. 1s to 10m.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Fewest leases in the cluster for the cluster-wide gate to act. 1 to 1,000,000.
    pub cluster_min: u32,
    /// Share of all leases lost within the window above which the cluster is protected.
    /// Above 0, at most 1.
    pub cluster_share: f64,
    /// Fewest leases of a service for its own gate to act. 1 to 1,000,000.
    pub service_min: u32,
    /// Share of a service's leases lost within the window above which it is protected.
    /// Above 0, at most 1.
    pub service_share: f64,
    /// Protection ends when the missing share falls below this. Above 0, below `cluster_share`
    /// and `service_share`.
    pub exit_share: f64,
    /// Longest time a scope stays protected. 1s to 24h.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// Held leases expired per second once protection has ended by time. 1 to 1,000,000.
    pub release_rate: u32,
}

impl Default for ProtectionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(10),
            cluster_min: 10,
            cluster_share: 0.15,
            service_min: 3,
            service_share: 0.5,
            exit_share: 0.05,
            max: Duration::from_secs(600),
            release_rate: 2_000,
        }
    }
}

/// Active checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckSettings {
    /// Register and probe instances on loopback, which are then those of this machine itself. Unset: only where all
    /// listeners of this node are on loopback. Must be equal on all members.
    pub allow_loopback: Option<bool>,
}

/// Streams of clients that one node keeps open; further ones are refused with RESOURCE_EXHAUSTED.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Watches, and as many followers of the journal. 1 to 1,000,000.
    pub watches: u32,
    /// Heartbeat streams, one for each process that registers. 1 to 1,000,000.
    pub heartbeat_streams: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { watches: 20_000, heartbeat_streams: 20_000 }
    }
}

/// The journal of lifecycle events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Events kept. It is part of the replicated state: keep it equal on all members.
    /// 1,000 to 10,000,000.
    pub events: u32,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { events: 100_000 }
    }
}

/// Limits of the public gRPC server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Concurrent calls on one connection. 1 to 10,000.
    pub streams_per_connection: u32,
    /// Largest request header block, in bytes. 4,096 to 1,048,576.
    pub header_list_bytes: u32,
    /// Largest request, in bytes. 65,536 to 67,108,864.
    pub message_bytes: u32,
    /// Idle time after which a connection is pinged. 1s to 1h.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Time to answer that ping before the connection is closed. 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Longest time for a unary call, whatever its caller allows. 100ms to 5m.
    #[serde(with = "humantime_serde")]
    pub request_deadline: Duration,
    /// Time given to open streams when the node stops. 0s to 5m.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            streams_per_connection: 256,
            header_list_bytes: 16 << 10,
            message_bytes: 4 << 20,
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            request_deadline: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// What the node writes to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Levels by module, such as `info,rollcall_registry::raft=debug`. openraft tells every step at
    /// `info`.
    pub log: String,
    /// `text` for people, `json` for machines: one object on each line.
    pub format: LogFormat,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log: "info,openraft=warn".to_owned(), format: LogFormat::Text }
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}
