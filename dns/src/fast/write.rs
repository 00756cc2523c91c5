//! Puts a reply together from an entry. What is shown is chosen by [`crate::choose`]; here bytes are copied.

use super::{
    entry::{Entry, Pick, Rows, TARGET},
    parse::Parsed,
};
use crate::{
    Answered, Query,
    catalog::{Catalog, Standing},
    choose,
    cookie::Judged,
    lookup::{Lookup, serial},
    message::{HEADER, code, option},
    respond::{
        ADDRESSES_MAX, PLACES_MAX, addresses_missing, cap, limit, option_fits, option_room,
        tells_truncation, why,
    },
    settings::Settings,
    wire::{Head, Owner, POINTER_MAX, Section, Writer, kind, pointer},
};
use rollcall_core::name::Label;
use std::net::IpAddr;

/// From the serial of SOA data to its end (RFC 1035 section 3.3.13).
const SOA_TAIL: usize = 20;
/// The label before the second pointer in it.
const HOSTMASTER: usize = 11;

/// What a thread writes with: memory that is used again for each reply.
#[derive(Debug, Default)]
pub(super) struct Desk {
    chosen: Vec<Pick>,
    /// The targets whose addresses have been written.
    written: Vec<bool>,
    opt: Vec<u8>,
    soa: Soa,
}

/// SOA data; the zone's name is in it twice, as a pointer.
#[derive(Debug, Default)]
struct Soa {
    /// The node that it names.
    node: Option<Label>,
    data: Vec<u8>,
}

/// One query, and what it is answered from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub settings: &'a Settings,
    pub query: &'a Query<'a>,
    pub parsed: &'a Parsed<'a>,
    pub catalog: &'a Catalog<'a>,
    /// The client's address.
    pub client: IpAddr,
    /// What its cookie comes to.
    pub cookie: Option<Judged>,
}

impl Desk {
    /// Writes the reply that `entry` makes.
    pub(super) fn write(&mut self, job: &Job<'_>, entry: &Entry, reply: &mut Vec<u8>) -> Answered {
        let Job { settings, query, parsed, .. } = *job;
        let fail_open = match entry {
            Entry::Nothing { .. } => false,
            Entry::Addresses(rows) | Entry::Places(rows) => rows.fail_open,
        };
        let limit = limit(settings, query.transport, parsed.extensions.as_ref());
        self.opt.clear();
        if parsed.extensions.is_some() {
            write_opt(&mut self.opt, job, limit, fail_open);
        }
        let mut writer = Writer::begin(reply, parsed.question, limit - self.opt.len());
        let cut = match entry {
            Entry::Nothing { domain, apex, .. } => self.nothing(&mut writer, job, *domain, *apex),
            Entry::Addresses(rows) => self.addresses(&mut writer, job, rows),
            Entry::Places(rows) => self.places(&mut writer, job, rows),
        };
        let truncated = tells_truncation(query, cut);
        let code = match entry {
            Entry::Nothing { code, .. } => *code,
            Entry::Addresses(_) | Entry::Places(_) => code::NO_ERROR,
        };
        let head = Head { query: parsed.header, code, authoritative: true, truncated };
        let opt = (!self.opt.is_empty()).then_some(&self.opt[..]);
        writer.finish(&head, 1, opt);
        Answered { kind: parsed.kind, code, truncated, slipped: false, ready: true }
    }

    fn nothing(
        &mut self,
        writer: &mut Writer<'_>,
        job: &Job<'_>,
        domain: usize,
        apex: usize,
    ) -> bool {
        let Job { settings, catalog, parsed, query, client, .. } = *job;
        let (domain, kind, random) = (&settings.domains[domain], parsed.kind, query.random);
        let (reverse, locality) = (false, None);
        let lookup =
            Lookup { settings, catalog, domain, apex, reverse, kind, client, locality, random };
        let soa = &mut self.soa;
        let node = catalog.nodes.first().map(|node| &node.name);
        if soa.data.is_empty() || soa.node.as_ref() != node {
            *soa = Soa { node: node.cloned(), data: lookup.soa() };
        }
        let at = soa.data.len() - SOA_TAIL;
        let zone = pointer(HEADER + apex);
        for pointer in [at - 2, at - 2 - HOSTMASTER - 2] {
            soa.data[pointer..pointer + 2].copy_from_slice(&zone);
        }
        soa.data[at..at + 4].copy_from_slice(&serial(catalog.state));
        let what = (kind::SOA, lookup.negative_ttl());
        writer.record(Section::Authority, Owner::Question(apex), what, &soa.data).is_none()
    }

    fn addresses(&mut self, writer: &mut Writer<'_>, job: &Job<'_>, rows: &Rows) -> bool {
        let most = cap(job.settings.address_limit, ADDRESSES_MAX);
        let all = rows.picks.len();
        let shown = if rows.level && all <= most && rows.records().len() <= writer.room() {
            let start = choose::start(&mut choose::dice(job.query.random), all);
            turned(writer, Section::Answer, rows.records(), (start, all));
            all
        } else {
            self.choose(writer, job, rows, most);
            for pick in &self.chosen {
                writer.ready(Section::Answer, rows.record(pick), 1);
            }
            self.chosen.len()
        };
        addresses_missing(job.settings, all, shown)
    }

    fn places(&mut self, writer: &mut Writer<'_>, job: &Job<'_>, rows: &Rows) -> bool {
        let all = rows.picks.len();
        let wanted = all.min(cap(job.settings.srv_limit, PLACES_MAX));
        let size = rows.records().len() + rows.glues().len();
        if rows.level && all == wanted && size <= writer.room() && size < POINTER_MAX / 2 {
            level_places(writer, job, rows);
            return false;
        }
        self.choose(writer, job, rows, wanted);
        self.written.clear();
        self.written.resize(rows.targets, false);
        let first = writer.len();
        for pick in &self.chosen {
            writer.ready(Section::Answer, rows.record(pick), 1);
        }
        let mut at = first;
        for pick in &self.chosen {
            let target = at + TARGET;
            at += pick.size();
            if !std::mem::replace(&mut self.written[pick.target as usize], true)
                && !write_glue(writer, rows, pick, target)
            {
                break;
            }
        }
        self.chosen.len() < wanted
    }

    fn choose(&mut self, writer: &Writer<'_>, job: &Job<'_>, rows: &Rows, most: usize) {
        self.chosen.clear();
        self.chosen.extend_from_slice(&rows.picks);
        let bounds = (most, writer.room());
        choose::choose(&mut self.chosen, bounds, Pick::size, job.client, job.query.random);
    }
}

/// Writes records of one size from the given one on, then those before it.
fn turned(
    writer: &mut Writer<'_>,
    section: Section,
    records: &[u8],
    (start, count): (usize, usize),
) -> usize {
    let (before, behind) = records.split_at(records.len() / count * start);
    let at = writer.ready(section, behind, count - start);
    writer.ready(section, before, start);
    at
}

/// Places of one tier, weight and size: all of them, then all of their addresses.
fn level_places(writer: &mut Writer<'_>, job: &Job<'_>, rows: &Rows) {
    let count = rows.picks.len();
    let start = choose::start(&mut choose::dice(job.query.random), count);
    let record = turned(writer, Section::Answer, rows.records(), (start, count));
    let glue = turned(writer, Section::Additional, rows.glues(), (start, count));
    let (size, glue_size) = (rows.records().len() / count, rows.glues().len() / count);
    for i in 0..count {
        writer.point(glue + i * glue_size, record + i * size + TARGET);
    }
}

/// Writes the address of a target that stands at `target`. False: it does not fit.
fn write_glue(writer: &mut Writer<'_>, rows: &Rows, pick: &Pick, target: usize) -> bool {
    let glue = rows.glue(pick);
    if target <= POINTER_MAX {
        if glue.len() > writer.room() {
            return false;
        }
        let at = writer.ready(Section::Additional, glue, 1);
        writer.point(at, target);
        return true;
    }
    // A pointer does not reach that far: the name itself.
    let name = &rows.record(pick)[TARGET..];
    if name.len() + glue.len() - 2 > writer.room() {
        return false;
    }
    writer.ready(Section::Additional, name, 0);
    writer.ready(Section::Additional, &glue[2..], 1);
    true
}

/// Writes the OPT record (RFC 6891 section 6.1.2), its options in the order of the full path.
fn write_opt(out: &mut Vec<u8>, job: &Job<'_>, limit: usize, fail_open: bool) {
    let Some(extensions) = &job.parsed.extensions else { return };
    out.push(0);
    out.extend(kind::OPT.to_be_bytes());
    out.extend(job.settings.udp_payload.to_be_bytes());
    out.extend([0, 0, if extensions.dnssec_ok { 0x80 } else { 0 }, 0]);
    let length = out.len();
    out.extend([0; 2]);
    let mut room = option_room(limit, job.parsed.question);
    if let Some(Judged { reply, .. }) = job.cookie
        && option_fits(&mut room, reply.len())
    {
        out.extend(option::COOKIE.to_be_bytes());
        out.extend(option_len(reply.len()));
        out.extend(reply);
    }
    let stale = (job.catalog.standing == Standing::Stale).then_some(why::STALE);
    for (code, text) in stale.into_iter().chain(fail_open.then_some(why::FAIL_OPEN)) {
        if !option_fits(&mut room, 2 + text.len()) {
            continue;
        }
        out.extend(option::EXTENDED_ERROR.to_be_bytes());
        out.extend(option_len(2 + text.len()));
        out.extend(code.to_be_bytes());
        out.extend(text.bytes());
    }
    let options = option_len(out.len() - length - 2);
    out[length..length + 2].copy_from_slice(&options);
}

fn option_len(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("options of a reply are short").to_be_bytes()
}
