//! What an operator can settle for DNS. Checked once, at the edge; nothing behind it checks again.

use crate::question::RESERVED;
use ipnet::IpNet;
use rollcall_core::{
    instance::Locality,
    name::{Invalid, Label},
};
use std::{collections::BTreeMap, fmt, net::IpAddr};

/// How replies look that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// A and AAAA: a subset that is stable for each client, without TC, because HAProxy refuses address answers with
    /// TC. All else: the records that fit, and TC.
    #[default]
    Auto,
    /// TC on everything that is cut.
    Always,
}

/// All settings. `Default` is what an operator gets who sets nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The names under which the catalogue stands; the first is the canonical one. 1 to 16.
    pub domains: Vec<Domain>,
    /// Name of this cluster where a name says one (`web.service.dc1.consul`); other names are unknown.
    pub dc: Label,
    /// TTL of service records in seconds, where the policy of the service does not say; at most 3600.
    pub ttl: u32,
    /// TTL of `<node>.node` in seconds; at most 86400.
    pub node_ttl: u32,
    /// TTL of SOA and NS at the apex in seconds; at most 86400.
    pub apex_ttl: u32,
    /// For how many seconds a resolver may remember that there is nothing; at most 3600.
    pub negative_ttl: u32,
    /// Highest TTL of an answer without a leader, in seconds; at most 30.
    pub stale_ttl: u32,
    /// Largest UDP reply in bytes, whatever the client offers; 512 to 4096.
    pub udp_payload: u16,
    /// Most A or AAAA records in one reply; 0 = all that fit, at most 4000.
    pub address_limit: u16,
    /// Most SRV records in one reply; 0 = all that fit, at most 1000.
    pub srv_limit: u16,
    /// How replies look that do not fit.
    pub truncation: Truncation,
    /// A and AAAA answers hold the nearest instances alone where there are at least so many.
    pub local_min: usize,
    /// Where clients stand; the longest prefix that holds the client's address counts.
    pub localities: Vec<(IpNet, Locality)>,
    /// The ranges whose reverse names are answered; all others are refused.
    pub reverse: Vec<IpNet>,
    /// What is answered to NSID (RFC 5001); empty = nothing. At most 128 bytes.
    pub nsid: Vec<u8>,
    /// Whether services can be listed by PTR (RFC 6763).
    pub browse: bool,
    /// What TCP clients are told to hold an idle connection for, in units of 100 ms (RFC 7828).
    pub tcp_keepalive: u16,
    /// Limits replies to each client prefix; `None` = no limit.
    pub rate: Option<RateLimit>,
}

/// Response rate limiting: over UDP, per client prefix and kind of answer, unless the client shows a valid cookie.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// Replies a second about what exists, to one prefix for one service and type; 1 to 1,000,000.
    pub answers: u32,
    /// Replies a second that there is no such name, and as many errors, to one prefix; 1 to 1,000,000.
    pub negatives: u32,
    /// How many seconds' worth may come at once; 1 to 60.
    pub window: u32,
    /// Every n-th reply over the limit is sent as a short one that sends the client to TCP; 0 = none, at most 10.
    pub slip: u32,
    /// Prefixes and names remembered; the longest unused go first. 1,000 to 10,000,000.
    pub table: usize,
    /// Clients that are never limited.
    pub exempt: Vec<IpNet>,
}

/// One domain under which the catalogue stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Domain {
    text: String,
    wire: Vec<u8>,
}

impl Domain {
    /// Longest domain in wire form: what stands before it needs room too.
    const MAX: usize = 128;

    /// Reads a domain such as `rollcall.internal`. Errors name `field`.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let (mut labels, mut wire) = (Vec::new(), Vec::new());
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let label = Label::parse(field, label)?;
            wire.push(u8::try_from(label.as_str().len()).unwrap_or(u8::MAX));
            wire.extend(label.as_str().bytes());
            labels.push(label.as_str().to_owned());
        }
        wire.push(0);
        if wire.len() > Self::MAX {
            let problem = format!("{} bytes, at most {} are allowed", wire.len(), Self::MAX);
            return Err(Invalid::new(field, problem));
        }
        Ok(Self { text: labels.join("."), wire })
    }

    /// In text, lower case, without the last dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In wire form, lower case, the root label last.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The canonical domain, and the alias that lets names go on working which people already use.
const DOMAINS: [&str; 2] = ["rollcall.internal", "consul"];
/// The data centre of a Consul that nobody configured.
const DC: &str = "dc1";
/// Loopback, private, link-local and shared (RFC 6890, RFC 4193, RFC 6598): who is there is not behind a forged address.
const EXEMPT: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

impl Default for Settings {
    fn default() -> Self {
        let domains = DOMAINS.map(|text| Domain::parse("domains", text).expect("a valid name"));
        Self {
            domains: domains.into(),
            dc: Label::parse("dc", DC).expect("a valid name"),
            ttl: 5,
            node_ttl: 30,
            apex_ttl: 300,
            negative_ttl: 3,
            stale_ttl: 2,
            udp_payload: 1232,
            address_limit: 0,
            srv_limit: 0,
            truncation: Truncation::Auto,
            local_min: 2,
            localities: Vec::new(),
            reverse: Vec::new(),
            nsid: Vec::new(),
            browse: false,
            tcp_keepalive: 20,
            rate: Some(RateLimit::default()),
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            answers: 200,
            negatives: 200,
            window: 5,
            slip: 2,
            table: 100_000,
            exempt: EXEMPT.map(|prefix| prefix.parse().expect("a valid prefix")).into(),
        }
    }
}

impl Settings {
    /// Checks every bound. Errors name the setting.
    pub fn checked(self) -> Result<Self, Invalid> {
        let within = |field: &str, value: usize, min: usize, max: usize| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Invalid::new(field, format!("{value}: {min} to {max} is allowed")))
        };
        within("domains", self.domains.len(), 1, 16)?;
        for (i, domain) in self.domains.iter().enumerate() {
            if self.domains[..i].contains(domain) {
                return Err(Invalid::new("domains", format!("{} is there twice", domain.as_str())));
            }
        }
        if RESERVED.contains(&self.dc.as_str()) {
            return Err(Invalid::new("dc", format!("{} is a word of every name", self.dc)));
        }
        within("ttl", self.ttl as usize, 0, 3600)?;
        within("node_ttl", self.node_ttl as usize, 0, 86_400)?;
        within("apex_ttl", self.apex_ttl as usize, 0, 86_400)?;
        within("negative_ttl", self.negative_ttl as usize, 0, 3600)?;
        within("stale_ttl", self.stale_ttl as usize, 0, 30)?;
        within("udp_payload", self.udp_payload.into(), 512, 4096)?;
        within("address_limit", self.address_limit.into(), 0, 4000)?;
        within("srv_limit", self.srv_limit.into(), 0, 1000)?;
        within("local_min", self.local_min, 1, 1000)?;
        within("localities", self.localities.len(), 0, 10_000)?;
        within("reverse", self.reverse.len(), 0, 256)?;
        within("nsid", self.nsid.len(), 0, 128)?;
        if let Some(rate) = &self.rate {
            within("rate.answers", rate.answers as usize, 1, 1_000_000)?;
            within("rate.negatives", rate.negatives as usize, 1, 1_000_000)?;
            within("rate.window", rate.window as usize, 1, 60)?;
            within("rate.slip", rate.slip as usize, 0, 10)?;
            within("rate.table", rate.table, 1_000, 10_000_000)?;
            within("rate.exempt", rate.exempt.len(), 0, 1_000)?;
        }
        Ok(self)
    }
}

/// [`Settings::localities`], made to be asked: one look for each length of prefix that is in use.
#[derive(Debug)]
pub(crate) struct Localities {
    prefixes: BTreeMap<IpNet, Numbered>,
    /// The longest first.
    lengths: Vec<u8>,
}

/// A locality; equal ones have the same number.
#[derive(Debug)]
struct Numbered {
    number: u32,
    locality: Locality,
}

impl Localities {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut numbers = BTreeMap::new();
        let all = settings.localities.iter().map(|(prefix, locality)| {
            let next = u32::try_from(numbers.len()).expect("there are at most 10,000");
            let number = *numbers.entry(locality.clone()).or_insert(next);
            (prefix.trunc(), Numbered { number, locality: locality.clone() })
        });
        let prefixes: BTreeMap<IpNet, Numbered> = all.collect();
        let mut lengths: Vec<u8> = prefixes.keys().map(IpNet::prefix_len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self { prefixes, lengths }
    }

    /// Where the client stands, by the longest prefix that holds it.
    pub(crate) fn of(&self, client: IpAddr) -> Option<&Locality> {
        self.find(client).map(|numbered| &numbered.locality)
    }

    /// The number of that locality: clients with one number are given the same answers.
    pub(crate) fn number(&self, client: IpAddr) -> Option<u32> {
        self.find(client).map(|numbered| numbered.number)
    }

    fn find(&self, client: IpAddr) -> Option<&Numbered> {
        // A length that IPv4 does not have makes no prefix of an IPv4 address.
        let prefix = |length: &u8| IpNet::new(client, *length).ok().map(|prefix| prefix.trunc());
        self.lengths.iter().filter_map(prefix).find_map(|prefix| self.prefixes.get(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        let settings = Settings::default().checked().unwrap();
        assert_eq!(settings.domains[0].as_str(), "rollcall.internal");
        assert_eq!(settings.domains[1].wire(), b"\x06consul\0");
    }

    #[test]
    fn every_bound_names_its_setting() {
        let rate = |rate| Settings { rate: Some(rate), ..Settings::default() };
        let cases = [
            ("domains", Settings { domains: vec![], ..Settings::default() }),
            ("dc", Settings { dc: Label::parse("dc", "node").unwrap(), ..Settings::default() }),
            ("ttl", Settings { ttl: 3601, ..Settings::default() }),
            ("node_ttl", Settings { node_ttl: 86_401, ..Settings::default() }),
            ("apex_ttl", Settings { apex_ttl: 86_401, ..Settings::default() }),
            ("negative_ttl", Settings { negative_ttl: 3601, ..Settings::default() }),
            ("stale_ttl", Settings { stale_ttl: 31, ..Settings::default() }),
            ("udp_payload", Settings { udp_payload: 511, ..Settings::default() }),
            ("address_limit", Settings { address_limit: 4001, ..Settings::default() }),
            ("srv_limit", Settings { srv_limit: 1001, ..Settings::default() }),
            ("local_min", Settings { local_min: 0, ..Settings::default() }),
            ("nsid", Settings { nsid: vec![0; 129], ..Settings::default() }),
            ("rate.answers", rate(RateLimit { answers: 0, ..RateLimit::default() })),
            ("rate.negatives", rate(RateLimit { negatives: 0, ..RateLimit::default() })),
            ("rate.window", rate(RateLimit { window: 61, ..RateLimit::default() })),
            ("rate.slip", rate(RateLimit { slip: 11, ..RateLimit::default() })),
            ("rate.table", rate(RateLimit { table: 999, ..RateLimit::default() })),
        ];
        for (field, settings) in cases {
            assert_eq!(settings.checked().expect_err(field).field, field);
        }
        let twice = vec![Domain::parse("domains", "a.b").unwrap(); 2];
        let settings = Settings { domains: twice, ..Settings::default() };
        assert_eq!(settings.checked().expect_err("twice").field, "domains");
    }

    #[test]
    fn a_domain_is_a_row_of_labels() {
        for text in ["", ".", "a..b", "a_b.c", "-a.b", &["abcdefgh"; 15].join(".")] {
            assert_eq!(Domain::parse("domains", text).expect_err(text).field, "domains");
        }
        assert_eq!(Domain::parse("domains", "SD.Example.").unwrap().as_str(), "sd.example");
    }

    #[test]
    fn the_longest_prefix_tells_where_a_client_stands() {
        let zone = |zone: &str| Locality {
            zone: Some(Label::parse("zone", zone).unwrap()),
            ..Locality::default()
        };
        let localities = vec![
            ("10.1.0.0/16".parse().unwrap(), zone("b")),
            ("10.0.0.0/8".parse().unwrap(), zone("a")),
            ("fd00::7/16".parse().unwrap(), zone("c")),
        ];
        let localities = Localities::new(&Settings { localities, ..Settings::default() });
        let at = |client: &str| localities.of(client.parse().unwrap()).cloned();
        assert_eq!(at("fd00:1::1"), Some(zone("c")));
        assert_eq!(at("10.1.2.3"), Some(zone("b")));
        assert_eq!(at("10.2.2.3"), Some(zone("a")));
        assert_eq!(at("11.1.2.3"), None);
    }
}
