//! The grammar: which question a name asks (`docs/dns.md` has it in one table). It knows settings, not the catalogue.
//!
//! A name is read from the right: domain, data centre, zone, namespace, then what is asked for. Every name that stands
//! between the domain and a name of the grammar is an empty one (NODATA), because resolvers that minimise questions
//! (RFC 9156) ask for it first, and stop at NXDOMAIN.

use crate::{
    name::{Labels, Name},
    settings::Settings,
};
use rollcall_core::instance::Transport;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Words of the grammar; a data centre cannot be called so.
pub(crate) const RESERVED: [&str; 9] =
    ["addr", "dc", "inst", "node", "ns", "port", "query", "service", "zone"];

/// A name under one of our zones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Which of the domains; the canonical one for reverse names.
    pub domain: usize,
    /// Where the zone's own name begins in the name that was asked.
    pub apex: usize,
    /// Whether the zone is one of addresses.
    pub reverse: bool,
    /// What is asked.
    pub question: Question<'a>,
}

/// What a name asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question<'a> {
    /// The zone itself.
    Apex,
    /// A name between the zone and others, that itself holds nothing.
    Empty,
    /// A name that cannot exist, whatever the catalogue holds.
    Nothing,
    /// Instances of a service.
    Service(Target<'a>, Select<'a>),
    /// An empty name that is there while the service is.
    WithinService(Target<'a>),
    /// One instance by its id.
    Instance(Target<'a>, &'a str),
    /// One registry server.
    Node(&'a str),
    /// The address that the name itself holds.
    Address(IpAddr),
    /// All services of a namespace, for browsing (RFC 6763 section 9).
    ServiceTypes(Option<&'a str>),
    /// Who has this address.
    Reverse(IpAddr),
}

/// A service, and the zone that its instances are to stand in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Its namespace; `None` = the default one.
    pub namespace: Option<&'a str>,
    /// Only instances in this zone.
    pub zone: Option<&'a str>,
    /// Its name.
    pub service: &'a str,
}

/// Which instances of a service, and which of their endpoints.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Select<'a> {
    /// Those that have all of these tags (none = all), each with its default endpoint.
    Tags(Labels<'a>),
    /// Those that have an endpoint of this name, and of this transport where one is said.
    Port(&'a str, Option<Transport>),
    /// All, each with its first endpoint of this transport, else its default one; `browse` where the same name lists
    /// the instances (RFC 6763 section 4).
    Transport {
        /// The transport.
        transport: Transport,
        /// Whether it is a name that can be browsed.
        browse: bool,
    },
    /// Those that have an endpoint of this name, or this tag: `_web._canary`, as of RFC 2782 and of Consul.
    Word(&'a str),
}

/// Reads a name. `None`: it stands outside of our zones.
pub(crate) fn read<'a>(name: &'a Name, settings: &Settings) -> Option<Place<'a>> {
    let zones = settings.domains.iter().enumerate();
    let zones = zones.filter_map(|(i, domain)| Some((name.before(domain.wire())?, i)));
    // The zone with the longest name is the one that holds it.
    if let Some((left, domain)) = zones.min() {
        let question = within(Labels::new(name, left), settings);
        return Some(Place { domain, apex: name.start(left), reverse: false, question });
    }
    reverse(name, settings)
}

fn within<'a>(mut labels: Labels<'a>, settings: &Settings) -> Question<'a> {
    if labels.is_empty() {
        return Question::Apex;
    }
    match labels.peek() {
        Some("dc") => {
            labels.pop();
            match labels.pop() {
                None => return Question::Empty,
                Some(dc) if dc == settings.dc.as_str() => {}
                Some(_) => return Question::Nothing,
            }
        }
        Some(dc) if dc == settings.dc.as_str() => {
            labels.pop();
        }
        Some(_) | None => {}
    }
    let mut named = |word: &str| {
        if labels.peek() != Some(word) {
            return Ok(None);
        }
        labels.pop();
        let name = labels.pop().ok_or(Question::Empty)?;
        if is_label(name) { Ok(Some(name)) } else { Err(Question::Nothing) }
    };
    let scope = named("zone").and_then(|zone| Ok((zone, named("ns")?)));
    match scope {
        Ok((zone, namespace)) => kind(labels, Target { namespace, zone, service: "" }),
        Err(question) => question,
    }
}

/// What stands before data centre, zone and namespace.
fn kind<'a>(mut labels: Labels<'a>, scope: Target<'a>) -> Question<'a> {
    let Some(word) = labels.pop() else { return Question::Empty };
    match word {
        "service" => match labels.pop() {
            None => Question::Empty,
            Some(word) if word.starts_with('_') => by_word(labels, scope, word),
            Some(service) if is_label(service) => {
                below_service(labels, Target { service, ..scope })
            }
            Some(_) => Question::Nothing,
        },
        "node" => leaf(labels, |name| is_label(name).then_some(Question::Node(name))),
        "addr" => leaf(labels, |hex| address(hex).map(Question::Address)),
        // Stored lookups do not exist yet; the word is kept for them.
        "query" if labels.is_empty() => Question::Empty,
        "_tcp" => short(labels, scope, Transport::Tcp),
        "_udp" => short(labels, scope, Transport::Udp),
        _ => Question::Nothing,
    }
}

/// Exactly one more label, or the empty name before it.
fn leaf<'a>(
    mut labels: Labels<'a>,
    read: impl FnOnce(&'a str) -> Option<Question<'a>>,
) -> Question<'a> {
    match labels.pop() {
        None => Question::Empty,
        Some(label) if labels.is_empty() => read(label).unwrap_or(Question::Nothing),
        Some(_) => Question::Nothing,
    }
}

/// `_web._tcp.service`: the form of RFC 2782.
fn by_word<'a>(labels: Labels<'a>, scope: Target<'a>, word: &'a str) -> Question<'a> {
    let select = match (word, &word[1..]) {
        ("_tcp", _) => Select::Transport { transport: Transport::Tcp, browse: false },
        ("_udp", _) => Select::Transport { transport: Transport::Udp, browse: false },
        (_, name) if is_label(name) => Select::Word(name),
        _ => return Question::Nothing,
    };
    leaf(labels, |label| {
        let service = label.strip_prefix('_').filter(|name| is_label(name))?;
        Some(Question::Service(Target { service, ..scope }, select))
    })
}

/// `_web._tcp` under the domain: the short form, which can be browsed.
fn short<'a>(mut labels: Labels<'a>, scope: Target<'a>, transport: Transport) -> Question<'a> {
    match labels.pop() {
        None => Question::Empty,
        Some("_dns-sd") if transport == Transport::Udp => leaf(labels, |label| {
            (label == "_services").then_some(Question::ServiceTypes(scope.namespace))
        }),
        Some(label) => {
            let Some(service) = label.strip_prefix('_').filter(|name| is_label(name)) else {
                return Question::Nothing;
            };
            let target = Target { service, ..scope };
            match labels.pop() {
                None => Question::Service(target, Select::Transport { transport, browse: true }),
                Some(id) if labels.is_empty() => Question::Instance(target, id),
                Some(_) => Question::Nothing,
            }
        }
    }
}

/// What stands before `<service>.service`.
fn below_service<'a>(mut labels: Labels<'a>, target: Target<'a>) -> Question<'a> {
    let within = |labels: Labels<'a>, read: &dyn Fn(&'a str) -> Option<Question<'a>>| {
        let empty = labels.is_empty();
        let question = leaf(labels, read);
        if empty { Question::WithinService(target) } else { question }
    };
    let port = |name: &'a str, transport| {
        is_label(name).then_some(Question::Service(target, Select::Port(name, transport)))
    };
    let tags = labels;
    match labels.pop() {
        None => Question::Service(target, Select::Tags(labels)),
        Some("inst") => within(labels, &|id| Some(Question::Instance(target, id))),
        Some("port") => within(labels, &|name| port(name, None)),
        Some(word @ ("_tcp" | "_udp")) => {
            let transport = if word == "_tcp" { Transport::Tcp } else { Transport::Udp };
            within(labels, &|name| port(name.strip_prefix('_')?, Some(transport)))
        }
        // grpc asks for a service configuration: the name is there, but holds none.
        Some("_grpc_config") if labels.is_empty() => Question::WithinService(target),
        Some(_) if { tags }.all(is_tag) => Question::Service(target, Select::Tags(tags)),
        Some(_) => Question::Nothing,
    }
}

fn is_tag(label: &str) -> bool {
    is_label(label) && !RESERVED.contains(&label)
}

/// Whether a label, already in lower case, is a name that can be registered.
fn is_label(label: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty()
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// 8 hex digits: an IPv4 address; 32: an IPv6 address.
fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => Some(Ipv4Addr::from_bits(u32::from_str_radix(hex, 16).ok()?).into()),
        32 => Some(Ipv6Addr::from_bits(u128::from_str_radix(hex, 16).ok()?).into()),
        _ => None,
    }
}

// === Reverse names ===

const IN_ADDR: &[u8] = b"\x07in-addr\x04arpa\0";
const IP6: &[u8] = b"\x03ip6\x04arpa\0";

/// A name under `in-addr.arpa` or `ip6.arpa`. Ours from where a configured range holds all that is below: a range that
/// does not end on the border of a label begins at the next one.
fn reverse<'a>(name: &'a Name, settings: &Settings) -> Option<Place<'a>> {
    let (left, bits, v4) = match name.before(IN_ADDR) {
        Some(left) => (left, 8, true),
        None => (name.before(IP6)?, 4, false),
    };
    let mut labels = Labels::new(name, left);
    let (mut value, mut known, mut apex) = (0_u128, 0_u8, None);
    let width = if v4 { 32 } else { 128 };
    loop {
        if apex.is_none() && is_ours(settings, value, known, v4) {
            apex = Some(name.start(labels.len()));
        }
        let Some(label) = labels.pop() else { break };
        let Some(part) = (known < width).then(|| part(label, v4)).flatten() else {
            return apex.map(|apex| Place {
                domain: 0,
                apex,
                reverse: true,
                question: Question::Nothing,
            });
        };
        known += bits;
        value |= u128::from(part) << (128 - u32::from(known));
    }
    let apex = apex?;
    let question = if known < width {
        if apex == 0 { Question::Apex } else { Question::Empty }
    } else if v4 {
        let v4 = (value >> 96) as u32;
        Question::Reverse(Ipv4Addr::from_bits(v4).into())
    } else {
        Question::Reverse(Ipv6Addr::from_bits(value).into())
    };
    Some(Place { domain: 0, apex, reverse: true, question })
}

/// Whether a configured range holds every address that begins with the `known` upper bits of `value`.
fn is_ours(settings: &Settings, value: u128, known: u8, v4: bool) -> bool {
    settings.reverse.iter().any(|range| match (range, v4) {
        (ipnet::IpNet::V4(range), true) => {
            let address = Ipv4Addr::from_bits((value >> 96) as u32);
            known >= range.prefix_len() && range.contains(&address)
        }
        (ipnet::IpNet::V6(range), false) => {
            known >= range.prefix_len() && range.contains(&Ipv6Addr::from_bits(value))
        }
        (ipnet::IpNet::V4(_), false) | (ipnet::IpNet::V6(_), true) => false,
    })
}

/// One label of a reverse name: a decimal byte without leading zeros, or one hex digit.
fn part(label: &str, v4: bool) -> Option<u8> {
    if v4 {
        let plain =
            label.bytes().all(|b| b.is_ascii_digit()) && (label == "0" || !label.starts_with('0'));
        return plain.then(|| label.parse().ok()).flatten();
    }
    (label.len() == 1).then(|| u8::from_str_radix(label, 16).ok()).flatten()
}
