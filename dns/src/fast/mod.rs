//! The fast path: answers what is mostly asked from records that are kept in wire form.
//!
//! It decides nothing by itself. `parse` reads plain queries and leaves all others to [`Front::answer`]; `entry` and
//! `cache` keep what [`crate::lookup`] found; `write` puts together what [`crate::choose`] chooses. So the two paths give
//! the same bytes, which `tests/differential.rs` compares. `allowance` says how much may be searched for what will not
//! be asked again: who makes up names under a large service must not hold up the clients of this thread.

mod allowance;
mod cache;
mod entry;
mod parse;
mod write;

use crate::{
    Catalog, DropReason, Front, Outcome, Query, Standing,
    instances::service_name,
    lookup::Found,
    message::code,
    name::Name,
    question::{self, Question, Select},
    rate::{Class, Verdict},
    respond,
    wire::kind,
};
use allowance::Allowance;
use cache::{Cache, Known};
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
    own: Own,
}

/// What the thread has for itself.
#[derive(Debug)]
struct Own {
    cache: Cache,
    desk: Desk,
    allowance: Allowance,
}

impl Fast {
    /// For one thread. A, AAAA and SRV of 10,000 services with ten instances each take 23 MiB; they must fit into half.
    pub const MEMORY: usize = 64 << 20;

    /// The fast path of `front`, keeping at most `memory` bytes of records (and a table of 512 KiB). `seed` is random, so
    /// that nobody can find names that drive each other out.
    pub fn new(front: Arc<Front>, memory: usize, seed: u64) -> Self {
        let (cache, desk) = (Cache::new(memory, seed), Desk::default());
        Self { front, own: Own { cache, desk, allowance: Allowance::default() } }
    }

    /// Number of answers that are kept ready.
    pub fn kept(&self) -> usize {
        self.own.cache.len()
    }

    /// Answers a query as [`Front::answer`] would, if it is a plain one and costs little. `None`: it is not, and that one
    /// is to be asked, elsewhere; then nothing has happened, and what stands in `reply` means nothing.
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
        let Self { front, own } = self;
        own.cache.follow(catalog);
        let settings = front.settings();
        let mut buffer = [0; KEY_MAX];
        let client = query.peer.ip().to_canonical();
        let key = key(&mut buffer, &parsed, front.localities.number(client));
        let hash = own.cache.hash(key);
        let cookie = respond::judge_cookie(query, parsed.extensions.as_ref(), catalog);
        let job = Job { settings, query, parsed: &parsed, catalog, client, cookie };
        let overtaken = match own.cache.get(hash, key) {
            Known::Holds(entry, class) => {
                let refused = over_limit(front, &job, class, reply);
                let write = || Outcome::Reply(own.desk.write(&job, entry, reply));
                return Some(refused.unwrap_or_else(write));
            }
            Known::Overtaken => true,
            Known::Absent => false,
        };
        let name = Name::read(parsed.question)?;
        own.make(front, &job, Key { hash, key, overtaken }, name, reply)
    }
}

impl Own {
    /// Answers what is not kept, or not any more, and keeps it where that is of use.
    fn make(
        &mut self,
        front: &Front,
        job: &Job<'_>,
        Key { hash, key, overtaken }: Key<'_>,
        name: Name,
        reply: &mut Vec<u8>,
    ) -> Option<Outcome> {
        let Job { query, catalog, parsed, cookie, .. } = *job;
        let kind = parsed.kind;
        let Some(place) = question::read(&name, front.settings()) else {
            let asked = parsed.asked(Ok(Box::new(name)));
            let answered = respond::respond(front, query, &asked, catalog, reply);
            return Some(answered.map_or_else(|| dropped(reply), Outcome::Reply));
        };
        let question = &place.question;
        let lookup = respond::look_up(front, query, catalog, kind, &place);
        // What was kept once is asked for, and there are only so many such names.
        let free = overtaken || will_be_kept(question, kind);
        let cost = if free { 0 } else { lookup.cost(question) };
        if !self.allowance.spend(cost, query.now) {
            return None;
        }
        let class = lookup.class(question);
        let refused = over_limit(front, job, class, reply);
        if refused.is_some() {
            self.allowance.give_back(cost);
            return refused;
        }
        let found = lookup.find(question);
        let keep = may_keep(catalog, question, &found);
        if overtaken && keep.is_none() {
            self.cache.remove(hash);
        }
        let entry = if makes_entry(&place, kind) {
            Entry::new(found, &place, kind, lookup.domain)
        } else {
            Err(found)
        };
        Some(Outcome::Reply(match entry {
            Ok(entry) => {
                let answered = self.desk.write(job, &entry, reply);
                if let Some(service) = keep {
                    self.cache.insert((hash, key), &service, (entry, class));
                }
                answered
            }
            Err(found) => {
                let asked = parsed.asked(Err(code::NO_ERROR));
                let found = (lookup, found);
                respond::write_found(front, query, &asked, cookie.as_ref(), found, reply)
            }
        }))
    }
}

/// Where an answer is kept, or was.
struct Key<'a> {
    hash: u64,
    key: &'a [u8],
    overtaken: bool,
}

/// What the rate limit wants in the place of a reply of that class; `None`: it may be sent.
fn over_limit(front: &Front, job: &Job<'_>, class: Class, reply: &mut Vec<u8>) -> Option<Outcome> {
    let cookie = job.cookie.as_ref();
    match respond::verdict(front, job.query, cookie, class) {
        Verdict::Send => None,
        Verdict::Slip => {
            let asked = job.parsed.asked(Err(code::NO_ERROR));
            Some(Outcome::Reply(respond::slip(front, job.query, &asked, cookie, reply)))
        }
        Verdict::Drop => Some(dropped(reply)),
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

/// Whether the look-up is worth its cost whatever it finds: the plain name of a service. With a tag, a port or a zone
/// it only is if there are such.
fn will_be_kept(question: &Question<'_>, kind: u16) -> bool {
    let Question::Service(target, by) = question else { return false };
    let plain = match by {
        Select::Tags(tags) => tags.is_empty(),
        Select::Transport { .. } => true,
        Select::Port(..) | Select::Word(_) => false,
    };
    plain && target.zone.is_none() && matches!(kind, kind::A | kind::AAAA | kind::SRV)
}

/// Whether the answer is one that entries are made of; the others are rare, and written record by record.
fn makes_entry(place: &question::Place<'_>, kind: u16) -> bool {
    let plain = match place.question {
        Question::Service(..) => kind::OF_SERVICES.contains(&kind),
        Question::WithinService(_) | Question::Nothing | Question::Empty => true,
        Question::Apex
        | Question::Instance(..)
        | Question::Node(_)
        | Question::Address(_)
        | Question::ServiceTypes(_)
        | Question::Reverse(_) => false,
    };
    plain && !place.reverse
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
