//! The rules that settings must keep. Each broken one names the setting, its value and the range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use rollcall_core::instance::limit;
use tracing_subscriber::EnvFilter;

use super::Config;
use super::error::Problem;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const NODE_NAME_CHARS_MAX: usize = 128;

/// Every rule that `config` breaks, without origins.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut rules = Rules::default();
    node(config, &mut rules);
    listeners(config, &mut rules);
    raft(config, &mut rules);
    lease(config, &mut rules);
    protection(config, &mut rules);
    bounds(config, &mut rules);
    api(config, &mut rules);
    rules.problems.extend(config.dns_problems());
    if let Err(error) = EnvFilter::try_new(&config.telemetry.log) {
        rules.broken("telemetry.log", &config.telemetry.log, &format!("not a log filter: {error}"));
    }
    rules.problems
}

#[derive(Default)]
struct Rules {
    problems: Vec<Problem>,
}

impl Rules {
    fn broken(&mut self, key: &str, value: impl Display, rule: &str) {
        let text = format!("is {value}: {rule}");
        self.problems.push(Problem { key: key.to_owned(), origin: None, text });
    }

    fn number<T: PartialOrd + Display>(&mut self, key: &str, value: T, allowed: RangeInclusive<T>) {
        if !allowed.contains(&value) {
            let rule = format!("must be from {} to {}", allowed.start(), allowed.end());
            self.broken(key, value, &rule);
        }
    }

    fn duration(&mut self, key: &str, value: Duration, allowed: RangeInclusive<Duration>) {
        if !allowed.contains(&value) {
            let [low, high] = [*allowed.start(), *allowed.end()].map(humantime::format_duration);
            let rule = format!("must be from {low} to {high}");
            self.broken(key, humantime::format_duration(value), &rule);
        }
    }

    /// A fraction above 0 and at most 1.
    fn share(&mut self, key: &str, value: f64) {
        if !(value > 0.0 && value <= 1.0) {
            self.broken(key, value, "must be above 0 and at most 1");
        }
    }
}

fn node(config: &Config, rules: &mut Rules) {
    let name = config.node_name();
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NODE_NAME_CHARS_MAX || !name.chars().all(legal) {
        let rule = "must have 1 to 128 characters of [A-Za-z0-9._-]; set it with --name";
        rules.broken("node.name", format!("{name:?}"), rule);
    }
    if config.node.data_dir.as_os_str().is_empty() {
        rules.broken("node.data_dir", "empty", "must name a directory");
    }
    for address in &config.cluster.join {
        if !is_host_and_port(address) {
            let rule = "must be host:port, the peer address of a member";
            rules.broken("cluster.join", format!("{address:?}"), rule);
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    // An IPv6 address has colons of its own: only in brackets is its port unambiguous.
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn listeners(config: &Config, rules: &mut Rules) {
    let listeners = config.listeners();
    for (at, (key, address)) in listeners.iter().enumerate() {
        let earlier = listeners[..at].iter().find(|(_, other)| other == address);
        if let (Some((other, _)), true) = (earlier, address.port() != 0) {
            rules.broken(key, address, &format!("{other} listens there already"));
        }
        if !address.ip().is_loopback() && !config.listen.insecure {
            let rule = "anyone who reaches it could change the registry, because there is no TLS \
                        and no access control yet; listen on 127.0.0.1, or accept the risk with \
                        --insecure (listen.insecure = true)";
            rules.broken(key, address, rule);
        }
        if address.ip().is_unspecified() && config.listen.advertise.is_none() {
            let rule = "other members cannot dial a wildcard; set listen.advertise to an IP \
                        address of this machine";
            rules.broken(key, address, rule);
        }
    }
    if let Some(ip) = config.listen.advertise.filter(|ip| ip.is_unspecified() || ip.is_multicast())
    {
        rules.broken("listen.advertise", ip, "must be an address that other members can dial");
    }
}

fn raft(config: &Config, rules: &mut Rules) {
    let raft = &config.raft;
    rules.duration("raft.heartbeat", raft.heartbeat, 10 * MILLISECOND..=10 * SECOND);
    let least = raft.heartbeat.saturating_mul(3);
    let (min, max) = (raft.election_timeout_min, raft.election_timeout_max);
    if min < least {
        let rule = format!(
            "must be at least 3 x raft.heartbeat, that is {}",
            humantime::format_duration(least)
        );
        rules.broken("raft.election_timeout_min", humantime::format_duration(min), &rule);
    }
    if max <= min || max > MINUTE {
        let rule = format!(
            "must be more than raft.election_timeout_min, that is {}, and at most 1m",
            humantime::format_duration(min)
        );
        rules.broken("raft.election_timeout_max", humantime::format_duration(max), &rule);
    }
    rules.duration("raft.connect_timeout", raft.connect_timeout, 10 * MILLISECOND..=MINUTE);
    rules.duration("raft.rpc_timeout", raft.rpc_timeout, 100 * MILLISECOND..=MINUTE);
    rules.duration("raft.keep_alive", raft.keep_alive, 100 * MILLISECOND..=MINUTE);
    rules.duration("raft.snapshot_timeout", raft.snapshot_timeout, SECOND..=DAY);
    rules.number("raft.snapshot_entries", raft.snapshot_entries, 10..=100_000_000);
    rules.number("raft.kept_entries", raft.kept_entries, 0..=100_000_000);
    rules.number("raft.catch_up_entries", raft.catch_up_entries, 1..=1_000_000);
    rules.number("raft.in_flight_max", raft.in_flight_max, 1..=1_000_000);
    rules.number("raft.waiting_reads_max", raft.waiting_reads_max, 1..=1_000_000);
    rules.number("raft.command_bytes_max", raft.command_bytes_max, 65_536..=32 << 20);
    let key = "raft.freshness_interval";
    rules.duration(key, raft.freshness_interval, 10 * MILLISECOND..=10 * SECOND);
}

fn lease(config: &Config, rules: &mut Rules) {
    let lease = &config.lease;
    rules.duration("lease.default_ttl", lease.default_ttl, limit::TTL_MIN..=limit::TTL_MAX);
    rules.duration("lease.leaderless_grace", lease.leaderless_grace, 10 * MILLISECOND..=MINUTE);
}

fn protection(config: &Config, rules: &mut Rules) {
    let protection = &config.protection;
    rules.duration("protection.window", protection.window, SECOND..=10 * MINUTE);
    rules.number("protection.cluster_min", protection.cluster_min, 1..=1_000_000);
    rules.share("protection.cluster_share", protection.cluster_share);
    rules.number("protection.service_min", protection.service_min, 1..=1_000_000);
    rules.share("protection.service_share", protection.service_share);
    let lowest = protection.cluster_share.min(protection.service_share);
    if !(protection.exit_share > 0.0 && protection.exit_share < lowest) {
        let rule = format!(
            "must be above 0 and below cluster_share and service_share, that is below {lowest}"
        );
        rules.broken("protection.exit_share", protection.exit_share, &rule);
    }
    rules.duration("protection.max", protection.max, SECOND..=DAY);
    rules.number("protection.release_rate", protection.release_rate, 1..=1_000_000);
}

fn bounds(config: &Config, rules: &mut Rules) {
    let limits = &config.limits;
    rules.number("limits.watches", limits.watches, 1..=1_000_000);
    rules.number("limits.heartbeat_streams", limits.heartbeat_streams, 1..=1_000_000);
    rules.number("journal.events", config.journal.events, 1_000..=10_000_000);
}

fn api(config: &Config, rules: &mut Rules) {
    let api = &config.api;
    rules.number("api.streams_per_connection", api.streams_per_connection, 1..=10_000);
    rules.number("api.header_list_bytes", api.header_list_bytes, 4_096..=1_048_576);
    rules.number("api.message_bytes", api.message_bytes, 65_536..=67_108_864);
    rules.duration("api.keepalive", api.keepalive, SECOND..=60 * MINUTE);
    rules.duration("api.keepalive_timeout", api.keepalive_timeout, 100 * MILLISECOND..=MINUTE);
    rules.duration("api.request_deadline", api.request_deadline, 100 * MILLISECOND..=5 * MINUTE);
    rules.duration("api.shutdown_grace", api.shutdown_grace, Duration::ZERO..=5 * MINUTE);
}
