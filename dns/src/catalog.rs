//! What DNS asks of the rest of the node: the state, the nodes, how far the state can be trusted, the cookie secret.
//!
//! A [`Catalog`] is borrowed for one answer, so that an answer belongs to exactly one revision. The caller holds what it
//! borrows; nothing here is kept.

use rollcall_core::{State, name::Label};
use std::net::IpAddr;

/// The registry as of one revision.
#[derive(Debug, Clone, Copy)]
pub struct Catalog<'a> {
    /// The services and their instances.
    pub state: &'a State,
    /// The registry's own nodes in order of name; the first ones are the name servers of the zone.
    pub nodes: &'a [Node],
    /// How far the state can be trusted.
    pub standing: Standing,
    /// Makes and checks server cookies; `None` until the cluster has one, and then cookies are not answered.
    pub cookies: Option<&'a CookieSecret>,
}

/// One registry server, as `<name>.node.<domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: the node id in hex, or what the operator calls it.
    pub name: Label,
    /// Where it answers.
    pub addresses: Vec<IpAddr>,
}

/// How far the state of this node can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This node never had a state, on disk or installed: SERVFAIL with EDE 14 (Not Ready).
    Unready,
    /// It hears a leader.
    Current,
    /// It has heard no leader for longer than an election takes: it answers what it last knew, with a short TTL and
    /// EDE 3 (Stale Answer).
    Stale,
}

/// The secret behind server cookies (RFC 9018 section 5), shared by all nodes so that each accepts the others'.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret(pub [u8; 16]);

impl std::fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieSecret")
    }
}
