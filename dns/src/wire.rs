//! A reply as it grows: records go in whole or not at all, and never past the limit.
//!
//! The size is ours to keep: hickory leaves half-written records behind where one does not fit, and stops compressing
//! names after some tens. What hickory knows better, the inside of the rarer records, it encodes.

use crate::message::{HEADER, Header};
use hickory_proto::{
    rr::RData,
    serialize::binary::{BinEncodable, BinEncoder, NameEncoding},
};

/// Furthest place that a compression pointer reaches (RFC 1035 section 4.1.4).
pub(crate) const POINTER_MAX: usize = 0x3FFF;
const CLASS_IN: u16 = 1;

/// Flag bits of the first two flag bytes.
const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;

/// Numbers of the types that we write ourselves.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const ANY: u16 = 255;

    /// Types of records that a service has, and that are asked for often. Whoever asks for others makes up as many as
    /// there are.
    pub(crate) const OF_SERVICES: [u16; 6] = [A, AAAA, SRV, TXT, SVCB, HTTPS];
}

/// Whose record it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// The name that was asked, or what it ends with: bytes after the beginning of the question.
    Question(usize),
    /// A name that stands in the reply already, and where.
    Written(usize, &'a [u8]),
}

/// The part of a reply that a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// What was asked.
    Answer,
    /// Why there is nothing.
    Authority,
    /// What will be asked next.
    Additional,
}

/// A reply that is being written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    counts: [u16; 3],
}

/// How a reply begins and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Of the query.
    pub query: Header,
    /// Response code; its upper bits go into EDNS.
    pub code: u16,
    /// AA.
    pub authoritative: bool,
    /// TC.
    pub truncated: bool,
}

impl<'a> Writer<'a> {
    /// Begins a reply of at most `limit` bytes with the question as it was asked.
    pub(crate) fn begin(out: &'a mut Vec<u8>, question: &[u8], limit: usize) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        out.extend(question);
        Self { out, limit, counts: [0; 3] }
    }

    /// How many bytes have been written.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// How many bytes may still be written.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    /// Writes a record and says where its data begins. `None`: it does not fit, and nothing was written.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        (kind, ttl): (u16, u32),
        data: &[u8],
    ) -> Option<usize> {
        let before = self.out.len();
        let length = u16::try_from(data.len()).ok()?;
        match owner {
            Owner::Question(at) => self.name_at(HEADER + at),
            Owner::Written(at, _) if at <= POINTER_MAX => self.name_at(at),
            Owner::Written(_, name) => self.out.extend(name),
        }
        self.out.extend(kind.to_be_bytes());
        self.out.extend(CLASS_IN.to_be_bytes());
        self.out.extend(ttl.to_be_bytes());
        self.out.extend(length.to_be_bytes());
        let at = self.out.len();
        self.out.extend(data);
        if self.out.len() > self.limit {
            self.out.truncate(before);
            return None;
        }
        self.counts[section as usize] += 1;
        Some(at)
    }

    /// Writes records that are ready, for which there must be room, and says where they begin.
    pub(crate) fn ready(&mut self, section: Section, records: &[u8], count: usize) -> usize {
        debug_assert!(records.len() <= self.room(), "{} bytes too many", records.len());
        let at = self.out.len();
        self.out.extend_from_slice(records);
        self.counts[section as usize] += u16::try_from(count).unwrap_or(u16::MAX);
        at
    }

    /// Sets the owner of a record that stands at `at` and begins with a pointer.
    pub(crate) fn point(&mut self, at: usize, to: usize) {
        self.out[at..at + 2].copy_from_slice(&pointer(to));
    }

    fn name_at(&mut self, at: usize) {
        self.out.extend(pointer(at));
    }

    /// Ends the reply with `opt`, for which the limit must have left room.
    pub(crate) fn finish(self, head: &Head, questions: u16, opt: Option<&[u8]>) {
        let [answers, authorities, mut additionals] = self.counts;
        if let Some(opt) = opt {
            self.out.extend(opt);
            additionals += 1;
        }
        let aa = if head.authoritative { AA } else { 0 };
        let tc = if head.truncated { TC } else { 0 };
        self.out[..2].copy_from_slice(&head.query.id.to_be_bytes());
        self.out[2] = QR | aa | tc | head.query.opcode_and_rd;
        self.out[3] = head.query.cd | (head.code.to_be_bytes()[1] & 0x0F);
        for (i, count) in [questions, answers, authorities, additionals].into_iter().enumerate() {
            self.out[4 + 2 * i..6 + 2 * i].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// A compression pointer; `at` is at most 0x3FFF.
pub(crate) fn pointer(at: usize) -> [u8; 2] {
    debug_assert!(at <= POINTER_MAX, "a pointer to {at}");
    let [_, .., high, low] = at.to_be_bytes();
    [0xC0 | high, low]
}

/// The data of a record, as hickory writes it, without compression. `None`: it is longer than a record can be.
pub(crate) fn data(data: &RData) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// One OPT record (RFC 6891 section 6.1.2).
pub(crate) fn opt(payload: u16, code: u16, dnssec_ok: bool, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut opt = vec![0];
    opt.extend(kind::OPT.to_be_bytes());
    opt.extend(payload.to_be_bytes());
    // Upper bits of the code, version 0, DO.
    opt.extend([(code >> 4).to_be_bytes()[1], 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
    let length: usize = options.iter().map(|(_, value)| 4 + value.len()).sum();
    opt.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    for (code, value) in options {
        opt.extend(code.to_be_bytes());
        opt.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        opt.extend(value);
    }
    opt
}

/// One label.
pub(crate) fn label(text: &str) -> Vec<u8> {
    let mut label = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
    label.extend(text.bytes());
    label
}
