//! Every metric of a node, by name, in one table, read when they are scraped; the two that count calls, whose only
//! labels are our own methods and the codes of gRPC; and those of DNS, whose labels are fixed too. So nothing can grow.

use crate::api::Api;
use crate::dns::stats::{DnsCollector, DnsStats};
use crate::raft::Role;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows while the process lives; `_total` is added to its name.
    Counter,
}

/// One metric: its name, its meaning, and where it is read.
struct Row {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: fn(&Api) -> f64,
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Api) -> f64) -> Row {
    Row { name, help, kind: Kind::Gauge, read }
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Api) -> f64) -> Row {
    Row { name, help, kind: Kind::Counter, read }
}

/// Names are `rollcall_` and what stands here.
const TABLE: &[Row] = &[
    gauge("instances", "Instances in the catalogue", |a| {
        size(a.view().load().state.instance_count())
    }),
    gauge("services", "Services in the catalogue, idle ones included", |a| {
        size(a.view().load().state.services().len())
    }),
    gauge("revision", "Visible changes so far", |a| count(a.view().load().state.revision())),
    gauge("journal_floor_revision", "Events after this revision are kept", |a| {
        count(a.view().load().state.journal_floor())
    }),
    gauge("leases_current", "Leases that run", |a| {
        f64::from(a.view().load().state.lease_counts().current)
    }),
    gauge("leases_held", "Leases that ran out and are held by protection", |a| {
        f64::from(a.view().load().state.lease_counts().held)
    }),
    gauge("leases_expired", "Leases that ran out", |a| {
        f64::from(a.view().load().state.lease_counts().expired)
    }),
    gauge("leases_lost", "Leases that ran out while a passing check keeps the instance", |a| {
        f64::from(a.view().load().state.lease_counts().lost)
    }),
    gauge("protected_scopes", "Scopes under protection against mass expiry", |a| {
        size(a.view().load().state.protections().len())
    }),
    gauge("request_ids", "Request ids remembered for retries", |a| {
        size(a.view().load().state.request_count())
    }),
    gauge("is_leader", "1 on the leader", |a| {
        f64::from(u8::from(a.replica().status().role == Role::Leader))
    }),
    gauge("leader_known", "1 where a leader is known", |a| {
        f64::from(u8::from(a.freshness().leader_known))
    }),
    gauge("staleness_seconds", "How far this node may be behind; -1 = never in step", |a| {
        a.freshness().staleness.map_or(-1.0, |staleness| staleness.as_secs_f64())
    }),
    gauge("raft_term", "Newest term seen", |a| count(a.replica().status().term)),
    gauge("raft_committed_index", "Last entry known to be committed", |a| {
        count(a.replica().status().committed.map_or(0, |id| id.index))
    }),
    gauge("raft_applied_index", "Last entry applied", |a| count(a.view().load().applied_index)),
    gauge("raft_members", "Members of the cluster", |a| size(a.replica().status().members.len())),
    counter(
        "peer_requests_refused",
        "Peer requests of a wrong cluster, for another node, or with another `checks.allow_loopback`",
        |a| count(a.replica().status().refused_requests),
    ),
    counter("peer_dials", "Connections to peers that were dialled", |a| count(a.replica().dials())),
    gauge("watches", "Open watches", |a| size(a.hub().len())),
    gauge("journal_tails", "Open tails of the journal", |a| size(a.tails())),
    gauge("heartbeat_streams", "Open heartbeat streams", |a| size(a.heartbeat_streams())),
    gauge("lease_table_size", "Leases in the memory of this leader", |a| {
        size(a.leases().table().len())
    }),
    gauge("lease_pause_seconds", "Pauses of this process added to the leases", |a| {
        a.leases().table().paused().as_secs_f64()
    }),
    counter("lease_pauses", "Pauses of this process above 200 ms", |a| {
        count(a.leases().stats().pauses.load(Ordering::Relaxed))
    }),
    counter("leases_renewed", "Leases renewed by a beat on this leader", |a| {
        count(a.leases().stats().renewed.load(Ordering::Relaxed))
    }),
    counter("beats_reregister", "Beats answered with REREGISTER", |a| {
        count(a.leases().stats().reregister.load(Ordering::Relaxed))
    }),
    counter("beats_fenced", "Beats answered with FENCED", |a| {
        count(a.leases().stats().fenced.load(Ordering::Relaxed))
    }),
    counter("heartbeat_streams_broken", "Heartbeat streams that broke at this node", |a| {
        count(a.leases().stats().broken_streams.load(Ordering::Relaxed))
    }),
    counter(
        "quick_probes_alive",
        "Lost heartbeats after which quick probes found the instance alive",
        |a| count(a.leases().stats().quick_alive.load(Ordering::Relaxed)),
    ),
    counter("quick_probes_dead", "Lost heartbeats after which all quick probes failed", |a| {
        count(a.leases().stats().quick_dead.load(Ordering::Relaxed))
    }),
    counter(
        "quick_probes_ignored",
        "Broken streams whose quick probes all failed although a beat came since",
        |a| count(a.leases().stats().quick_ignored.load(Ordering::Relaxed)),
    ),
    counter("quick_probes_unknown", "Lost heartbeats after which nobody could probe", |a| {
        count(a.leases().stats().quick_unknown.load(Ordering::Relaxed))
    }),
    counter("expiries_proposed", "Expiries proposed by this leader", |a| {
        count(a.leases().stats().expiries.load(Ordering::Relaxed))
    }),
    counter("evictions_proposed", "Evictions proposed by this leader", |a| {
        count(a.leases().stats().evictions.load(Ordering::Relaxed))
    }),
    counter("lease_checkpoints", "Leases named in a checkpoint by this leader", |a| {
        count(a.leases().stats().checkpoints.load(Ordering::Relaxed))
    }),
    gauge("checks", "Checks that this node runs", |a| size(a.checks().len())),
    gauge("probes_running", "Probes that run now", |a| {
        count(a.checks().stats().running.load(Ordering::Relaxed))
    }),
    counter("probes", "Probes that ended", |a| {
        count(a.checks().stats().probes.load(Ordering::Relaxed))
    }),
    counter("probes_failed", "Probes that failed", |a| {
        count(a.checks().stats().failures.load(Ordering::Relaxed))
    }),
    counter("probes_forbidden", "Probes refused because of their address", |a| {
        count(a.checks().stats().forbidden.load(Ordering::Relaxed))
    }),
    counter("probes_late", "Probes that began late by more than a tenth of their interval", |a| {
        count(a.checks().stats().late.load(Ordering::Relaxed))
    }),
    counter("probe_lateness_seconds", "By how much probes began late, in all", |a| {
        count(a.checks().stats().late_ms.load(Ordering::Relaxed)) / 1_000.0
    }),
    counter("probes_beside", "Quick probes, and those for other checkers", |a| {
        count(a.checks().stats().beside.load(Ordering::Relaxed))
    }),
    gauge("checker_doubts", "1 while this node doubts what its probes see", |a| {
        count(a.checks().stats().doubts.load(Ordering::Relaxed))
    }),
    gauge("verdicts_held", "Verdicts held back by that doubt", |a| {
        count(a.checks().stats().held.load(Ordering::Relaxed))
    }),
    counter("verdicts_proposed", "Verdicts proposed by this node", |a| {
        count(a.checks().stats().verdicts.load(Ordering::Relaxed))
    }),
    gauge("checkers", "Nodes that probe", |a| size(a.view().load().state.checkers().nodes().len())),
    counter("checker_changes_proposed", "Changes of the set of checkers by this leader", |a| {
        count(a.checks().stats().changes.load(Ordering::Relaxed))
    }),
];

#[expect(clippy::cast_precision_loss, reason = "a metric above 2^53 may lose its last digits")]
fn count(value: u64) -> f64 {
    value as f64
}

fn size(value: usize) -> f64 {
    count(value as u64)
}

/// The metrics of one node. Several nodes may live in one process: nothing here is global.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// The metrics of the node behind this API and this DNS server.
    pub fn of(api: Api, dns: Arc<DnsStats>) -> Self {
        let mut registry = Registry::with_prefix("rollcall");
        api.calls().register(&mut registry);
        registry.register_collector(Box::new(Table(api)));
        registry.register_collector(Box::new(DnsCollector(dns)));
        Self(Arc::new(registry))
    }

    /// In the text format of OpenMetrics, which Prometheus reads.
    ///
    /// # Errors
    /// When a value cannot be written, which a string does not refuse.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Table(Api);

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for row in TABLE {
            let value = (row.read)(&self.0);
            match row.kind {
                Kind::Gauge => {
                    let metric = ConstGauge::new(value);
                    let kind = MetricType::Gauge;
                    metric.encode(encoder.encode_descriptor(row.name, row.help, None, kind)?)?;
                }
                Kind::Counter => {
                    let metric = ConstCounter::new(value);
                    let kind = MetricType::Counter;
                    metric.encode(encoder.encode_descriptor(row.name, row.help, None, kind)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::calls::CallMetrics;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_stands_in_the_guide_for_operators() {
        let guide = include_str!("../../docs/operate.md");
        for row in TABLE {
            let total = if row.kind == Kind::Counter { "_total" } else { "" };
            let name = format!("`rollcall_{}{total}`", row.name);
            assert!(guide.contains(&name), "{name} is missing");
        }
    }

    #[test]
    fn names_are_unique_and_in_the_style_of_prometheus() {
        let table = TABLE.iter().map(|row| (row.name, row.help));
        let named = table.chain(CallMetrics::NAMES).chain(DnsStats::NAMES);
        let all: Vec<(&str, &str)> = named.collect();
        let names: BTreeSet<&str> = all.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), all.len());
        for (name, help) in all {
            let ok = |b: u8| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit();
            assert!(name.bytes().all(ok), "{name}");
            assert!(!name.ends_with("_total") && !help.ends_with('.'), "{name}");
        }
    }
}
