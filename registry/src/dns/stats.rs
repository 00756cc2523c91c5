//! What DNS has counted: fixed tables of numbers, one for each thread so that threads do not wait for each other,
//! added up when somebody reads them.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use rollcall_dns::{Answered, DropReason, Transport};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Types that are counted by name (RFC 1035 and the registry of types); all others are `other`.
const KINDS: [(u16, &str); 12] = [
    (1, "A"),
    (28, "AAAA"),
    (33, "SRV"),
    (16, "TXT"),
    (12, "PTR"),
    (6, "SOA"),
    (2, "NS"),
    (65, "HTTPS"),
    (64, "SVCB"),
    (255, "ANY"),
    (252, "AXFR"),
    (0, "none"),
];
/// Codes that are counted by name (RFC 1035, 6891, 7873).
const CODES: [(u16, &str); 8] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (16, "BADVERS"),
    (23, "BADCOOKIE"),
];
const OTHER: &str = "other";
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];
/// Put together from records in wire form, or written record by record.
const PATHS: [&str; 2] = ["fast", "full"];
const CELLS: usize = (KINDS.len() + 1) * (CODES.len() + 1) * TRANSPORTS.len() * PATHS.len();
/// Upper bounds of the histogram in seconds; the last one holds the rest.
const BOUNDS: [f64; 9] =
    [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.001, 0.005, 0.025, f64::INFINITY];

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than a header.
    Short,
    /// A reply, not a query.
    IsReply,
    /// A sender that cannot be answered.
    BadSource,
    /// The rate limit.
    Limited,
    /// The reply could not be handed to the network.
    SendFailed,
    /// Answering it failed within the program.
    Broken,
    /// Too many unusual queries waited for the full path, or this one for too long.
    Busy,
}

const DROPS: [&str; 7] =
    ["short", "is_reply", "bad_source", "limited", "send_failed", "broken", "busy"];

impl From<DropReason> for Dropped {
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::Short => Self::Short,
            DropReason::IsReply => Self::IsReply,
            DropReason::BadSource => Self::BadSource,
            DropReason::Limited => Self::Limited,
        }
    }
}

/// The numbers of one thread. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    answered: [AtomicU64; CELLS],
    drops: [AtomicU64; DROPS.len()],
    truncated: AtomicU64,
    slipped: AtomicU64,
    buckets: [[AtomicU64; BOUNDS.len()]; TRANSPORTS.len()],
    nanos: [AtomicU64; TRANSPORTS.len()],
}

impl Default for Shard {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            truncated: AtomicU64::new(0),
            slipped: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| zeros()),
            nanos: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// What the DNS server of one node has counted.
#[derive(Debug)]
pub struct DnsStats {
    shards: Box<[Shard]>,
    /// TCP connections now.
    connections: AtomicI64,
    /// TCP connections that were closed because their address had too many.
    refused: AtomicU64,
    /// TCP connections that had to make room for others.
    evicted: AtomicU64,
}

fn more(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn find(table: &[(u16, &str)], number: u16) -> usize {
    table.iter().position(|(known, _)| *known == number).unwrap_or(table.len())
}

fn name(table: &[(u16, &'static str)], at: usize) -> &'static str {
    table.get(at).map_or(OTHER, |(_, name)| name)
}

impl DnsStats {
    /// Names of the metrics and what they mean.
    pub const NAMES: [(&'static str, &'static str); 8] = [
        ("dns_queries", "DNS queries answered, by type, code, transport and path"),
        (
            "dns_seconds",
            "Time to answer a DNS query, waiting for the full path included, by transport",
        ),
        ("dns_drops", "DNS queries that got no reply, by reason"),
        ("dns_truncated", "DNS replies with TC, for lack of space"),
        ("dns_slipped", "DNS replies cut short by the rate limit, so that the client comes by TCP"),
        ("dns_tcp_connections", "Open TCP connections of DNS clients"),
        ("dns_tcp_refused", "TCP connections closed at once: too many from one address"),
        ("dns_tcp_evicted", "TCP connections closed to make room: the longest idle one goes"),
    ];

    /// Zeros for so many threads.
    pub fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            connections: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    fn shard(&self, shard: usize) -> &Shard {
        &self.shards[shard % self.shards.len()]
    }

    pub(super) fn answered(
        &self,
        shard: usize,
        transport: Transport,
        answered: &Answered,
        took: Duration,
    ) {
        let shard = self.shard(shard);
        let way = transport as usize;
        let cell = (find(&KINDS, answered.kind) * (CODES.len() + 1) + find(&CODES, answered.code))
            * TRANSPORTS.len()
            + way;
        let cell = cell * PATHS.len() + usize::from(!answered.ready);
        more(&shard.answered[cell], 1);
        more(&shard.truncated, u64::from(answered.truncated));
        more(&shard.slipped, u64::from(answered.slipped));
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        more(&shard.buckets[way][bucket.unwrap_or(BOUNDS.len() - 1)], 1);
        more(&shard.nanos[way], u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn dropped(&self, shard: usize, reason: Dropped) {
        more(&self.shard(shard).drops[reason as usize], 1);
    }

    pub(super) fn connected(&self, by: i64) {
        self.connections.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        more(&self.refused, 1);
    }

    pub(super) fn evicted(&self) {
        more(&self.evicted, 1);
    }

    /// TCP connections at the moment.
    pub fn connections(&self) -> i64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// TCP connections that were closed at once, and those closed to make room.
    pub fn turned_away(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.evicted.load(Ordering::Relaxed))
    }

    /// Queries that got a reply.
    pub fn replies(&self) -> u64 {
        self.replies_by_thread().iter().sum()
    }

    /// The same for each thread: those of the UDP sockets, that of what is unusual, that of TCP.
    pub fn replies_by_thread(&self) -> Vec<u64> {
        let of =
            |shard: &Shard| shard.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        self.shards.iter().map(of).collect()
    }

    /// Queries that got a reply put together from records in wire form.
    pub fn ready_replies(&self) -> u64 {
        (0..CELLS).step_by(PATHS.len()).map(|cell| self.sum(|shard| &shard.answered[cell])).sum()
    }

    /// Queries that got none for this reason.
    pub fn drops(&self, reason: Dropped) -> u64 {
        self.sum(|shard| &shard.drops[reason as usize])
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    }

    fn encode_queries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name_of, help) = Self::NAMES[0];
        let mut metric = encoder.encode_descriptor(name_of, help, None, MetricType::Counter)?;
        for cell in 0..CELLS {
            let count = self.sum(|shard| &shard.answered[cell]);
            if count == 0 {
                continue;
            }
            let (rest, path) = (cell / PATHS.len(), cell % PATHS.len());
            let (rest, way) = (rest / TRANSPORTS.len(), rest % TRANSPORTS.len());
            let (kind, code) = (rest / (CODES.len() + 1), rest % (CODES.len() + 1));
            let labels = [
                ("type", name(&KINDS, kind)),
                ("code", name(&CODES, code)),
                ("transport", TRANSPORTS[way]),
                ("path", PATHS[path]),
            ];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds may lose its last digits")]
    fn encode_seconds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name_of, help) = Self::NAMES[1];
        let mut metric = encoder.encode_descriptor(name_of, help, None, MetricType::Histogram)?;
        for (way, transport) in TRANSPORTS.iter().enumerate() {
            let buckets: [(f64, u64); BOUNDS.len()] =
                std::array::from_fn(|at| (BOUNDS[at], self.sum(|shard| &shard.buckets[way][at])));
            let count = buckets.iter().map(|(_, count)| count).sum();
            let seconds = self.sum(|shard| &shard.nanos[way]) as f64 / 1e9;
            let labels = [("transport", *transport)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
        Ok(())
    }

    fn encode_drops(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name_of, help) = Self::NAMES[2];
        let mut metric = encoder.encode_descriptor(name_of, help, None, MetricType::Counter)?;
        for (at, reason) in DROPS.iter().enumerate() {
            let count = self.sum(|shard| &shard.drops[at]);
            let labels = [("reason", *reason)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_plain(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = [
            self.sum(|shard| &shard.truncated),
            self.sum(|shard| &shard.slipped),
            u64::try_from(self.connections()).unwrap_or(0),
            self.turned_away().0,
            self.turned_away().1,
        ];
        for (count, (name_of, help)) in counts.into_iter().zip(&Self::NAMES[3..]) {
            if name_of.ends_with("connections") {
                let kind = MetricType::Gauge;
                encoder.encode_descriptor(name_of, help, None, kind)?.encode_gauge(&count)?;
            } else {
                let mut metric =
                    encoder.encode_descriptor(name_of, help, None, MetricType::Counter)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
            }
        }
        Ok(())
    }
}

/// The numbers as metrics.
#[derive(Debug)]
pub(crate) struct DnsCollector(pub(crate) Arc<DnsStats>);

impl Collector for DnsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode_queries(&mut encoder)?;
        self.0.encode_seconds(&mut encoder)?;
        self.0.encode_drops(&mut encoder)?;
        self.0.encode_plain(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    fn rendered(stats: DnsStats) -> String {
        let mut registry = Registry::with_prefix("rollcall");
        registry.register_collector(Box::new(DnsCollector(Arc::new(stats))));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn threads_are_added_up_by_type_code_and_transport() {
        let stats = DnsStats::new(3);
        let reply =
            |kind, code, ready| Answered { kind, code, truncated: true, slipped: false, ready };
        stats.answered(0, Transport::Udp, &reply(33, 0, true), Duration::from_micros(30));
        stats.answered(1, Transport::Udp, &reply(33, 0, true), Duration::from_secs(1));
        stats.answered(2, Transport::Tcp, &reply(4711, 9, false), Duration::ZERO);
        stats.dropped(1, Dropped::Limited);
        assert_eq!((stats.replies(), stats.drops(Dropped::Limited)), (3, 1));
        let text = rendered(stats);
        for line in [
            r#"rollcall_dns_queries_total{type="SRV",code="NOERROR",transport="udp",path="fast"} 2"#,
            r#"rollcall_dns_queries_total{type="other",code="other",transport="tcp",path="full"} 1"#,
            r#"rollcall_dns_seconds_bucket{le="0.00005",transport="udp"} 1"#,
            r#"rollcall_dns_seconds_bucket{le="+Inf",transport="udp"} 2"#,
            r#"rollcall_dns_drops_total{reason="limited"} 1"#,
            "rollcall_dns_truncated_total 3",
            "rollcall_dns_tcp_connections 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_metric_stands_in_the_guide_for_operators() {
        let guide = include_str!("../../../docs/operate.md");
        let text = rendered(DnsStats::new(1));
        for (name, help) in DnsStats::NAMES {
            assert!(text.contains(&format!("# HELP rollcall_{name} {help}")), "{name}\n{text}");
            assert!(guide.contains(&format!("`rollcall_{name}")), "{name} is missing");
        }
    }
}
