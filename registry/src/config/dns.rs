//! The section `[dns]`: plain settings as people write them, and their reading into what the DNS server is started
//! with. Ranges are stated here in words; most are enforced by `rollcall_dns::Settings::checked`, the rest here.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rollcall_core::instance::Locality;
use rollcall_core::name::{Invalid, Label};
use rollcall_dns::{Domain, RateLimit, Settings, Truncation};
use serde::{Deserialize, Serialize};

use super::{Config, Problem};
use crate::dns::tcp::TcpLimits;
use crate::dns::{DnsSettings, THREADS_MAX};

/// A node is not stale for as long as an election may take, and a bit more.
const STALE_MIN: Duration = Duration::from_secs(2);
const STALE_MARGIN: Duration = Duration::from_millis(500);

/// DNS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSection {
    /// Domains under which services are found (`web.service.rollcall.internal`), the canonical one first. 1 to 16.
    pub domains: Vec<String>,
    /// Name of this cluster where a name says one, as in `web.service.dc1.consul`.
    pub dc: String,
    /// TTL of answers, where the policy of the service does not say. 0s to 1h, whole seconds.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// TTL of the names of the registry's own nodes. 0s to 24h.
    #[serde(with = "humantime_serde")]
    pub node_ttl: Duration,
    /// TTL of SOA and NS. 0s to 24h.
    #[serde(with = "humantime_serde")]
    pub apex_ttl: Duration,
    /// For how long a resolver may remember that there is nothing. 0s to 1h.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// Highest TTL of answers while there is no leader. 0s to 30s.
    #[serde(with = "humantime_serde")]
    pub stale_ttl: Duration,
    /// Largest UDP reply in bytes, whatever a client offers. 512 to 4,096.
    pub udp_payload: u16,
    /// Most A or AAAA records in a reply; 0: as many as fit. At most 4,000.
    pub address_limit: u16,
    /// Most SRV records in a reply; 0: as many as fit. At most 1,000.
    pub srv_limit: u16,
    /// Replies that do not fit: `auto` cuts addresses to a subset that is stable for each client, without TC, and
    /// sets TC on all others; `always` sets TC on all.
    pub truncate: Truncate,
    /// Address answers hold the nearest instances alone where there are at least so many. 1 to 1,000.
    pub local_min: u32,
    /// Where clients stand, as `PREFIX=ZONE` or `PREFIX=REGION/ZONE`; the longest prefix counts.
    pub zones: Vec<String>,
    /// Ranges whose reverse names are answered, as `10.0.0.0/8`; all others are refused.
    pub reverse: Vec<String>,
    /// What is answered to a client that asks for the name of the server (NSID). Empty: nothing.
    pub nsid: String,
    /// Whether services and instances can be listed by PTR (DNS-SD).
    pub browse: bool,
    /// Threads that answer UDP; 0: one for each core. At most 64.
    pub threads: u16,
    /// TCP connections at a time; the next one takes the place of the longest idle. 1 to 100,000.
    pub tcp_connections: u32,
    /// TCP connections of one address at a time; further ones are closed. 1 to 100,000.
    pub tcp_per_address: u32,
    /// Time for the next query on a TCP connection. A fifth of it when more than half of the connections are taken.
    /// 100ms to 10m.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// Time for a TCP client to take its replies. 100ms to 1m.
    #[serde(with = "humantime_serde")]
    pub tcp_write: Duration,
    /// Limit UDP replies to each /24 (IPv6: /56), unless the client shows a valid cookie.
    pub rate_limit: bool,
    /// Replies per second about what exists, to one prefix for one service and type. 1 to 1,000,000.
    pub rate_answers: u32,
    /// Replies per second that there is no such name, and as many errors, to one prefix. 1 to 1,000,000.
    pub rate_negatives: u32,
    /// So many seconds' worth of replies may come at once. 1s to 1m.
    #[serde(with = "humantime_serde")]
    pub rate_window: Duration,
    /// Every n-th reply over the limit is a short one that sends the client to TCP; 0: none. At most 10.
    pub rate_slip: u32,
    /// Prefixes and services remembered. 1,000 to 10,000,000.
    pub rate_table: u32,
    /// Clients that are never limited: loopback, private and shared addresses by default.
    pub rate_exempt: Vec<String>,
}

/// How replies look that do not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    /// By type: what real clients need.
    #[default]
    Auto,
    /// TC on everything that is cut.
    Always,
}

impl Default for DnsSection {
    fn default() -> Self {
        let (front, tcp, rate) = (Settings::default(), TcpLimits::default(), RateLimit::default());
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let bound = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            domains: front.domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
            dc: front.dc.as_str().to_owned(),
            ttl: seconds(front.ttl),
            node_ttl: seconds(front.node_ttl),
            apex_ttl: seconds(front.apex_ttl),
            negative_ttl: seconds(front.negative_ttl),
            stale_ttl: seconds(front.stale_ttl),
            udp_payload: front.udp_payload,
            address_limit: front.address_limit,
            srv_limit: front.srv_limit,
            truncate: Truncate::default(),
            local_min: bound(front.local_min),
            zones: Vec::new(),
            reverse: Vec::new(),
            nsid: String::new(),
            browse: front.browse,
            threads: 0,
            tcp_connections: bound(tcp.connections),
            tcp_per_address: bound(tcp.per_address),
            tcp_idle: tcp.idle,
            tcp_write: tcp.write,
            rate_limit: front.rate.is_some(),
            rate_answers: rate.answers,
            rate_negatives: rate.negatives,
            rate_window: seconds(rate.window),
            rate_slip: rate.slip,
            rate_table: bound(rate.table),
            rate_exempt: rate.exempt.iter().map(ToString::to_string).collect(),
        }
    }
}

type Read<T> = Result<T, Invalid>;

fn seconds(field: &str, time: Duration) -> Read<u32> {
    match u32::try_from(time.as_secs()) {
        Ok(seconds) if time.subsec_nanos() == 0 => Ok(seconds),
        Ok(_) | Err(_) => {
            let time = humantime::format_duration(time);
            Err(Invalid::new(field, format!("{time}: whole seconds are allowed")))
        }
    }
}

fn within<T: PartialOrd + std::fmt::Display>(field: &str, value: T, min: T, max: T) -> Read<T> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(Invalid::new(field, format!("{value}: {min} to {max} is allowed")))
}

fn span(field: &str, value: Duration, min: Duration, max: Duration) -> Read<Duration> {
    if value >= min && value <= max {
        return Ok(value);
    }
    let [value, min, max] = [value, min, max].map(humantime::format_duration);
    Err(Invalid::new(field, format!("{value}: {min} to {max} is allowed")))
}

fn prefix(field: &str, text: &str) -> Read<IpNet> {
    // A single address is a prefix too.
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed.map_err(|_| {
        Invalid::new(field, format!("{text:?}: an address range such as 10.1.0.0/16 is needed"))
    })
}

fn prefixes(field: &str, texts: &[String]) -> Read<Vec<IpNet>> {
    texts.iter().map(|text| prefix(field, text)).collect()
}

fn zone(text: &str) -> Read<(IpNet, Locality)> {
    let Some((range, place)) = text.split_once('=') else {
        let problem = format!("{text:?}: PREFIX=ZONE or PREFIX=REGION/ZONE is needed");
        return Err(Invalid::new("zones", problem));
    };
    let label = |text: &str| Label::parse("zones", text).map(Some);
    let locality = match place.split_once('/') {
        Some((region, zone)) => {
            Locality { region: label(region)?, zone: label(zone)?, ..Locality::default() }
        }
        None => Locality { zone: label(place)?, ..Locality::default() },
    };
    Ok((prefix("zones", range)?, locality))
}

impl DnsSection {
    fn front(&self) -> Read<Settings> {
        let domain = |text: &String| Domain::parse("domains", text);
        let rate = || -> Read<RateLimit> {
            Ok(RateLimit {
                answers: self.rate_answers,
                negatives: self.rate_negatives,
                window: seconds("rate_window", self.rate_window)?,
                slip: self.rate_slip,
                table: self.rate_table as usize,
                exempt: prefixes("rate_exempt", &self.rate_exempt)?,
            })
        };
        let rate = rate()?;
        // Multiples of 100 ms (RFC 7828); a client that was told a longer time than there is would lose a query, and there
        // is a fifth of it as soon as many are connected.
        let keepalive = u16::try_from(self.tcp_idle.as_millis() / 500).unwrap_or(u16::MAX);
        Settings {
            domains: self.domains.iter().map(domain).collect::<Read<_>>()?,
            dc: Label::parse("dc", &self.dc)?,
            ttl: seconds("ttl", self.ttl)?,
            node_ttl: seconds("node_ttl", self.node_ttl)?,
            apex_ttl: seconds("apex_ttl", self.apex_ttl)?,
            negative_ttl: seconds("negative_ttl", self.negative_ttl)?,
            stale_ttl: seconds("stale_ttl", self.stale_ttl)?,
            udp_payload: self.udp_payload,
            address_limit: self.address_limit,
            srv_limit: self.srv_limit,
            truncation: match self.truncate {
                Truncate::Auto => Truncation::Auto,
                Truncate::Always => Truncation::Always,
            },
            local_min: self.local_min as usize,
            localities: self.zones.iter().map(|text| zone(text)).collect::<Read<_>>()?,
            reverse: prefixes("reverse", &self.reverse)?,
            nsid: self.nsid.clone().into_bytes(),
            browse: self.browse,
            tcp_keepalive: keepalive,
            rate: self.rate_limit.then_some(rate),
        }
        .checked()
        .map_err(|invalid| {
            let field = match invalid.field.as_str() {
                "localities" => "zones".to_owned(),
                other => other.replace('.', "_"),
            };
            Invalid { field, ..invalid }
        })
    }

    fn read(&self, election_max: Duration) -> Read<DnsSettings> {
        let (millis, minute) = (Duration::from_millis, Duration::from_secs(60));
        let threads = usize::from(self.threads);
        Ok(DnsSettings {
            front: self.front()?,
            threads: within("threads", threads, 0, THREADS_MAX)?,
            tcp: TcpLimits {
                connections: within("tcp_connections", self.tcp_connections, 1, 100_000)? as usize,
                per_address: within("tcp_per_address", self.tcp_per_address, 1, 100_000)? as usize,
                idle: span("tcp_idle", self.tcp_idle, millis(100), 10 * minute)?,
                write: span("tcp_write", self.tcp_write, millis(100), minute)?,
            },
            stale_after: STALE_MIN.max(election_max.saturating_mul(2) + STALE_MARGIN),
        })
    }
}

impl Config {
    /// What the DNS server is started with.
    pub(super) fn dns_settings(&self) -> DnsSettings {
        let read = self.dns.read(self.raft.election_timeout_max);
        read.expect("a configuration is validated when it is loaded")
    }

    /// What is wrong with the section; the first problem.
    pub(super) fn dns_problems(&self) -> Option<Problem> {
        let invalid = self.dns.read(self.raft.election_timeout_max).err()?;
        Some(Problem {
            key: format!("dns.{}", invalid.field),
            origin: None,
            text: format!("is {}", invalid.problem),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut DnsSection)) -> String {
        let mut config = Config::default();
        change(&mut config.dns);
        config.dns_problems().map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_defaults_are_those_of_the_dns_server() {
        let settings = Config::default().dns_settings();
        let default = DnsSettings::default();
        assert_eq!(settings, default);
        assert_eq!(settings.front.tcp_keepalive, 20);
    }

    #[test]
    fn every_bound_names_its_setting_and_the_value() {
        let day = Duration::from_secs(86_401);
        type Change<'a> = &'a dyn Fn(&mut DnsSection);
        let cases: [(&str, Change<'_>); 18] = [
            ("`dns.domains` is", &|dns| dns.domains.clear()),
            ("`dns.domains` is", &|dns| dns.domains = vec!["a_b".into()]),
            ("`dns.dc` is", &|dns| dns.dc = "a.b".into()),
            ("`dns.ttl` is 1s 500ms: whole", &|dns| dns.ttl = Duration::from_millis(1500)),
            ("`dns.ttl` is 86401: 0 to 3600", &|dns| dns.ttl = day),
            ("`dns.stale_ttl` is", &|dns| dns.stale_ttl = Duration::from_secs(31)),
            ("`dns.udp_payload` is 511: 512 to 4096", &|dns| dns.udp_payload = 511),
            ("`dns.local_min` is 0", &|dns| dns.local_min = 0),
            ("`dns.zones` is \"10.0.0.0/8\"", &|dns| dns.zones = vec!["10.0.0.0/8".into()]),
            ("`dns.zones` is \"x\"", &|dns| dns.zones = vec!["x=a".into()]),
            ("`dns.reverse` is", &|dns| dns.reverse = vec!["10/8".into()]),
            ("`dns.threads` is 65: 0 to 64", &|dns| dns.threads = 65),
            ("`dns.tcp_connections` is 0", &|dns| dns.tcp_connections = 0),
            ("`dns.tcp_per_address` is 0", &|dns| dns.tcp_per_address = 0),
            ("`dns.tcp_idle` is 0s: 100ms to 10m", &|dns| dns.tcp_idle = Duration::ZERO),
            ("`dns.tcp_write` is", &|dns| dns.tcp_write = day),
            ("`dns.rate_table` is 1: 1000", &|dns| dns.rate_table = 1),
            ("`dns.rate_exempt` is", &|dns| dns.rate_exempt = vec!["all".into()]),
        ];
        for (expected, change) in cases {
            let text = problem(change);
            assert!(text.starts_with(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn zones_are_read_with_and_without_a_region() {
        let text = |text: &str| {
            let (range, locality) = zone(text).unwrap();
            let word =
                |label: &Option<Label>| label.as_ref().map(|label| label.as_str().to_owned());
            (range.to_string(), word(&locality.region), word(&locality.zone))
        };
        assert_eq!(text("10.1.0.0/16=b"), ("10.1.0.0/16".into(), None, Some("b".into())));
        let both = ("::1/128".into(), Some("eu".into()), Some("a".into()));
        assert_eq!(text("::1=eu/a"), both);
    }

    #[test]
    fn an_answer_is_not_stale_for_as_long_as_an_election_takes() {
        let mut config = Config::default();
        assert_eq!(config.dns_settings().stale_after, STALE_MIN);
        config.raft.election_timeout_max = Duration::from_secs(5);
        assert_eq!(config.dns_settings().stale_after, Duration::from_millis(10_500));
    }
}
