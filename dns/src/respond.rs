//! The reply: what was found, cut to what fits, with the extensions that the client knows.

use crate::{
    Answered, Front, Query, Transport,
    catalog::{Catalog, Standing},
    choose,
    cookie::Judged,
    instances::{Address, Place},
    lookup::{FIXED, Found, Lookup, Row, Terms, octets},
    message::{Asked, Extensions, HEADER, code, option},
    question::{self, Question},
    rate::{Class, Verdict},
    settings::{Settings, Truncation},
    wire::{self, Head, Owner, Section, Writer, kind},
};
use std::net::{IpAddr, SocketAddr};

/// Largest UDP reply to a client that says nothing (RFC 1035 section 4.2.1).
const PLAIN_UDP: usize = 512;
/// Largest message of all.
const TCP: usize = u16::MAX as usize;
/// Most records of one reply, however large it may be.
pub(crate) const ADDRESSES_MAX: usize = 4_000;
pub(crate) const PLACES_MAX: usize = 1_000;

/// Extended errors (RFC 8914 section 4): code and words.
pub(crate) mod why {
    pub(crate) const FAIL_OPEN: (u16, &str) = (0, "fail-open: too few are healthy, all are shown");
    pub(crate) const STALE: (u16, &str) = (3, "no leader: this is what was known last");
    pub(crate) const NOT_READY: (u16, &str) = (14, "this node has no state yet");
    pub(crate) const NOT_OURS: (u16, &str) = (20, "outside of the domains served here");
}

/// What can be said of a query before anything is searched.
enum Begun<'a> {
    Refused(Reply<'a>),
    Search(Lookup<'a>, Question<'a>),
}

/// A reply before it is written.
struct Reply<'a> {
    lookup: Option<Lookup<'a>>,
    code: u16,
    found: Found,
    why: Vec<(u16, &'static str)>,
    /// It stands in place of one over the rate limit.
    slipped: bool,
}

/// Writes the reply to a query. `None`: the rate limit wants it dropped.
pub(crate) fn respond(
    front: &Front,
    query: &Query<'_>,
    asked: &Asked<'_>,
    catalog: &Catalog<'_>,
    out: &mut Vec<u8>,
) -> Option<Answered> {
    let cookie = judge_cookie(query, asked.extensions.as_ref(), catalog);
    let begun = begin(front, query, asked, catalog);
    let class = match &begun {
        Begun::Refused(_) => Class::Error,
        Begun::Search(lookup, question) => lookup.class(question),
    };
    match verdict(front, query, cookie.as_ref(), class) {
        Verdict::Send => {}
        Verdict::Slip => return Some(slip(front, query, asked, cookie.as_ref(), out)),
        Verdict::Drop => return None,
    }
    let reply = match begun {
        Begun::Refused(reply) => reply,
        Begun::Search(lookup, question) => Reply::of(lookup, lookup.find(&question)),
    };
    Some(write_reply(front, query, asked, (cookie.as_ref(), &reply), out))
}

/// Writes the reply to a question that has been looked up already.
pub(crate) fn write_found(
    front: &Front,
    query: &Query<'_>,
    asked: &Asked<'_>,
    cookie: Option<&Judged>,
    (lookup, found): (Lookup<'_>, Found),
    out: &mut Vec<u8>,
) -> Answered {
    write_reply(front, query, asked, (cookie, &Reply::of(lookup, found)), out)
}

/// What the rate limit says to a reply of that class.
pub(crate) fn verdict(
    front: &Front,
    query: &Query<'_>,
    cookie: Option<&Judged>,
    class: Class,
) -> Verdict {
    let proven = query.transport == Transport::Tcp || cookie.is_some_and(|cookie| cookie.valid);
    match &front.limiter {
        Some(limiter) if !proven => limiter.check(query.peer.ip(), class, query.now),
        Some(_) | None => Verdict::Send,
    }
}

/// Writes the short reply that stands in place of one over the rate limit.
pub(crate) fn slip(
    front: &Front,
    query: &Query<'_>,
    asked: &Asked<'_>,
    cookie: Option<&Judged>,
    out: &mut Vec<u8>,
) -> Answered {
    // A client with a cookie learns a good one; one without is sent to TCP.
    let code = if cookie.is_some() { code::BAD_COOKIE } else { code::NO_ERROR };
    let reply = Reply { slipped: true, ..Reply::refused(code, None) };
    write_reply(front, query, asked, (cookie, &reply), out)
}

fn write_reply(
    front: &Front,
    query: &Query<'_>,
    asked: &Asked<'_>,
    (cookie, reply): (Option<&Judged>, &Reply<'_>),
    out: &mut Vec<u8>,
) -> Answered {
    let settings = front.settings();
    let limit = limit(settings, query.transport, asked.extensions.as_ref());
    let opt = asked.extensions.as_ref().map(|extensions| {
        let mut options = options(settings, query.transport, extensions, cookie, &reply.why);
        let mut room = option_room(limit, asked.question);
        options.retain(|(_, data)| option_fits(&mut room, data.len()));
        wire::opt(settings.udp_payload, reply.code, extensions.dnssec_ok, &options)
    });
    let limit = limit - opt.as_ref().map_or(0, Vec::len);
    let mut writer = Writer::begin(out, asked.question, limit);
    let cut = write(&mut writer, settings, query, reply);
    let slipped = reply.slipped;
    let truncated = tells_truncation(query, cut) || slipped && reply.code == code::NO_ERROR;
    let known = matches!(reply.code, code::NO_ERROR | code::NX_DOMAIN);
    let authoritative = reply.lookup.is_some() && known;
    let head = Head { query: asked.header, code: reply.code, authoritative, truncated };
    writer.finish(&head, u16::from(!asked.question.is_empty()), opt.as_deref());
    Answered { kind: asked.kind, code: reply.code, truncated, slipped, ready: false }
}

/// How much of a reply may be options. The longest question leaves room for the most important ones alone.
pub(crate) fn option_room(limit: usize, question: &[u8]) -> usize {
    (limit - HEADER - question.len()) / 2
}

/// Whether an option fits into what is left of that room, which is then less.
pub(crate) fn option_fits(room: &mut usize, data: usize) -> bool {
    let left = room.checked_sub(4 + data);
    left.map(|left| *room = left).is_some()
}

/// Over TCP there is nowhere left to go: resolvers take TC there for a failure, and then show nothing.
pub(crate) fn tells_truncation(query: &Query<'_>, cut: bool) -> bool {
    cut && query.transport == Transport::Udp
}

impl<'a> Reply<'a> {
    fn refused(code: u16, why: Option<(u16, &'static str)>) -> Self {
        let why = why.into_iter().collect();
        Self { lookup: None, code, found: Found::Empty, why, slipped: false }
    }

    fn of(lookup: Lookup<'a>, found: Found) -> Self {
        let mut why = Vec::new();
        if lookup.catalog.standing == Standing::Stale {
            why.push(why::STALE);
        }
        if let Found::Addresses(_, terms) | Found::Places(_, terms) | Found::Rows(_, terms) = &found
            && terms.fail_open
        {
            why.push(why::FAIL_OPEN);
        }
        let code = match found {
            Found::Unknown => code::NX_DOMAIN,
            Found::Empty
            | Found::NoneOfType
            | Found::Addresses(..)
            | Found::Places(..)
            | Found::Rows(..) => code::NO_ERROR,
        };
        Self { lookup: Some(lookup), code, found, why, slipped: false }
    }
}

/// How large a reply may be.
pub(crate) fn limit(
    settings: &Settings,
    transport: Transport,
    extensions: Option<&Extensions>,
) -> usize {
    match (transport, extensions) {
        (Transport::Tcp, _) => TCP,
        (Transport::Udp, None) => PLAIN_UDP,
        (Transport::Udp, Some(extensions)) => {
            extensions.payload.min(settings.udp_payload).max(512).into()
        }
    }
}

pub(crate) fn judge_cookie(
    query: &Query<'_>,
    extensions: Option<&Extensions>,
    catalog: &Catalog<'_>,
) -> Option<Judged> {
    let given = extensions?.cookie?;
    Some(given.judge(catalog.cookies?, query.peer.ip(), query.unix))
}

fn begin<'a>(
    front: &'a Front,
    query: &Query<'_>,
    asked: &'a Asked<'_>,
    catalog: &'a Catalog<'a>,
) -> Begun<'a> {
    let name = match &asked.name {
        Ok(name) => name,
        Err(code) => return Begun::Refused(Reply::refused(*code, None)),
    };
    let Some(place) = question::read(name, front.settings()) else {
        return Begun::Refused(Reply::refused(code::REFUSED, Some(why::NOT_OURS)));
    };
    if catalog.standing == Standing::Unready {
        return Begun::Refused(Reply::refused(code::SERV_FAIL, Some(why::NOT_READY)));
    }
    Begun::Search(look_up(front, query, catalog, asked.kind, &place), place.question)
}

/// The look into the catalogue that a question wants.
pub(crate) fn look_up<'a>(
    front: &'a Front,
    query: &Query<'_>,
    catalog: &'a Catalog<'a>,
    kind: u16,
    place: &question::Place<'_>,
) -> Lookup<'a> {
    let (settings, client) = (front.settings(), query.peer.ip().to_canonical());
    Lookup {
        settings,
        catalog,
        domain: &settings.domains[place.domain],
        apex: place.apex,
        reverse: place.reverse,
        kind,
        client,
        locality: front.localities.of(client),
        random: query.random,
    }
}

/// The options of a reply, the most important ones first.
fn options(
    settings: &Settings,
    transport: Transport,
    extensions: &Extensions,
    cookie: Option<&Judged>,
    why: &[(u16, &'static str)],
) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    if let Some(cookie) = cookie {
        options.push((option::COOKIE, cookie.reply.to_vec()));
    }
    if extensions.nsid && !settings.nsid.is_empty() {
        options.push((option::NSID, settings.nsid.clone()));
    }
    if extensions.keepalive && transport == Transport::Tcp {
        options.push((option::TCP_KEEPALIVE, settings.tcp_keepalive.to_be_bytes().to_vec()));
    }
    for (code, text) in why {
        let value = [&code.to_be_bytes()[..], text.as_bytes()].concat();
        options.push((option::EXTENDED_ERROR, value));
    }
    options
}

// === What fits ===

/// Writes what was found and says whether the client must be told that something is missing.
fn write(
    writer: &mut Writer<'_>,
    settings: &Settings,
    query: &Query<'_>,
    reply: &Reply<'_>,
) -> bool {
    let Some(lookup) = &reply.lookup else { return false };
    match &reply.found {
        Found::Unknown | Found::Empty | Found::NoneOfType => {
            let owner = Owner::Question(lookup.apex);
            let soa = (kind::SOA, lookup.negative_ttl());
            writer.record(Section::Authority, owner, soa, &lookup.soa()).is_none()
        }
        Found::Addresses(addresses, terms) => {
            let all = addresses.len();
            let shown = write_addresses(writer, lookup, query, addresses, terms);
            addresses_missing(settings, all, shown)
        }
        Found::Places(places, terms) => write_places(writer, lookup, query, places, terms),
        Found::Rows(rows, terms) => write_rows(writer, lookup, rows, terms),
    }
}

pub(crate) fn cap(limit: u16, max: usize) -> usize {
    if limit == 0 { max } else { usize::from(limit).min(max) }
}

/// Whether the client must be told that only so many of all addresses are shown.
pub(crate) fn addresses_missing(settings: &Settings, all: usize, shown: usize) -> bool {
    // Fewer by the operator's own limit is no truncation.
    let wanted = all.min(cap(settings.address_limit, ADDRESSES_MAX));
    settings.truncation == Truncation::Always && shown < wanted || shown == 0
}

/// Writes as many addresses as fit, the same ones for the same client, and says how many.
fn write_addresses(
    writer: &mut Writer<'_>,
    lookup: &Lookup<'_>,
    query: &Query<'_>,
    addresses: &[Address],
    terms: &Terms,
) -> usize {
    let size = 12 + if lookup.kind == kind::A { 4 } else { 16 };
    let most = cap(lookup.settings.address_limit, ADDRESSES_MAX);
    let mut chosen = addresses.to_vec();
    choose::choose(&mut chosen, (most, writer.room()), |_| size, lookup.client, query.random);
    let what = (lookup.kind, terms.ttl);
    let write = |address: &&Address| {
        writer.record(Section::Answer, Owner::Question(0), what, &octets(address.ip)).is_some()
    };
    chosen.iter().take_while(write).count()
}

/// The data of an SRV record. Its target is never compressed (RFC 2782), and holds the address that it stands for.
pub(crate) fn place_data(place: &Place, domain: &[u8]) -> Vec<u8> {
    let hex: String = octets(place.address.ip()).iter().map(|b| format!("{b:02x}")).collect();
    let mut data = Vec::with_capacity(64);
    for number in [place.priority, place.weight, place.address.port()] {
        data.extend(number.to_be_bytes());
    }
    data.extend(wire::label(&hex));
    data.extend(b"\x04addr");
    data.extend(domain);
    data
}

/// Writes the places that fit, and behind them the addresses of their targets as far as they fit.
fn write_places(
    writer: &mut Writer<'_>,
    lookup: &Lookup<'_>,
    query: &Query<'_>,
    places: &[Place],
    terms: &Terms,
) -> bool {
    let domain = lookup.domain.wire();
    let wanted = places.len().min(cap(lookup.settings.srv_limit, PLACES_MAX));
    let mut chosen = places.to_vec();
    let size = |place: &Place| 12 + place_data(place, domain).len();
    choose::choose(&mut chosen, (wanted, writer.room()), size, lookup.client, query.random);
    let fit = chosen.len();
    let what = (kind::SRV, terms.ttl);
    let mut targets: Vec<(SocketAddr, usize, Vec<u8>)> = Vec::new();
    for place in &chosen {
        let data = place_data(place, domain);
        if let Some(at) = writer.record(Section::Answer, Owner::Question(0), what, &data) {
            targets.push((place.address, at + 6, data[6..].to_vec()));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for (address, at, name) in &targets {
        let new = seen.insert(address.ip());
        if new && !write_glue(writer, Owner::Written(*at, name), address.ip(), FIXED.ttl) {
            break;
        }
    }
    fit < wanted
}

fn write_glue(writer: &mut Writer<'_>, owner: Owner<'_>, ip: IpAddr, ttl: u32) -> bool {
    let kind = if ip.is_ipv4() { kind::A } else { kind::AAAA };
    writer.record(Section::Additional, owner, (kind, ttl), &octets(ip)).is_some()
}

fn write_rows(writer: &mut Writer<'_>, lookup: &Lookup<'_>, rows: &[Row], terms: &Terms) -> bool {
    let what = (lookup.kind_of_rows(), terms.ttl);
    let mut written = Vec::new();
    for row in rows {
        let at = writer.record(Section::Answer, Owner::Question(0), what, &row.data);
        let Some(at) = at else { return true };
        written.push((at, row));
    }
    for (at, row) in written {
        let Some((name_at, addresses)) = &row.glue else { continue };
        let owner = Owner::Written(at + name_at, &row.data[*name_at..]);
        for ip in addresses {
            if !write_glue(writer, owner, *ip, lookup.settings.node_ttl) {
                return false;
            }
        }
    }
    false
}
