//! The fast path: answers what is mostly asked from records that are kept in wire form.
//!
//! It decides nothing by itself. `parse` reads plain queries and leaves all others to [`Front::answer`]; `entry` and
//! `cache` keep what [`crate::lookup`] found; `write` puts together what [`crate::choose`] chooses. So the two paths give
//! the same bytes, which `tests/differential.rs` compares.

mod cache;
mod entry;
mod parse;
mod write;

use crate::{
    Catalog, DropReason, Front, Outcome, Query, Standing,
    instances::service_name,
    lookup::{Found, Lookup},
    message::code,
    name::Name,
    question::{self, Question, Select},
    rate::{Class, Verdict},
    respond,
    wire::kind,
};
use cache::Cache;
use entry::Entry;
use parse::{Parsed, parse};
use rollcall_core::name::ServiceName;
use std::sync::Arc;
use write::{Desk, Job};

/// Longest key: a name, a type, a locality.
const KEY_MAX: usize = 255 + 2 + 4;

/// Types that are asked for often. Whoever asks for others makes up as many as there are.
const KINDS: [u16; 6] = [kind::A, kind::AAAA, kind::SRV, kind::TXT, kind::SVCB, kind::HTTPS];

/// The fast path of one thread.
#[derive(Debug)]
pub struct Fast {
    front: Arc<Front>,
    cache: Cache,
    desk: Desk,
}

impl Fast {
    /// Enough for the addresses and places of some 25,000 services with ten instances each.
    pub const MEMORY: usize = 64 << 20;

    /// The fast path of `front`, keeping at most `memory` bytes of records (and a table of 512 KiB). `seed` is random, so
    /// that nobody can find names that drive each other out.
    pub fn new(front: Arc<Front>, memory: usize, seed: u64) -> Self {
        Self { front, cache: Cache::new(memory, seed), desk: Desk::default() }
    }

    /// Number of answers that are kept ready.
    pub fn kept(&self) -> usize {
        self.cache.len()
    }

    /// Answers a query as [`Front::answer`] would, if it is a plain one. `None`: it is not, and that one is to be asked;
    /// then nothing has happened, and what stands in `reply` means nothing.
    pub fn answer(
        &mut self,
        query: &Query<'_>,
        catalog: &Catalog<'_>,
        reply: &mut Vec<u8>,
    ) -> Option<Outcome> {
        let parsed = parse(query)?;
        if catalog.standing == Standing::Unready {
            return None;
        }
        self.cache.follow(catalog);
        let settings = self.front.settings();
        let mut buffer = [0; KEY_MAX];
        let client = query.peer.ip().to_canonical();
        let key = key(&mut buffer, &parsed, self.front.localities.number(client));
        let hash = self.cache.hash(key);
        let cookie = respond::judge_cookie(query, parsed.extensions.as_ref(), catalog);
        let job = Job { settings, query, parsed: &parsed, catalog, client, cookie };
        if let Some(entry) = self.cache.get(hash, key) {
            return Some(reply_from(&self.front, &mut self.desk, &job, (key, entry), reply));
        }
        let name = Name::read(parsed.question)?;
        if let Some(Made { entry, keep }) = make(&self.front, &job, &name) {
            let outcome = reply_from(&self.front, &mut self.desk, &job, (key, &entry), reply);
            if let Some(service) = keep {
                self.cache.insert(hash, key, &service, entry);
            }
            return Some(outcome);
        }
        let asked = parsed.asked(Ok(Box::new(name)));
        let answered = respond::respond(&self.front, query, &asked, catalog, reply);
        Some(answered.map_or_else(|| dropped(reply), Outcome::Reply))
    }
}

/// Writes the reply that an entry makes, or what the rate limit wants in its place.
fn reply_from(
    front: &Front,
    desk: &mut Desk,
    job: &Job<'_>,
    (key, entry): (&[u8], &Entry),
    reply: &mut Vec<u8>,
) -> Outcome {
    let name = &key[..job.parsed.name().len()];
    let class = match entry {
        Entry::Nothing { code: code::NX_DOMAIN, .. } => Class::Unknown,
        Entry::Nothing { .. } => Class::NoData(name),
        Entry::Addresses(_) | Entry::Places(_) => Class::Data(name),
    };
    match respond::verdict(front, job.query, job.cookie.as_ref(), class) {
        Verdict::Send => Outcome::Reply(desk.write(job, entry, reply)),
        Verdict::Slip => {
            let asked = job.parsed.asked(Err(code::NO_ERROR));
            let cookie = job.cookie.as_ref();
            Outcome::Reply(respond::slip(front, job.query, &asked, cookie, reply))
        }
        Verdict::Drop => dropped(reply),
    }
}

fn dropped(reply: &mut Vec<u8>) -> Outcome {
    reply.clear();
    Outcome::Drop(DropReason::Limited)
}

/// What the answer depends on beside the catalogue: the name in lower case, the type, where the client stands.
fn key<'a>(buffer: &'a mut [u8; KEY_MAX], parsed: &Parsed<'_>, locality: Option<u32>) -> &'a [u8] {
    let name = parsed.name();
    let end = name.len();
    buffer[..end].copy_from_slice(name);
    // The length of a label is at most 63 and so never a letter.
    buffer[..end].make_ascii_lowercase();
    buffer[end..end + 2].copy_from_slice(&parsed.kind.to_be_bytes());
    let Some(locality) = locality else { return &buffer[..end + 2] };
    buffer[end + 2..end + 6].copy_from_slice(&locality.to_be_bytes());
    &buffer[..end + 6]
}

/// An entry that was made for a query.
struct Made {
    entry: Entry,
    /// The service that it stands and falls with; `None`: it is not kept.
    keep: Option<ServiceName>,
}

/// Looks a question up. `None`: it is of a rare kind, and the full path looks it up.
fn make(front: &Front, job: &Job<'_>, name: &Name) -> Option<Made> {
    let (settings, catalog, kind) = (job.settings, job.catalog, job.parsed.kind);
    let place = question::read(name, settings)?;
    match place.question {
        Question::Service(..) if !KINDS.contains(&kind) => return None,
        Question::Service(..)
        | Question::WithinService(_)
        | Question::Nothing
        | Question::Empty => {}
        Question::Apex
        | Question::Instance(..)
        | Question::Node(_)
        | Question::Address(_)
        | Question::ServiceTypes(_)
        | Question::Reverse(_) => return None,
    }
    if place.reverse {
        return None;
    }
    let lookup = Lookup {
        settings,
        catalog,
        domain: &settings.domains[place.domain],
        apex: place.apex,
        reverse: false,
        kind,
        client: job.client,
        locality: front.localities.of(job.client),
        random: job.query.random,
    };
    let found = lookup.find(&place.question);
    let keep = may_keep(catalog, &place.question, &found);
    Some(Made { entry: Entry::new(found, &place, kind, lookup.domain)?, keep })
}

/// The service that the entry stands and falls with, if there are only so many names like this one as the catalogue has
/// words. Others could be made up without end, and would drive the useful ones out.
fn may_keep(catalog: &Catalog<'_>, question: &Question<'_>, found: &Found) -> Option<ServiceName> {
    let Question::Service(target, by) = question else { return None };
    let nothing = matches!(found, Found::Empty);
    let bounded = match by {
        Select::Tags(tags) if tags.len() > 1 => false,
        Select::Tags(tags) if tags.is_empty() => !nothing || target.zone.is_none(),
        Select::Transport { .. } => !nothing || target.zone.is_none(),
        Select::Tags(_) | Select::Port(..) | Select::Word(_) => !nothing,
    };
    let service = bounded.then(|| service_name(target)).flatten()?;
    // One without instances may be forgotten without an event.
    let stays = !catalog.state.service(&service)?.instances.is_empty();
    stays.then_some(service)
}
