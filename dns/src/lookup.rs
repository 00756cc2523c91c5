//! Question and catalogue in, records out: what there is, before anything is chosen or written.

use crate::{
    binding::bindings,
    catalog::{Catalog, Standing},
    choose,
    instances::{Address, Place, Shown, by_id, label_of, service_name, shown},
    question::{Question, Select, Target},
    settings::{Domain, Settings},
    wire::{self, kind, label, pointer},
};
use hickory_proto::rr::{
    RData,
    rdata::{HINFO, TXT},
};
use rollcall_core::{
    Service, State,
    instance::Locality,
    name::{Label, ServiceName},
    record::Record,
};
use std::{net::IpAddr, sync::Arc};

/// What stands under a name.
#[derive(Debug)]
pub(crate) enum Found {
    /// The name does not exist (NXDOMAIN).
    Unknown,
    /// It exists, but selects no instances, or has no records of any such type (NODATA).
    Empty,
    /// It selects instances, but they have no records of that type (NODATA).
    NoneOfType,
    /// Addresses of a service, of which a subset is as good.
    Addresses(Vec<Address>, Terms),
    /// Places of a service, of which the client must be told when some are missing.
    Places(Vec<Place>, Terms),
    /// Anything else, all of one type.
    Rows(Vec<Row>, Terms),
}

/// What goes for all records of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// TTL in seconds.
    pub ttl: u32,
    /// The instances are shown whatever their health.
    pub fail_open: bool,
}

/// The data of one record.
#[derive(Debug)]
pub(crate) struct Row {
    /// In wire form.
    pub data: Vec<u8>,
    /// A name that ends the data, from this byte on, and the addresses that it stands for.
    pub glue: Option<(usize, Vec<IpAddr>)>,
}

impl From<Vec<u8>> for Row {
    fn from(data: Vec<u8>) -> Self {
        Self { data, glue: None }
    }
}

/// The address that a name itself holds never changes.
pub(crate) const FIXED: Terms = Terms { ttl: 86_400, fail_open: false };
/// Most PTR records of one listing.
const LISTING_MAX: usize = 1_000;
/// How secondaries would poll; there are none, but the numbers must make sense.
const REFRESH: [u32; 3] = [3600, 600, 86_400];
/// Longest string of a TXT record (RFC 1035 section 3.3).
const TEXT_MAX: usize = 255;
/// A record whose owner is a pointer, before its data; the largest message of all.
const RECORD_HEAD: usize = 12;
const MESSAGE_MAX: usize = u16::MAX as usize;

/// One look into the catalogue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub settings: &'a Settings,
    pub catalog: &'a Catalog<'a>,
    /// The domain under which it was asked.
    pub domain: &'a Domain,
    /// Where the zone begins in the name that was asked.
    pub apex: usize,
    /// Whether that zone is one of addresses.
    pub reverse: bool,
    /// The type that was asked for.
    pub kind: u16,
    /// Who asks.
    pub client: IpAddr,
    /// Where the client stands, if that is known.
    pub locality: Option<&'a Locality>,
    /// Random bits of the query.
    pub random: u64,
}

impl Lookup<'_> {
    /// Looks a question up.
    pub(crate) fn find(&self, question: &Question<'_>) -> Found {
        match question {
            Question::Nothing => Found::Unknown,
            Question::Empty => Found::Empty,
            Question::Apex => self.apex(),
            Question::Service(target, by) => self.service(target, by),
            Question::WithinService(target) => match self.known(target) {
                Some(_) => Found::Empty,
                None => Found::Unknown,
            },
            Question::Instance(target, id) => self.instance(target, id),
            Question::Node(name) => self.node(name),
            Question::Address(ip) => self.addresses(&[*ip], FIXED),
            Question::ServiceTypes(namespace) => self.service_types(*namespace),
            Question::Reverse(ip) => self.reverse(*ip),
        }
    }

    /// The type of the records that were found: ANY is answered by another one.
    pub(crate) fn kind_of_rows(&self) -> u16 {
        if self.kind == kind::ANY { kind::HINFO } else { self.kind }
    }

    pub(crate) fn known(&self, target: &Target<'_>) -> Option<&Arc<Service>> {
        self.catalog.state.service(&service_name(target)?)
    }

    fn terms(&self, ttl: u32) -> Terms {
        let stale = self.catalog.standing == Standing::Stale;
        let ttl = if stale { ttl.min(self.settings.stale_ttl) } else { ttl };
        Terms { ttl, fail_open: false }
    }

    /// ANY is answered with one small record (RFC 8482 section 4.2).
    pub(crate) fn any(&self) -> Found {
        let hinfo = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
        self.rows(wire::data(&hinfo).into_iter().map(Row::from).collect(), self.settings.apex_ttl)
    }

    pub(crate) fn rows(&self, rows: Vec<Row>, ttl: u32) -> Found {
        if rows.is_empty() { Found::Empty } else { Found::Rows(rows, self.terms(ttl)) }
    }

    // === The zone ===

    fn apex(&self) -> Found {
        match self.kind {
            kind::SOA => self.rows(vec![self.soa().into()], self.settings.apex_ttl),
            kind::NS => {
                let row = |node: &crate::catalog::Node| Row {
                    data: self.node_name(&node.name),
                    glue: Some((0, node.addresses.clone())),
                };
                let rows = self.catalog.nodes.iter().map(row).collect();
                self.rows(rows, self.settings.apex_ttl)
            }
            kind::ANY => self.any(),
            _ => Found::Empty,
        }
    }

    /// The data of the zone's SOA record. Its serial is the revision: it grows with every visible change. Names in it
    /// end with a pointer into the question where that ends with our domain, so that it fits behind any question.
    pub(crate) fn soa(&self) -> Vec<u8> {
        let pointer = pointer(self.question_at(self.apex));
        let domain = if self.reverse { self.domain.wire() } else { &pointer };
        let mut data = Vec::with_capacity(64);
        if let Some(node) = self.catalog.nodes.first() {
            data.extend(label(node.name.as_str()));
            data.extend(label("node"));
        }
        data.extend(domain);
        data.extend(label("hostmaster"));
        data.extend(domain);
        data.extend(serial(self.catalog.state));
        for seconds in REFRESH {
            data.extend(seconds.to_be_bytes());
        }
        data.extend(self.settings.negative_ttl.to_be_bytes());
        data
    }

    /// TTL of that record where it says that there is nothing (RFC 2308 section 3).
    pub(crate) fn negative_ttl(&self) -> u32 {
        self.terms(self.settings.negative_ttl.min(self.settings.apex_ttl)).ttl
    }

    pub(crate) fn node_name(&self, node: &Label) -> Vec<u8> {
        [&label(node.as_str())[..], b"\x04node", self.domain.wire()].concat()
    }

    fn node(&self, name: &str) -> Found {
        let Some(node) = self.catalog.nodes.iter().find(|node| node.name.as_str() == name) else {
            return Found::Unknown;
        };
        match self.kind {
            kind::TXT => {
                let text = TXT::new(vec![format!("id={name}")]);
                let rows = wire::data(&RData::TXT(text)).into_iter().map(Row::from);
                self.rows(rows.collect(), self.settings.node_ttl)
            }
            _ => self.addresses(&node.addresses, self.terms(self.settings.node_ttl)),
        }
    }

    /// Fixed addresses, as far as they are of the family that was asked for.
    fn addresses(&self, addresses: &[IpAddr], terms: Terms) -> Found {
        let of_kind = |ip: &&IpAddr| match self.kind {
            kind::A => ip.is_ipv4(),
            kind::AAAA => ip.is_ipv6(),
            _ => false,
        };
        if self.kind == kind::ANY {
            return self.any();
        }
        let rows: Vec<Row> =
            addresses.iter().filter(of_kind).map(|ip| octets(*ip).into()).collect();
        if rows.is_empty() { Found::Empty } else { Found::Rows(rows, terms) }
    }

    // === Services ===

    fn service(&self, target: &Target<'_>, by: &Select<'_>) -> Found {
        let Some(service) = self.known(target) else { return Found::Unknown };
        if self.kind == kind::ANY {
            return self.any();
        }
        if !self.has_kind(by) {
            return Found::Empty;
        }
        let shown = shown(service, target, by, self.locality);
        let terms = self.service_terms(service, &shown);
        let selects = !shown.instances.is_empty();
        let found = |empty: bool, found: Found| match (empty, selects) {
            (false, _) => found,
            (true, true) => Found::NoneOfType,
            (true, false) => Found::Empty,
        };
        match self.kind {
            kind::A | kind::AAAA => {
                let addresses = shown.addresses(self.kind == kind::A, self.settings.local_min);
                found(addresses.is_empty(), Found::Addresses(addresses, terms))
            }
            kind::SRV => {
                let places = shown.places();
                found(places.is_empty(), Found::Places(places, terms))
            }
            kind::TXT => {
                let rows = as_many_as_fit(shown.instances.iter().filter_map(|i| text(&i.record)));
                found(rows.is_empty(), Found::Rows(rows, terms))
            }
            kind::SVCB | kind::HTTPS => {
                let data = bindings(&shown.instances, choose::client(self.client), self.random);
                let rows: Vec<Row> = data.into_iter().map(Row::from).collect();
                found(rows.is_empty(), Found::Rows(rows, terms))
            }
            kind::PTR => {
                let names = shown
                    .instances
                    .iter()
                    .filter_map(|instance| label_of(&instance.record.name.id));
                let name = |id: &str| [&label(id)[..], &pointer(self.question_at(0))].concat();
                let rows: Vec<Row> = names.take(LISTING_MAX).map(|id| name(id).into()).collect();
                found(rows.is_empty(), Found::Rows(rows, terms))
            }
            _ => Found::Empty,
        }
    }

    /// Whether a service that is asked for in that way can have records of the type.
    fn has_kind(&self, by: &Select<'_>) -> bool {
        let browse = self.settings.browse && matches!(by, Select::Transport { browse: true, .. });
        kind::OF_SERVICES.contains(&self.kind) || self.kind == kind::PTR && browse
    }

    /// How many records of the catalogue an answer has to look at.
    pub(crate) fn cost(&self, question: &Question<'_>) -> usize {
        let all = |target| self.known(target).map_or(0, |service| service.instances.len());
        match question {
            Question::Service(target, by) if self.has_kind(by) => all(target),
            Question::Instance(target, _) => all(target),
            Question::ServiceTypes(_) if self.settings.browse => {
                self.catalog.state.services().len()
            }
            Question::Service(..)
            | Question::ServiceTypes(_)
            | Question::Apex
            | Question::Empty
            | Question::Nothing
            | Question::WithinService(_)
            | Question::Node(_)
            | Question::Address(_)
            | Question::Reverse(_) => 0,
        }
    }

    fn service_terms(&self, service: &Service, shown: &Shown) -> Terms {
        let policy = service.policy.as_ref().and_then(|policy| policy.dns_ttl);
        let own = policy.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
        let ttl = shown.ttl(own.unwrap_or(self.settings.ttl));
        Terms { fail_open: shown.fail_open, ..self.terms(ttl) }
    }

    fn instance(&self, target: &Target<'_>, id: &str) -> Found {
        let Some(service) = self.known(target) else { return Found::Unknown };
        let Some(instance) = by_id(service, target, id) else { return Found::Unknown };
        if self.kind == kind::ANY {
            return self.any();
        }
        let shown = Shown { instances: instance.into_iter().collect(), fail_open: false };
        let terms = self.service_terms(service, &shown);
        let Some(instance) = shown.instances.first() else { return Found::Empty };
        match self.kind {
            kind::A | kind::AAAA => {
                let addresses = instance.address(self.kind == kind::A);
                self.rows(addresses.map(|ip| octets(ip).into()).into_iter().collect(), terms.ttl)
            }
            kind::SRV => Found::Places(shown.places(), terms),
            kind::TXT => {
                self.rows(text(&instance.record).map(Row::from).into_iter().collect(), terms.ttl)
            }
            _ => Found::Empty,
        }
    }

    /// The kinds of services that can be browsed, under the same scope as the question.
    fn service_types(&self, namespace: Option<&str>) -> Found {
        if !self.settings.browse {
            return Found::Unknown;
        }
        if self.kind != kind::PTR {
            return Found::Empty;
        }
        let Ok(first) = ServiceName::parse(namespace.unwrap_or_default(), "0") else {
            return Found::Empty;
        };
        // `_services._dns-sd._udp` is 23 bytes long.
        let scope = pointer(self.question_at(23));
        let services = self.catalog.state.services().range(first.clone()..);
        let services = services.take_while(|(name, _)| name.namespace == first.namespace);
        let rows = services.filter_map(|(name, service)| {
            let transport = service.instances.values().next()?.spec.endpoints.first()?.transport;
            let service = label(&format!("_{}", name.service));
            // The longest service name leaves no room for the mark.
            (service.len() <= 64).then_some(())?;
            let transport = label(&format!("_{}", transport.as_str()));
            Some(Row::from([&service[..], &transport, &scope].concat()))
        });
        self.rows(rows.take(LISTING_MAX).collect(), self.settings.ttl)
    }

    /// Where that byte of the name that was asked stands in the message.
    fn question_at(&self, at: usize) -> usize {
        crate::message::HEADER + at
    }
}

/// The serial of the zone: the lower half of the revision.
pub(crate) fn serial(state: &State) -> [u8; 4] {
    let [.., a, b, c, d] = state.revision().to_be_bytes();
    [a, b, c, d]
}

/// The data of an A or AAAA record.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Rows up to the first one that no message has room for: what is cut off is not made.
fn as_many_as_fit(rows: impl Iterator<Item = Vec<u8>>) -> Vec<Row> {
    let mut size = 0;
    let fit = |row: &Vec<u8>| {
        let before = size;
        size += RECORD_HEAD + row.len();
        before <= MESSAGE_MAX
    };
    rows.take_while(fit).map(Row::from).collect()
}

/// One TXT record of an instance: id, version and tags, then its metadata as RFC 6763 section 6.4 writes pairs. A pair
/// that is longer than a string can be is left out.
fn text(record: &Record) -> Option<Vec<u8>> {
    let spec = &record.spec;
    let mut strings = vec![format!("id={}", record.name.id)];
    if !spec.version.is_empty() {
        strings.push(format!("version={}", spec.version));
    }
    strings.extend(spec.tags.iter().map(|tag| format!("tag={tag}")));
    strings.extend(spec.metadata.iter().map(|(key, value)| format!("{key}={value}")));
    strings.retain(|string| string.len() <= TEXT_MAX);
    wire::data(&RData::TXT(TXT::new(strings)))
}
