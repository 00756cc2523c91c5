//! What a node is started with, made of its settings.

use std::net::SocketAddr;

use rollcall_core::protection::Thresholds;

use super::Config;
use crate::api::ApiSettings;
use crate::check::CheckSettings;
use crate::lease::LeaseSettings;
use crate::node::{Entry, Listen, NodeOptions};
use crate::raft::{JoinOptions, RaftSettings};

impl Config {
    /// What a node with these settings is started with. `seeds` are the addresses that the names in `cluster.join`
    /// stand for.
    pub fn node_options(&self, seeds: Vec<SocketAddr>) -> NodeOptions {
        let listen = &self.listen;
        NodeOptions {
            name: self.node_name(),
            data_dir: self.node.data_dir.clone(),
            listen: Listen {
                grpc: listen.grpc,
                http: listen.http,
                dns: listen.dns,
                peer: listen.peer,
            },
            advertise: listen.advertise,
            entry: Entry {
                bootstrap: self.cluster.bootstrap,
                join: JoinOptions { seeds, ..JoinOptions::default() },
            },
            raft: self.raft_settings(),
            lease: self.lease_settings(),
            check: CheckSettings {
                allow_loopback: self.allow_loopback(),
                loopback: self.is_loopback(),
                ..CheckSettings::default()
            },
            api: self.api_settings(),
            dns: self.dns_settings(),
            shutdown_grace: self.api.shutdown_grace,
        }
    }

    fn raft_settings(&self) -> RaftSettings {
        let raft = &self.raft;
        RaftSettings {
            heartbeat: raft.heartbeat,
            election_timeout_min: raft.election_timeout_min,
            election_timeout_max: raft.election_timeout_max,
            connect_timeout: raft.connect_timeout,
            rpc_timeout: raft.rpc_timeout,
            keep_alive: raft.keep_alive,
            snapshot_timeout: raft.snapshot_timeout,
            snapshot_entries: raft.snapshot_entries,
            kept_entries: raft.kept_entries,
            catch_up_entries: raft.catch_up_entries,
            in_flight_max: raft.in_flight_max as usize,
            waiting_reads_max: raft.waiting_reads_max as usize,
            command_bytes_max: raft.command_bytes_max as usize,
            freshness_interval: raft.freshness_interval,
            journal_events: self.journal.events as usize,
            allow_loopback: self.allow_loopback(),
        }
    }

    fn lease_settings(&self) -> LeaseSettings {
        let protection = &self.protection;
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        LeaseSettings {
            protection: protection.enabled,
            thresholds: Thresholds {
                window_ms: millis(protection.window),
                cluster_min: protection.cluster_min,
                cluster_share: protection.cluster_share,
                service_min: protection.service_min,
                service_share: protection.service_share,
                exit_share: protection.exit_share,
                max_ms: millis(protection.max),
            },
            release_rate: protection.release_rate,
            leaderless_grace: self.lease.leaderless_grace,
        }
    }

    fn api_settings(&self) -> ApiSettings {
        let api = &self.api;
        ApiSettings {
            streams_per_connection: api.streams_per_connection,
            header_list_bytes: api.header_list_bytes,
            message_bytes: api.message_bytes as usize,
            keepalive: api.keepalive,
            keepalive_timeout: api.keepalive_timeout,
            request_deadline: api.request_deadline,
            watches: self.limits.watches as usize,
            heartbeat_streams: self.limits.heartbeat_streams as usize,
            default_ttl: self.lease.default_ttl,
            loopback: self.is_loopback(),
        }
    }
}
