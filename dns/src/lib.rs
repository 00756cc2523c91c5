//! Answers DNS from the catalogue: bytes in, bytes out. No sockets, no clock, no dice: all of them are arguments.
//!
//! Start with [`Front::answer`]. It holds settings and the table of the rate limit, nothing of the catalogue.
//!
//! * [`catalog`]: what is asked of the rest of the node; [`settings`]: what operators settle
//! * `message`: a query is read; `name`, `question`: the grammar of names
//! * `lookup`, `instances`, `binding`, `reverse`: what there is under a name
//! * `choose`: which of it is shown, in which order
//! * `respond`, `wire`: the reply, written record by record within its limit
//! * `cookie`, `class`, `rate`: who has been reached at its address before, and what all others may be sent
//! * [`Fast`]: the same answers to what is mostly asked, from records that are kept ready
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::cast_possible_truncation)]

mod binding;
pub mod catalog;
mod choose;
mod class;
mod cookie;
mod fast;
mod instances;
mod lookup;
mod message;
mod name;
mod question;
mod rate;
mod respond;
mod reverse;
pub mod settings;
mod wire;

pub use catalog::{Catalog, CookieSecret, Node, Standing};
pub use fast::Fast;
pub use settings::{Domain, RateLimit, Settings, Truncation};

use rate::Limiter;
use rollcall_core::name::Invalid;
use settings::Localities;
use std::{net::SocketAddr, time::Duration};

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram: small replies, forged senders.
    Udp,
    /// A stream: replies up to 64 KiB.
    Tcp,
}

/// One query and what came with it.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The message, without the length that TCP puts before it.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub peer: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// A monotonic clock, for the rate limit.
    pub now: Duration,
    /// Seconds since 1970, for cookies, which all nodes share.
    pub unix: u64,
    /// Random bits, new for each query: the order of the records comes from them.
    pub random: u64,
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is to be sent.
    Reply(Answered),
    /// Nothing is to be sent.
    Drop(DropReason),
}

/// A reply in numbers, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Type that was asked for; 0 where no question could be read.
    pub kind: u16,
    /// Response code, the upper bits of EDNS included.
    pub code: u16,
    /// Whether TC is set.
    pub truncated: bool,
    /// Whether the rate limit replaced the reply by a short one.
    pub slipped: bool,
    /// Whether the fast path put it together from records in wire form.
    pub ready: bool,
}

/// Why a query gets no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Shorter than a header.
    Short,
    /// It is itself a reply: answering it could go on for ever.
    IsReply,
    /// It came from port 0, from a broadcast or from a multicast address: nobody is there to read a reply.
    BadSource,
    /// The rate limit.
    Limited,
}

/// The DNS front of a node. One for all threads.
#[derive(Debug)]
pub struct Front {
    settings: Settings,
    localities: Localities,
    limiter: Option<Limiter>,
}

impl Front {
    /// A front with these settings. Errors name the setting.
    pub fn new(settings: Settings) -> Result<Self, Invalid> {
        let settings = settings.checked()?;
        let limiter = settings.rate.as_ref().map(Limiter::new);
        Ok(Self { localities: Localities::new(&settings), limiter, settings })
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers one query. `reply` is emptied and holds the message that is to be sent: at most 65,535 bytes, over UDP
    /// at most what the client and [`Settings::udp_payload`] allow. Never panics, whatever the bytes are.
    pub fn answer(&self, query: &Query<'_>, catalog: &Catalog<'_>, reply: &mut Vec<u8>) -> Outcome {
        reply.clear();
        let asked = match message::read(query) {
            Ok(asked) => asked,
            Err(reason) => return Outcome::Drop(reason),
        };
        match respond::respond(self, query, &asked, catalog, reply) {
            Some(answered) => Outcome::Reply(answered),
            None => Outcome::Drop(DropReason::Limited),
        }
    }
}
