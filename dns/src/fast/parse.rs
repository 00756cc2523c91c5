//! Reads the queries that clients really send: one question of class IN, at most one OPT record. Total, and without
//! allocation.
//!
//! Whatever is not plainly such a query is left to [`crate::message`], which knows how to refuse it. So this file never
//! decides that something is wrong, and where it accepts a query, `message` would have read the same.

use crate::{
    Query, cookie,
    message::{self, Asked, Extensions, HEADER, Header, option},
    name::Name,
    wire::kind,
};

/// Longest name in wire form (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;
const CLASS_IN: [u8; 2] = [0, 1];
/// Types from here on are asked for and never stored, or rare (RFC 6895 section 3.1).
const META_KINDS: u16 = 128;
/// Header flags that a plain query may carry: RD; AD and CD.
const FLAGS: [u8; 2] = [0x01, 0x30];
/// Client subnet (RFC 7871): hickory checks the inside of it.
const SUBNET: u16 = 8;

/// A plain query.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    /// Of the query.
    pub header: Header,
    /// The question section as it came.
    pub question: &'a [u8],
    /// Type that was asked for.
    pub kind: u16,
    /// What the client said by EDNS, if it did.
    pub extensions: Option<Extensions>,
}

impl<'a> Parsed<'a> {
    /// The name that was asked for, in wire form as it came.
    pub(super) fn name(&self) -> &'a [u8] {
        &self.question[..self.question.len() - 4]
    }

    /// The same in the form of the full path.
    pub(super) fn asked(&self, name: Result<Box<Name>, u16>) -> Asked<'a> {
        let (header, question, kind) = (self.header, self.question, self.kind);
        Asked { header, question, kind, extensions: self.extensions.clone(), name }
    }
}

/// Reads a query. `None`: the full path is to look at it.
pub(super) fn parse<'a>(query: &Query<'a>) -> Option<Parsed<'a>> {
    let (head, rest) = query.bytes.split_first_chunk::<HEADER>()?;
    let [id @ .., flags, more, _, _, _, _, _, _, _, _] = head;
    let [0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = head[4..] else { return None };
    let plain = flags & !FLAGS[0] == 0 && more & !FLAGS[1] == 0;
    if !plain || !message::can_be_answered(query) {
        return None;
    }
    let (question, rest) = rest.split_at_checked(name_len(rest)? + 4)?;
    let [.., k0, k1, c0, c1] = *question else { return None };
    let kind = u16::from_be_bytes([k0, k1]);
    if [c0, c1] != CLASS_IN || kind >= META_KINDS || kind == kind::OPT {
        return None;
    }
    let extensions = match (additional, rest) {
        (0, []) => None,
        (1, opt) => Some(extensions(opt)?),
        _ => return None,
    };
    let header =
        Header { id: u16::from_be_bytes(*id), opcode_and_rd: flags & 0x79, cd: more & 0x10 };
    Some(Parsed { header, question, kind, extensions })
}

/// Length of the name at the beginning of `bytes`, the root label included.
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = *bytes.get(at)?;
        at += 1 + usize::from(length);
        if length > LABEL_MAX || at > NAME_MAX {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// Reads one OPT record that ends the message.
fn extensions(bytes: &[u8]) -> Option<Extensions> {
    // The root, type 41, the payload, no extended code, version 0, DO or nothing, the length.
    let ([0, 0, 41, p0, p1, 0, 0, flags @ (0 | 0x80), 0, l0, l1], mut options) =
        bytes.split_first_chunk::<11>()?
    else {
        return None;
    };
    if options.len() != usize::from(u16::from_be_bytes([*l0, *l1])) {
        return None;
    }
    let mut extensions = Extensions {
        payload: u16::from_be_bytes([*p0, *p1]).max(512),
        dnssec_ok: *flags != 0,
        cookie: None,
        nsid: false,
        keepalive: false,
    };
    while let [c0, c1, l0, l1, rest @ ..] = options {
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*l0, *l1]).into())?;
        match u16::from_be_bytes([*c0, *c1]) {
            option::NSID | option::TCP_KEEPALIVE | SUBNET => return None,
            // The first one counts.
            option::COOKIE if extensions.cookie.is_none() => {
                extensions.cookie = Some(cookie::Given::read(value)?);
            }
            _ => {}
        }
        options = rest;
    }
    options.is_empty().then_some(extensions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transport;
    use proptest::prelude::*;
    use std::time::Duration;

    /// A query for `a.b` with one OPT record and a cookie.
    const PLAIN: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x01B\0\0\x01\0\x01\
        \0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x0812345678";

    fn query(bytes: &[u8]) -> Query<'_> {
        Query {
            bytes,
            peer: "10.0.0.1:4242".parse().expect("an address"),
            transport: Transport::Udp,
            now: Duration::ZERO,
            unix: 0,
            random: 0,
        }
    }

    /// What both readers make of a query, in text; `None` where the fast one leaves it to the other.
    fn both(bytes: &[u8]) -> Option<(String, String)> {
        let query = query(bytes);
        let fast = parse(&query)?;
        let name = Name::read(fast.question).expect("a name");
        let full = message::read(&query).expect("a query");
        Some((format!("{:?}", fast.asked(Ok(Box::new(name)))), format!("{full:?}")))
    }

    #[test]
    fn a_plain_query_is_read_as_the_full_path_reads_it() {
        let (fast, full) = both(PLAIN).expect("a plain query");
        assert_eq!(fast, full);
        assert!(fast.contains("payload: 1232") && fast.contains("dnssec_ok: true"), "{fast}");
    }

    #[test]
    fn a_query_that_is_cut_short_or_followed_by_something_is_left_to_the_full_path() {
        for end in 0..PLAIN.len() {
            assert!(parse(&query(&PLAIN[..end])).is_none(), "{end} bytes");
        }
        assert!(parse(&query(&[PLAIN, b"\0"].concat())).is_none());
    }

    proptest! {
        #[test]
        fn what_is_read_at_all_is_read_as_the_full_path_reads_it(
            changes in prop::collection::vec((0..PLAIN.len(), any::<u8>()), 0..4),
        ) {
            let mut bytes = PLAIN.to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Some((fast, full)) = both(&bytes) {
                prop_assert_eq!(fast, full);
            }
        }

        #[test]
        fn any_bytes_are_read_or_left(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some((fast, full)) = both(&bytes) {
                prop_assert_eq!(fast, full);
            }
        }
    }
}
