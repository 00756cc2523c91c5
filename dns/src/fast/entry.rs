//! What is kept of one question between queries: the records in wire form, and what is needed to choose among them.
//!
//! Nothing is decided here: an entry is made of what [`crate::lookup`] found, and chosen from by [`crate::choose`].

use crate::{
    choose::Weighted,
    instances::{Address, Place},
    lookup::{FIXED, Found, Terms, octets},
    message::code,
    question,
    respond::place_data,
    settings::Domain,
    wire::kind,
};
use std::{collections::BTreeMap, net::IpAddr};

/// Pointer to the question's name, which stands behind the header.
const OWNER: [u8; 2] = [0xC0, 0x0C];
const CLASS_IN: u16 = 1;
/// Owner, type, class, TTL and length before the data of a record.
const RECORD_HEAD: usize = 12;
/// Priority, weight and port before the target of an SRV record.
const SRV_HEAD: usize = 6;
/// From the beginning of an SRV record to its target.
pub(super) const TARGET: usize = RECORD_HEAD + SRV_HEAD;

/// What one question comes to.
#[derive(Debug)]
pub(super) enum Entry {
    /// There is no such name, or nothing of that type.
    Nothing {
        /// Which of them.
        code: u16,
        /// The zone that says so.
        domain: usize,
        /// Where its name begins in the name that was asked.
        apex: usize,
    },
    /// Addresses, of which a subset is as good.
    Addresses(Rows),
    /// Places, each with the address of its target.
    Places(Rows),
}

/// Records of one type.
#[derive(Debug)]
pub(super) struct Rows {
    /// Where each record stands, and what it weighs; by tier, then by identity.
    pub picks: Box<[Pick]>,
    /// The records of the answer in that order, then the address records of the targets in that order; the first two
    /// bytes of each of these are to become its owner.
    bytes: Box<[u8]>,
    /// Where the latter begin.
    glue: usize,
    /// Whether all fail open.
    pub fail_open: bool,
    /// Whether all have one tier, one weight and one size, and no two targets are one: then their order is a matter of
    /// where to begin.
    pub level: bool,
    /// Number of different targets.
    pub targets: usize,
}

/// One record to choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick {
    identity: u64,
    weight: u32,
    /// Where its record and that of its target begin.
    at: u32,
    glue: u32,
    /// Which of the targets it has.
    pub target: u32,
    tier: u16,
    size: u16,
    glue_size: u16,
}

impl Weighted for Pick {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn tier(&self) -> u16 {
        self.tier
    }
}

impl Pick {
    /// Size of its record.
    pub(super) fn size(&self) -> usize {
        self.size.into()
    }

    /// Size of its target's record.
    pub(super) fn glue_size(&self) -> usize {
        self.glue_size.into()
    }
}

impl Entry {
    /// An entry of what was found; rows of rare types are given back.
    pub(super) fn new(
        found: Found,
        place: &question::Place<'_>,
        kind: u16,
        domain: &Domain,
    ) -> Result<Self, Found> {
        let nothing = |code| Self::Nothing { code, domain: place.domain, apex: place.apex };
        match found {
            Found::Unknown => Ok(nothing(code::NX_DOMAIN)),
            Found::Empty | Found::NoneOfType => Ok(nothing(code::NO_ERROR)),
            Found::Addresses(addresses, terms) => {
                Ok(Self::Addresses(Rows::addresses(addresses, kind, terms)))
            }
            Found::Places(places, terms) => {
                Ok(Self::Places(Rows::places(places, domain.wire(), terms)))
            }
            found @ Found::Rows(..) => Err(found),
        }
    }

    /// Bytes that it takes behind its pointers.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Nothing { .. } => 0,
            Self::Addresses(rows) | Self::Places(rows) => {
                rows.bytes.len() + size_of_val(&*rows.picks)
            }
        }
    }
}

impl Rows {
    fn addresses(mut addresses: Vec<Address>, kind: u16, terms: Terms) -> Self {
        addresses.sort_by_key(Weighted::identity);
        let rows = Self::empty(addresses.len(), terms);
        let (mut records, mut picks) = (Vec::new(), Vec::new());
        for address in &addresses {
            let at = records.len();
            record(&mut records, OWNER, (kind, terms.ttl), &octets(address.ip));
            picks.push(pick(address, at..records.len(), 0..0, 0));
        }
        rows.finish(picks, records, &[])
    }

    fn places(mut places: Vec<Place>, domain: &[u8], terms: Terms) -> Self {
        places.sort_by_key(|place| (place.tier(), place.identity()));
        let mut rows = Self::empty(places.len(), terms);
        let (mut records, mut glue, mut picks) = (Vec::new(), Vec::new(), Vec::new());
        let mut targets = BTreeMap::<IpAddr, usize>::new();
        for place in &places {
            let (at, glue_at, next) = (records.len(), glue.len(), targets.len());
            let ip = place.address.ip();
            record(&mut records, OWNER, (kind::SRV, terms.ttl), &place_data(place, domain));
            let kind = if ip.is_ipv4() { kind::A } else { kind::AAAA };
            record(&mut glue, [0, 0], (kind, FIXED.ttl), &octets(ip));
            let target = *targets.entry(ip).or_insert(next);
            picks.push(pick(place, at..records.len(), glue_at..glue.len(), target));
        }
        rows.targets = targets.len();
        rows.finish(picks, records, &glue)
    }

    fn empty(targets: usize, terms: Terms) -> Self {
        Self {
            picks: Box::default(),
            bytes: Box::default(),
            glue: 0,
            fail_open: terms.fail_open,
            level: false,
            targets,
        }
    }

    fn finish(mut self, picks: Vec<Pick>, mut records: Vec<u8>, glue: &[u8]) -> Self {
        self.glue = records.len();
        records.extend(glue);
        self.bytes = records.into();
        self.level = self.targets == picks.len()
            && picks.windows(2).all(|pair| {
                let [a, b] = pair else { return true };
                a.tier == b.tier
                    && a.weight == b.weight
                    && a.size == b.size
                    && a.glue_size == b.glue_size
            });
        self.picks = picks.into();
        self
    }

    /// All records of the answer.
    pub(super) fn records(&self) -> &[u8] {
        &self.bytes[..self.glue]
    }

    /// All address records of the targets.
    pub(super) fn glues(&self) -> &[u8] {
        &self.bytes[self.glue..]
    }

    /// The record of a pick.
    pub(super) fn record(&self, pick: &Pick) -> &[u8] {
        let at = pick.at as usize;
        &self.records()[at..at + pick.size()]
    }

    /// The record of its target.
    pub(super) fn glue(&self, pick: &Pick) -> &[u8] {
        let at = pick.glue as usize;
        &self.glues()[at..at + pick.glue_size()]
    }
}

fn record(out: &mut Vec<u8>, owner: [u8; 2], (kind, ttl): (u16, u32), data: &[u8]) {
    out.extend(owner);
    out.extend(kind.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(data);
}

fn pick<T: Weighted>(
    item: &T,
    record: std::ops::Range<usize>,
    glue: std::ops::Range<usize>,
    target: usize,
) -> Pick {
    // A service has at most 20,000 instances, a record at most some 400 bytes.
    let small = |size: usize| u16::try_from(size).expect("a record is short");
    let offset = |at: usize| u32::try_from(at).expect("the records of a service fit into 4 GiB");
    Pick {
        identity: item.identity(),
        weight: item.weight(),
        at: offset(record.start),
        glue: offset(glue.start),
        target: offset(target),
        tier: item.tier(),
        size: small(record.len()),
        glue_size: small(glue.len()),
    }
}
