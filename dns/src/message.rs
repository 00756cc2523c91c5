//! The message as it came: header, question and EDNS, with everything checked that does not need the catalogue.
//!
//! Total: any bytes give a message, a refusal or silence. hickory reads the records behind the question; counts are
//! checked before, so that a header cannot make it reserve memory.

use crate::{DropReason, Query, Transport, cookie, name::Name};
use hickory_proto::{
    op::{Edns, Message as Wire, OpCode},
    rr::{RecordType, rdata::opt::EdnsOption},
    serialize::binary::BinDecoder,
};
use std::net::IpAddr;

/// Length of a header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// Type and class behind the name of a question.
const QUESTION_TAIL: usize = 4;
/// OPT, TSIG and room for one surprise.
const ADDITIONAL_MAX: u16 = 3;
const CLASS_IN: u16 = 1;

/// EDNS options that we know (RFC 5001, RFC 7873, RFC 7828, RFC 8914).
pub(crate) mod option {
    pub(crate) const NSID: u16 = 3;
    pub(crate) const COOKIE: u16 = 10;
    pub(crate) const TCP_KEEPALIVE: u16 = 11;
    pub(crate) const EXTENDED_ERROR: u16 = 15;
}

/// Response codes, those of EDNS included (RFC 6895 section 2.3).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORM_ERR: u16 = 1;
    pub(crate) const SERV_FAIL: u16 = 2;
    pub(crate) const NX_DOMAIN: u16 = 3;
    pub(crate) const NOT_IMP: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const NOT_AUTH: u16 = 9;
    pub(crate) const BAD_VERS: u16 = 16;
    pub(crate) const BAD_COOKIE: u16 = 23;
}

/// Types that are asked for and never stored, beside those of hickory.
mod meta {
    pub(super) const OPT: u16 = 41;
    /// TKEY and TSIG.
    pub(super) const SIGNING: std::ops::RangeInclusive<u16> = 249..=250;
    pub(super) const IXFR: u16 = 251;
    pub(super) const AXFR: u16 = 252;
    /// MAILB and MAILA.
    pub(super) const MAIL: std::ops::RangeInclusive<u16> = 253..=254;
}

/// What the header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// To be repeated.
    pub id: u16,
    /// Opcode and RD as they came, to be repeated.
    pub opcode_and_rd: u8,
    /// CD as it came, to be repeated.
    pub cd: u8,
}

/// What the client said by EDNS.
#[derive(Debug, Clone)]
pub(crate) struct Extensions {
    /// Largest UDP message that the client takes, at least 512.
    pub payload: u16,
    /// DO, to be repeated (RFC 3225).
    pub dnssec_ok: bool,
    /// Its cookie.
    pub cookie: Option<cookie::Given>,
    /// Whether it asks for our name.
    pub nsid: bool,
    /// Whether it asks how long a connection may be idle.
    pub keepalive: bool,
}

/// A query that can be answered, or a refusal that needs no catalogue.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// Of the query.
    pub header: Header,
    /// The question section as it came; empty where there was none that could be read.
    pub question: &'a [u8],
    /// Type that was asked for; 0 where there was no question.
    pub kind: u16,
    /// What the client said by EDNS, if it did.
    pub extensions: Option<Extensions>,
    /// The name that was asked for, or the code that is answered at once.
    pub name: Result<Box<Name>, u16>,
}

/// Reads a query; drops what must not be answered.
pub(crate) fn read<'a>(query: &Query<'a>) -> Result<Asked<'a>, DropReason> {
    let bytes = query.bytes;
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(DropReason::Short);
    };
    if head[2] & 0x80 != 0 {
        return Err(DropReason::IsReply);
    }
    if !can_be_answered(query) {
        return Err(DropReason::BadSource);
    }
    let header = Header {
        id: u16::from_be_bytes([head[0], head[1]]),
        opcode_and_rd: head[2] & 0x79,
        cd: head[3] & 0x10,
    };
    let count = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let mut asked =
        Asked { header, question: &[], kind: 0, extensions: None, name: Err(code::FORM_ERR) };
    let opcode = OpCode::from_u8((head[2] & 0x78) >> 3);
    if opcode != OpCode::Query {
        let notify = opcode == OpCode::Notify;
        asked.name = Err(if notify { code::REFUSED } else { code::NOT_IMP });
        return Ok(asked);
    }
    let counts = [count(6), count(8), count(10)];
    let mut class = CLASS_IN;
    let mut name = None;
    match count(4) {
        0 => {}
        1 => {
            let Some(read) = Name::read(rest) else { return Ok(asked) };
            let end = read.wire().len() + QUESTION_TAIL;
            let Some(question) = rest.get(..end) else { return Ok(asked) };
            let word = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
            asked.question = question;
            asked.kind = word(end - 4);
            class = word(end - 2);
            name = Some(Box::new(read));
        }
        _ => return Ok(asked),
    }
    let Some((signed, edns)) = records(bytes, HEADER + asked.question.len(), counts) else {
        return Ok(asked);
    };
    let version = edns.as_ref().map_or(0, Edns::version);
    let broken = match edns.map(|edns| extensions(&edns)) {
        Some((extensions, broken)) => {
            asked.extensions = Some(extensions);
            broken
        }
        None => false,
    };
    asked.name = if version > 0 {
        Err(code::BAD_VERS)
    } else if broken {
        Err(code::FORM_ERR)
    } else if signed {
        // We share no key with anybody.
        Err(code::NOT_AUTH)
    } else {
        judge(name, &asked, class, query.transport)
    };
    Ok(asked)
}

/// A reply to these would reach nobody, or everybody.
pub(crate) fn can_be_answered(query: &Query<'_>) -> bool {
    let ip = query.peer.ip().to_canonical();
    let broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    query.peer.port() != 0 && !ip.is_multicast() && !ip.is_unspecified() && !broadcast
}

/// What can be told from the question alone.
fn judge(
    name: Option<Box<Name>>,
    asked: &Asked<'_>,
    class: u16,
    transport: Transport,
) -> Result<Box<Name>, u16> {
    let Some(name) = name else {
        // A client that only wants a cookie (RFC 7873 section 5.4).
        let cookie = asked.extensions.as_ref().is_some_and(|ext| ext.cookie.is_some());
        return Err(if cookie { code::NO_ERROR } else { code::FORM_ERR });
    };
    if class != CLASS_IN {
        return Err(code::REFUSED);
    }
    match asked.kind {
        meta::OPT => Err(code::FORM_ERR),
        // A zone does not fit into a datagram (RFC 5936 section 4.2).
        meta::AXFR if transport == Transport::Udp => Err(code::FORM_ERR),
        meta::AXFR | meta::IXFR => Err(code::REFUSED),
        kind if meta::SIGNING.contains(&kind) || meta::MAIL.contains(&kind) => Err(code::NOT_IMP),
        _ => Ok(name),
    }
}

/// Whether the records behind the question hold a signature, and what they say by EDNS. `None`: they are more than a
/// query has, broken, or followed by something.
fn records(bytes: &[u8], at: usize, counts: [u16; 3]) -> Option<(bool, Option<Edns>)> {
    let [answers, authorities, additionals] = counts;
    // An IXFR brings the SOA it has.
    if answers > 0 || authorities > 1 || additionals > ADDITIONAL_MAX {
        return None;
    }
    let mut decoder = BinDecoder::new(bytes);
    decoder.read_slice(at).ok()?;
    Wire::read_records(&mut decoder, authorities.into(), false, OpCode::Query).ok()?;
    let (records, edns, _) =
        Wire::read_records(&mut decoder, additionals.into(), true, OpCode::Query).ok()?;
    let signed = records.iter().any(|record| record.record_type() == RecordType::TSIG);
    decoder.is_empty().then_some((signed, edns))
}

/// What the options say, and whether one of them is broken.
fn extensions(edns: &Edns) -> (Extensions, bool) {
    let mut extensions = Extensions {
        payload: edns.max_payload().max(512),
        dnssec_ok: edns.flags().dnssec_ok,
        cookie: None,
        nsid: false,
        keepalive: false,
    };
    let mut broken = false;
    for (code, value) in &edns.options().options {
        match (u16::from(*code), value) {
            (option::NSID, _) => extensions.nsid = true,
            (option::TCP_KEEPALIVE, _) => extensions.keepalive = true,
            // The first one counts (RFC 7873 section 5.2).
            (option::COOKIE, EdnsOption::Unknown(_, bytes)) if extensions.cookie.is_none() => {
                extensions.cookie = cookie::Given::read(bytes);
                broken |= extensions.cookie.is_none();
            }
            _ => {}
        }
    }
    (extensions, broken)
}
