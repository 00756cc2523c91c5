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
    /// DNS, over UDP and TCP.
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
    pub election_min: Duration,
    /// Longest wait before an election. More than `election_min`, at most 1m. Writes pause for at
    /// most twice this plus 0.3s when a leader dies.
    #[serde(with = "humantime_serde")]
    pub election_max: Duration,
    /// Entries applied since the last snapshot that trigger the next one. 10 to 100,000,000.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot, so that a slow follower need not be sent the
    /// snapshot. 0 to 100,000,000.
    pub keep_entries: u64,
    /// Most entries in one durable batch, and in one message to a follower. 1 to 4,096.
    pub batch_entries: u64,
    /// Most writes waiting for a commit on this node; further ones are refused with
    /// RESOURCE_EXHAUSTED. 1 to 1,000,000.
    pub pending_writes: u32,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            snapshot_entries: 100_000,
            keep_entries: 10_000,
            batch_entries: 1_024,
            pending_writes: 16_384,
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
    /// Time from EXPIRED to removal, unless the service's policy says otherwise. 0s to 24h.
    #[serde(with = "humantime_serde")]
    pub evict_after: Duration,
    /// Shortest pace at which the leader logs the leases that have missed a beat (the pace is
    /// this or a quarter of the TTL, whichever is longer). 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub checkpoint: Duration,
    /// How often the leader looks for leases that ran out. 1ms to 100ms.
    #[serde(with = "humantime_serde")]
    pub tick: Duration,
    /// Longest time a follower collects heartbeats before it passes them on. 1ms to 100ms.
    #[serde(with = "humantime_serde")]
    pub forward: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            default_ttl: Duration::from_secs(10),
            evict_after: Duration::from_secs(30),
            checkpoint: Duration::from_secs(2),
            tick: Duration::from_millis(10),
            forward: Duration::from_millis(20),
        }
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

/// What is refused with RESOURCE_EXHAUSTED. The first four can only lower what the registry allows at
/// most; the leader checks them before it proposes, so keep them equal on all members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Instances in the whole registry. 1 to 1,000,000.
    pub instances: u32,
    /// Services in the whole registry. 1 to 100,000.
    pub services: u32,
    /// Instances of one service. 1 to 20,000.
    pub instances_per_service: u32,
    /// Instances that share one IP address; not enforced where all listeners are on loopback.
    /// 1 to 256.
    pub instances_per_address: u32,
    /// Watch streams open on this node. 1 to 1,000,000.
    pub watches: u32,
    /// Heartbeat streams open on this node. 1 to 1,000,000.
    pub heartbeat_streams: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            instances: 1_000_000,
            services: 100_000,
            instances_per_service: 20_000,
            instances_per_address: 256,
            watches: 10_000,
            heartbeat_streams: 100_000,
        }
    }
}

/// How lookups and watches are answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadSettings {
    /// Longest wait for the leader's confirmation, or for `min_revision`, when the caller set no
    /// deadline. 10ms to 1m.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Largest lookup answer; above it the caller is sent to Watch. 65,536 to `api.message_bytes`.
    pub answer_bytes: u32,
    /// Encoded answers kept per service, one for each filter in use. 1 to 1,024.
    pub cached_filters: u32,
    /// Changes kept so that a watch can resume with deltas. 100 to 10,000,000.
    pub change_ring: u32,
    /// Longest silence on a watch before it is sent a bookmark. 1s to 5m.
    #[serde(with = "humantime_serde")]
    pub bookmark: Duration,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(2),
            answer_bytes: 3 << 20,
            cached_filters: 16,
            change_ring: 100_000,
            bookmark: Duration::from_secs(30),
        }
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

/// Active checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckSettings {
    /// Accept instances on loopback addresses. Unset: accepted only where all listeners of this
    /// node are on loopback. Must be equal on all members.
    pub allow_loopback: Option<bool>,
}

/// Limits of the public gRPC server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Concurrent calls on one connection. 1 to 10,000.
    pub max_streams_per_connection: u32,
    /// Largest request header block, in bytes. 4,096 to 1,048,576.
    pub header_list_bytes: u32,
    /// Largest message in either direction, in bytes. 65,536 to 67,108,864.
    pub message_bytes: u32,
    /// Idle time after which a connection is pinged. 1s to 1h.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Time to answer that ping before the connection is closed. 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Deadline of a unary call that set none, and the longest one granted. 100ms to 5m.
    #[serde(with = "humantime_serde")]
    pub request_deadline: Duration,
    /// Time given to open streams when the node stops. 0s to 5m.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            max_streams_per_connection: 256,
            header_list_bytes: 16 << 10,
            message_bytes: 4 << 20,
            keepalive: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            request_deadline: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// What the node writes to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Levels by module, such as `info,rollcall_registry::raft=debug`.
    pub log: String,
    /// `text` for people, `json` for machines: one object on each line.
    pub format: LogFormat,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: LogFormat::Text }
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
