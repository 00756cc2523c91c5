//! What an owner declares about an instance: where it listens and how it wants to be found.
//!
//! A [`Spec`] is immutable once built; the registry's own judgement of an instance stands in [`crate::record`].

use crate::{
    check::{Check, Checks},
    egress,
    name::{Invalid, Label, parse_text},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Limits of one registration (docs/decisions/005).
pub mod limit {
    use std::time::Duration;
    /// Most endpoints of an instance; the least is one.
    pub const ENDPOINTS: usize = 16;
    /// Most tags.
    pub const TAGS: usize = 32;
    /// Longest tag in bytes.
    pub const TAG_BYTES: usize = 128;
    /// Most metadata pairs.
    pub const METADATA: usize = 64;
    /// Longest metadata key in bytes.
    pub const METADATA_KEY_BYTES: usize = 128;
    /// Longest metadata value in bytes.
    pub const METADATA_VALUE_BYTES: usize = 512;
    /// Largest spec in bytes, see [`super::Spec::size`].
    pub const SPEC_BYTES: usize = 8 * 1024;
    /// Shortest lease.
    pub const TTL_MIN: Duration = Duration::from_secs(1);
    /// Longest lease.
    pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
    /// Longest wait between the end of a lease and the removal.
    pub const EVICT_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
    /// Registrations in one command.
    pub const BATCH: usize = 1_000;
    /// Instances in the cluster.
    pub const INSTANCES: usize = 1_000_000;
    /// Services in the cluster.
    pub const SERVICES: usize = 100_000;
    /// Instances of one service.
    pub const INSTANCES_PER_SERVICE: usize = 20_000;
    /// Instances that name the same IP address.
    pub const INSTANCES_PER_ADDRESS: u32 = 256;
    /// Longest request id in bytes.
    pub const REQUEST_ID_BYTES: usize = 64;
    /// Request ids remembered; the oldest go first.
    pub const REQUEST_IDS: usize = 1_000_000;
    /// Results remembered for them, one for each item of a batch; the oldest go first.
    pub const REQUEST_RESULTS: usize = 2_000_000;
    /// Admin states of operators kept for instances, living or gone.
    pub const OVERRIDES: usize = 100_000;
    /// Checks of one instance.
    pub const CHECKS: usize = 8;
    /// Least and most time between two probes of a check.
    pub const CHECK_INTERVAL: (Duration, Duration) =
        (Duration::from_millis(100), Duration::from_secs(3600));
    /// Least and most time that a probe may take.
    pub const CHECK_TIMEOUT: (Duration, Duration) =
        (Duration::from_millis(10), Duration::from_secs(60));
    /// Least and most time in which the failures of a starting instance do not count.
    pub const STARTUP_GRACE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3600));
    /// Most successes or failures in a row that a check may want.
    pub const CHECK_COUNT: u8 = 100;
    /// Headers of one HTTP probe.
    pub const PROBE_HEADERS: usize = 16;
    /// Ranges of accepted codes of one HTTP probe.
    pub const PROBE_RANGES: usize = 8;
    /// Verdicts in one command.
    pub const FINDINGS: usize = 1_000;
    /// Nodes that probe.
    pub const CHECKERS: usize = 100;
    /// Longest reason, actor or evidence in bytes.
    pub const TEXT_BYTES: usize = 256;
}

/// Layer-4 protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// One named address that the instance listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Port name (`grpc`, `http`), unique within the instance.
    pub name: Label,
    /// IP literal and port; never port 0 or one of the ranges of [`egress::check_range`].
    pub address: SocketAddr,
    /// Layer-4 protocol.
    pub transport: Transport,
    /// Application protocol in the words of ALPN (`h2`, `http/1.1`); may be empty.
    pub app_protocol: Arc<str>,
}

impl Endpoint {
    /// Checks an address that callers are to be sent to.
    pub fn check_address(field: &str, address: SocketAddr) -> Result<SocketAddr, Invalid> {
        let problem = match egress::check_range(address.ip()) {
            Ok(()) if address.port() != 0 => {
                return Ok(SocketAddr::new(address.ip().to_canonical(), address.port()));
            }
            Ok(()) => "port 0 cannot be called".to_owned(),
            Err(forbidden) => forbidden.to_string(),
        };
        Err(Invalid::new(field, format!("{address}: {problem}")))
    }
}

/// Where an instance stands; each part may be missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    /// Region, such as `eu-west-1`.
    pub region: Option<Label>,
    /// Zone within the region.
    pub zone: Option<Label>,
    /// Rack or cell within the zone.
    pub sub_zone: Option<Label>,
}

impl Locality {
    /// How far `other` is from here: 0 same sub-zone, 1 same zone, 2 same region, 3 elsewhere or unknown.
    /// A part that this side does not know does not separate.
    pub fn distance(&self, other: &Self) -> u8 {
        let differs = |a: &Option<Label>, b: &Option<Label>| a.is_some() && a != b;
        if differs(&self.region, &other.region) {
            3
        } else if differs(&self.zone, &other.zone) {
            2
        } else if differs(&self.sub_zone, &other.sub_zone) {
            1
        } else {
            0
        }
    }
}

/// Length of a lease in whole milliseconds, 1 s to 24 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// Checks the bounds. Errors name the field `ttl`.
    pub fn parse(length: Duration) -> Result<Self, Invalid> {
        if length < limit::TTL_MIN || length > limit::TTL_MAX {
            return Err(Invalid::new("ttl", format!("{length:?}: 1s to 24h are allowed")));
        }
        u32::try_from(length.as_millis())
            .map(Self)
            .map_err(|_| Invalid::new("ttl", "does not fit into milliseconds"))
    }

    /// Length in milliseconds.
    pub fn millis(self) -> u64 {
        u64::from(self.0)
    }

    /// Length as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.millis())
    }

    /// The pace that the server asks of the owner: a third of the lease.
    pub fn beat_interval(self) -> Duration {
        self.duration() / 3
    }
}

/// What an owner declares. Tags and metadata are sorted and unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// 1-16 endpoints; the first one is the default.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub locality: Locality,
    /// Relative share of traffic; 0 = none.
    pub weight: u16,
    /// Tier; 0 is tried first.
    pub priority: u16,
    /// Free text, such as `1.4.2`.
    pub version: Arc<str>,
    /// Words that readers filter by.
    pub tags: Vec<Arc<str>>,
    /// Pairs that readers filter by or carry along.
    pub metadata: Vec<(Arc<str>, Arc<str>)>,
    /// The lease; `None` = persistent, never removed for silence.
    pub ttl: Option<Ttl>,
    /// Time from the end of the lease to the removal; `None` = the policy of the service, then 30 s.
    pub evict_after: Option<Duration>,
    /// What is tested; none = the checks of the policy of its service, if it has any.
    pub checks: Checks,
}

impl Spec {
    /// Weight of an instance that does not say.
    pub const DEFAULT_WEIGHT: u16 = 100;
    /// Lease of an instance that does not say.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);
    /// Time from expiry to removal where neither spec nor policy says.
    pub const DEFAULT_EVICT_AFTER: Duration = Duration::from_secs(30);

    /// A spec with these endpoints and every default. Errors as [`Spec::checked`].
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, Invalid> {
        let spec = Self {
            endpoints,
            locality: Locality::default(),
            weight: Self::DEFAULT_WEIGHT,
            priority: 0,
            version: "".into(),
            tags: Vec::new(),
            metadata: Vec::new(),
            ttl: Some(Ttl::parse(Self::DEFAULT_TTL)?),
            evict_after: None,
            checks: Checks::default(),
        };
        spec.checked()
    }

    /// Sorts, removes equal tags, and checks every limit. Errors name the field within the spec.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        if self.endpoints.is_empty() || self.endpoints.len() > limit::ENDPOINTS {
            return Err(too_many("endpoints", self.endpoints.len(), 1, limit::ENDPOINTS));
        }
        let mut names = BTreeSet::new();
        for (i, endpoint) in self.endpoints.iter_mut().enumerate() {
            if !names.insert(endpoint.name.clone()) {
                let problem = format!("{} is used twice", endpoint.name);
                return Err(Invalid::new(format!("endpoints[{i}].name"), problem));
            }
            let field = format!("endpoints[{i}].address");
            endpoint.address = Endpoint::check_address(&field, endpoint.address)?;
            let field = format!("endpoints[{i}].app_protocol");
            parse_text(&field, &endpoint.app_protocol, 0, Label::MAX)?;
        }
        self.check_words()?;
        if let Some(wait) = self.evict_after
            && wait > limit::EVICT_AFTER_MAX
        {
            return Err(Invalid::new("evict_after", format!("{wait:?}: at most 24h are allowed")));
        }
        self.checks.check_endpoints(&self)?;
        if self.size() > limit::SPEC_BYTES {
            let problem =
                format!("{} bytes, at most {} are allowed", self.size(), limit::SPEC_BYTES);
            return Err(Invalid::new("spec", problem));
        }
        Ok(self)
    }

    fn check_words(&mut self) -> Result<(), Invalid> {
        parse_text("version", &self.version, 0, Label::MAX)?;
        self.tags.sort();
        self.tags.dedup();
        if self.tags.len() > limit::TAGS {
            return Err(too_many("tags", self.tags.len(), 0, limit::TAGS));
        }
        for tag in &self.tags {
            parse_text("tags", tag, 1, limit::TAG_BYTES)?;
        }
        self.metadata.sort();
        if self.metadata.len() > limit::METADATA {
            return Err(too_many("metadata", self.metadata.len(), 0, limit::METADATA));
        }
        for pair in self.metadata.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(Invalid::new("metadata", format!("key {} twice", pair[0].0)));
            }
        }
        for (key, value) in &self.metadata {
            parse_text("metadata.key", key, 1, limit::METADATA_KEY_BYTES)?;
            parse_text("metadata.value", value, 0, limit::METADATA_VALUE_BYTES)?;
        }
        Ok(())
    }

    /// Size in bytes for the limit of 8 KiB: all texts, 24 bytes for each endpoint and 32 for each check.
    pub fn size(&self) -> usize {
        let endpoints: usize =
            self.endpoints.iter().map(|e| e.name.as_str().len() + e.app_protocol.len() + 24).sum();
        let tags: usize = self.tags.iter().map(|t| t.len()).sum();
        let metadata: usize = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        let checks: usize = self.checks.iter().map(Check::size).sum();
        endpoints + tags + metadata + checks + self.version.len()
    }

    /// The endpoint of that name; the first one for the empty name.
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        if name.is_empty() {
            self.endpoints.first()
        } else {
            self.endpoints.iter().find(|e| e.name.as_str() == name)
        }
    }

    /// Value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let found = self.metadata.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.metadata[found].1)
    }

    /// Whether the tag is set.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.binary_search_by(|t| (**t).cmp(tag)).is_ok()
    }

    /// The same spec, holding the words that it has in common with `sibling` only once in memory. Instances of a
    /// service mostly differ in address and a value or two; without this each would own a copy of all the rest.
    #[must_use]
    pub(crate) fn sharing_with(&self, sibling: &Self) -> Self {
        let share = |word: &Arc<str>, other: Option<&Arc<str>>| match other {
            Some(other) if other == word => other.clone(),
            Some(_) | None => word.clone(),
        };
        let label = |mine: &Option<Label>, other: &Option<Label>| {
            if mine == other { other.clone() } else { mine.clone() }
        };
        let endpoints = self.endpoints.iter().map(|mine| {
            let Some(other) = sibling.endpoints.iter().find(|other| other.name == mine.name) else {
                return mine.clone();
            };
            let app_protocol = share(&mine.app_protocol, Some(&other.app_protocol));
            Endpoint { name: other.name.clone(), app_protocol, ..*mine }
        });
        let tags = self.tags.iter().map(|tag| {
            let found = sibling.tags.binary_search(tag).ok();
            share(tag, found.map(|at| &sibling.tags[at]))
        });
        let metadata = self.metadata.iter().map(|(key, value)| {
            let found = sibling.metadata.binary_search_by(|(other, _)| other.cmp(key)).ok();
            let other = found.map(|at| &sibling.metadata[at]);
            (share(key, other.map(|(key, _)| key)), share(value, other.map(|(_, value)| value)))
        });
        Self {
            endpoints: endpoints.collect(),
            locality: Locality {
                region: label(&self.locality.region, &sibling.locality.region),
                zone: label(&self.locality.zone, &sibling.locality.zone),
                sub_zone: label(&self.locality.sub_zone, &sibling.locality.sub_zone),
            },
            version: share(&self.version, Some(&sibling.version)),
            tags: tags.collect(),
            metadata: metadata.collect(),
            checks: self.checks.sharing_with(&sibling.checks),
            ..*self
        }
    }

    /// Whether [`Spec::sharing_with`] would save nothing, as after a decoder that makes each word once.
    pub(crate) fn shares_with(&self, sibling: &Self) -> bool {
        let once = |word: &Arc<str>, other: &Arc<str>| Arc::ptr_eq(word, other) || word != other;
        self.checks.shares_with(&sibling.checks)
            && once(&self.version, &sibling.version)
            && self.tags.iter().zip(&sibling.tags).all(|(tag, other)| once(tag, other))
            && self
                .metadata
                .iter()
                .zip(&sibling.metadata)
                .all(|(mine, other)| once(&mine.0, &other.0) && once(&mine.1, &other.1))
    }

    /// The distinct IP addresses of the endpoints, in order.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.endpoints.iter().map(|e| e.address.ip()).collect()
    }
}

fn too_many(field: &str, count: usize, min: usize, max: usize) -> Invalid {
    Invalid::new(field, format!("{count} given, {min} to {max} are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, address: &str) -> Endpoint {
        Endpoint {
            name: Label::parse("name", name).unwrap(),
            address: address.parse().unwrap(),
            transport: Transport::Tcp,
            app_protocol: "".into(),
        }
    }

    fn spec() -> Spec {
        Spec::new(vec![endpoint("http", "127.0.0.1:80")]).unwrap()
    }

    type Spoil = Box<dyn Fn(&mut Spec)>;

    #[test]
    fn every_limit_of_a_spec_names_its_field() {
        let cases: Vec<(&str, Spoil)> = vec![
            ("endpoints", Box::new(|s| s.endpoints.clear())),
            (
                "endpoints",
                Box::new(|s| {
                    s.endpoints =
                        (0..17).map(|i| endpoint(&format!("p{i}"), "127.0.0.1:80")).collect();
                }),
            ),
            ("endpoints[1].name", Box::new(|s| s.endpoints.push(endpoint("http", "127.0.0.1:81")))),
            (
                "endpoints[0].address",
                Box::new(|s| s.endpoints = vec![endpoint("http", "127.0.0.1:0")]),
            ),
            (
                "endpoints[0].address",
                Box::new(|s| s.endpoints = vec![endpoint("http", "0.0.0.0:80")]),
            ),
            (
                "endpoints[0].address",
                Box::new(|s| s.endpoints = vec![endpoint("http", "[::ffff:224.0.0.1]:80")]),
            ),
            (
                "endpoints[0].address",
                Box::new(|s| s.endpoints = vec![endpoint("http", "255.255.255.255:80")]),
            ),
            ("tags", Box::new(|s| s.tags = (0..33).map(|i| format!("t{i}").into()).collect())),
            ("tags", Box::new(|s| s.tags = vec!["".into()])),
            ("tags", Box::new(|s| s.tags = vec!["a".repeat(129).into()])),
            (
                "metadata",
                Box::new(|s| {
                    s.metadata = (0..65).map(|i| (format!("k{i}").into(), "v".into())).collect();
                }),
            ),
            (
                "metadata",
                Box::new(|s| s.metadata = vec![("k".into(), "1".into()), ("k".into(), "2".into())]),
            ),
            ("metadata.key", Box::new(|s| s.metadata = vec![("".into(), "v".into())])),
            ("metadata.key", Box::new(|s| s.metadata = vec![("k".repeat(129).into(), "".into())])),
            (
                "metadata.value",
                Box::new(|s| s.metadata = vec![("k".into(), "v".repeat(513).into())]),
            ),
            ("version", Box::new(|s| s.version = "1\n2".into())),
            ("evict_after", Box::new(|s| s.evict_after = Some(Duration::from_secs(86_401)))),
            (
                "spec",
                Box::new(|s| {
                    s.metadata =
                        (0..20).map(|i| (format!("k{i}").into(), "v".repeat(500).into())).collect();
                }),
            ),
        ];
        for (field, spoil) in cases {
            let mut wrong = spec();
            spoil(&mut wrong);
            assert_eq!(wrong.checked().expect_err(field).field, field);
        }
    }

    #[test]
    fn a_lease_is_between_a_second_and_a_day() {
        assert!(Ttl::parse(Duration::from_millis(999)).is_err());
        assert!(Ttl::parse(Duration::from_secs(86_401)).is_err());
        assert_eq!(
            Ttl::parse(Duration::from_secs(3)).unwrap().beat_interval(),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_mapped_address_is_stored_in_its_own_form() {
        let spec = Spec::new(vec![endpoint("http", "[::ffff:10.0.0.1]:80")]).unwrap();
        assert_eq!(spec.endpoints[0].address, "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn distance_counts_the_first_known_part_that_differs() {
        let at = |r: &str, z: &str| Locality {
            region: (!r.is_empty()).then(|| Label::parse("region", r).unwrap()),
            zone: (!z.is_empty()).then(|| Label::parse("zone", z).unwrap()),
            sub_zone: None,
        };
        assert_eq!(at("eu", "a").distance(&at("eu", "a")), 0);
        assert_eq!(at("eu", "a").distance(&at("eu", "b")), 2);
        assert_eq!(at("eu", "a").distance(&at("us", "a")), 3);
        assert_eq!(at("", "a").distance(&at("us", "a")), 0);
        assert_eq!(at("eu", "a").distance(&Locality::default()), 3);
    }
}
