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
    Answered, Catalog, DropReason, Front, Outcome, Query, Standing,
    instances::service_name,
    lookup::{Found, Lookup},
    message::code,
    name::Name,
    question::{self, Question, Select, Target},
    rate::{Class, Verdict},
    respond,
    settings::Settings,
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
        let key = key(&mut buffer, &parsed, query, settings);
        let hash = self.cache.hash(key);
        let cookie = respond::judge_cookie(query, parsed.extensions.as_ref(), catalog);
        let job = Job { settings, query, parsed: &parsed, catalog, cookie };
        if let Some(entry) = self.cache.get(hash, key) {
            let verdict = verdict(&self.front, &job, key, entry);
            return Some(match verdict {
                Verdict::Send => Outcome::Reply(self.desk.write(&job, entry, reply)),
                Verdict::Slip => Outcome::Reply(self.slip(&job, reply)),
                Verdict::Drop => dropped(reply),
            });
        }
        let name = Name::read(parsed.question)?;
        if let Some((service, entry)) = make(&job, &name) {
            let outcome = match verdict(&self.front, &job, key, &entry) {
                Verdict::Send => Outcome::Reply(self.desk.write(&job, &entry, reply)),
                Verdict::Slip => Outcome::Reply(self.slip(&job, reply)),
                Verdict::Drop => dropped(reply),
            };
            self.cache.insert(hash, key, &service, entry);
            return Some(outcome);
        }
        let asked = parsed.asked(Ok(Box::new(name)));
        let answered = respond::respond(&self.front, query, &asked, catalog, reply);
        Some(answered.map_or_else(|| dropped(reply), Outcome::Reply))
    }

    fn slip(&self, job: &Job<'_>, reply: &mut Vec<u8>) -> Answered {
        let asked = job.parsed.asked(Err(code::NO_ERROR));
        respond::slip(&self.front, job.query, &asked, job.cookie.as_ref(), reply)
    }
}

fn dropped(reply: &mut Vec<u8>) -> Outcome {
    reply.clear();
    Outcome::Drop(DropReason::Limited)
}

/// What the rate limit says to the reply that the entry makes.
fn verdict(front: &Front, job: &Job<'_>, key: &[u8], entry: &Entry) -> Verdict {
    let name = &key[..job.parsed.name().len()];
    let class = match entry {
        Entry::Empty { .. } => Class::NoData(name),
        Entry::Addresses(_) | Entry::Places(_) => Class::Data(name),
    };
    respond::verdict(front, job.query, job.cookie.as_ref(), class)
}

/// What the answer depends on beside the catalogue: the name in lower case, the type, where the client stands.
fn key<'a>(
    buffer: &'a mut [u8; KEY_MAX],
    parsed: &Parsed<'_>,
    query: &Query<'_>,
    settings: &Settings,
) -> &'a [u8] {
    let name = parsed.name();
    let end = name.len();
    buffer[..end].copy_from_slice(name);
    // The length of a label is at most 63 and so never a letter.
    buffer[..end].make_ascii_lowercase();
    buffer[end..end + 2].copy_from_slice(&parsed.kind.to_be_bytes());
    if settings.localities.is_empty() {
        return &buffer[..end + 2];
    }
    let place = settings.locality_index(query.peer.ip().to_canonical());
    let place = place.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
    buffer[end + 2..end + 6].copy_from_slice(&place.to_be_bytes());
    &buffer[..end + 6]
}

/// Looks a question up, and makes an entry where its answer can be kept.
fn make(job: &Job<'_>, name: &Name) -> Option<(ServiceName, Entry)> {
    let (settings, catalog, kind) = (job.settings, job.catalog, job.parsed.kind);
    let place = question::read(name, settings)?;
    let Question::Service(target, by) = &place.question else { return None };
    if !matches!(kind, kind::A | kind::AAAA | kind::SRV | kind::TXT | kind::SVCB | kind::HTTPS) {
        return None;
    }
    let service = service_name(target)?;
    // A service without instances may be forgotten without an event.
    let known = catalog.state.service(&service)?;
    if known.instances.is_empty() {
        return None;
    }
    let lookup = Lookup {
        settings,
        catalog,
        domain: &settings.domains[place.domain],
        apex: place.apex,
        reverse: place.reverse,
        kind,
        client: job.query.peer.ip().to_canonical(),
        random: job.query.random,
    };
    let found = lookup.find(&place.question);
    if !may_keep(target, by, &found) {
        return None;
    }
    Some((service, Entry::new(found, &place, kind, lookup.domain)?))
}

/// Whether there are only so many names like this one as the catalogue has words. Others could be made up without end, and
/// would drive the useful ones out.
fn may_keep(target: &Target<'_>, by: &Select<'_>, found: &Found) -> bool {
    let nothing = matches!(found, Found::Empty);
    match by {
        Select::Tags(tags) if tags.len() > 1 => false,
        Select::Tags(tags) if tags.is_empty() => !nothing || target.zone.is_none(),
        Select::Transport { .. } => !nothing || target.zone.is_none(),
        Select::Tags(_) | Select::Port(..) | Select::Word(_) => !nothing,
    }
}
