//! The stored forms of Raft's values: prost messages with fixed field numbers, and the checksum that
//! seals each of them. Field numbers are for ever: a number that was used is never given to another
//! meaning.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::vote::RaftLeaderIdExt;
use prost::Message;

use super::types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Member, Membership, Proposal,
    StoredMembership, Vote,
};

/// Bytes that [`seal`] puts before the content.
const SEAL_BYTES: usize = 4;

/// Content with its crc32c before it. `place` (a key, a sequence number) goes into the checksum, so
/// that a record found where it does not belong is not taken for the one that does.
pub(crate) fn seal(place: u64, content: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + content.len());
    sealed.extend_from_slice(&checksum(place, content).to_le_bytes());
    sealed.extend_from_slice(content);
    sealed
}

/// The content of a sealed record, or why it cannot be trusted.
pub(crate) fn unseal(place: u64, sealed: &[u8]) -> Result<&[u8], String> {
    let Some((stored, content)) = sealed.split_first_chunk::<SEAL_BYTES>() else {
        return Err(format!("record of {} bytes is shorter than its checksum", sealed.len()));
    };
    let (stored, computed) = (u32::from_le_bytes(*stored), checksum(place, content));
    if stored != computed {
        return Err(format!("checksum is {computed:08x}, should be {stored:08x}"));
    }
    Ok(content)
}

/// crc32c of `place` followed by `content`.
pub(crate) fn checksum(place: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&place.to_le_bytes()), content)
}

/// A log id: (term, node id of the leader, index).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, tag = "2")]
    node_id: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

impl From<LogId> for LogIdRecord {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        let leader_id = CommittedLeaderId::new_committed(record.term, record.node_id);
        Self { leader_id, index: record.index }
    }
}

/// A vote.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct VoteRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(fixed64, tag = "2")]
    node_id: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        let LeaderId { term, node_id } = vote.leader_id;
        Self { term, node_id, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        let leader_id = LeaderId { term: record.term, node_id: record.node_id };
        Self { leader_id, committed: record.committed }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
struct MemberRecord {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    api: String,
    #[prost(string, tag = "4")]
    http: String,
    #[prost(string, tag = "5")]
    dns: String,
    #[prost(string, tag = "6")]
    peer: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct VotersRecord {
    #[prost(fixed64, repeated, tag = "1")]
    ids: Vec<u64>,
}

/// A membership and, outside the log, the entry that brought it.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MembershipRecord {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<VotersRecord>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberRecord>,
    #[prost(message, optional, tag = "3")]
    log_id: Option<LogIdRecord>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        let voters = |ids: &BTreeSet<u64>| VotersRecord { ids: ids.iter().copied().collect() };
        let member = |(id, member): (&u64, &Member)| MemberRecord {
            id: *id,
            name: member.name.clone(),
            api: member.api.to_string(),
            http: member.http.to_string(),
            dns: member.dns.to_string(),
            peer: member.peer.to_string(),
        };
        Self {
            configs: membership.get_joint_config().iter().map(voters).collect(),
            members: membership.nodes().map(member).collect(),
            log_id: None,
        }
    }
}

impl From<&StoredMembership> for MembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        let log_id = stored.log_id().map(LogIdRecord::from);
        Self { log_id, ..Self::from(stored.membership()) }
    }
}

impl MembershipRecord {
    /// The membership, or why the record is none.
    pub(crate) fn membership(&self) -> Result<Membership, String> {
        if self.configs.is_empty() && self.members.is_empty() {
            return Ok(Membership::default());
        }
        let configs = self.configs.iter().map(|c| c.ids.iter().copied().collect()).collect();
        let mut members = BTreeMap::new();
        for record in &self.members {
            members.insert(record.id, record.member()?);
        }
        Membership::new(configs, members).map_err(|e| format!("membership: {e}"))
    }

    /// The membership with the entry that brought it, or why the record is none.
    pub(crate) fn stored(&self) -> Result<StoredMembership, String> {
        Ok(StoredMembership::new(self.log_id.map(LogId::from), self.membership()?))
    }
}

impl MemberRecord {
    fn member(&self) -> Result<Member, String> {
        let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is no ip:port"));
        Ok(Member {
            name: self.name.clone(),
            api: address(&self.api)?,
            http: address(&self.http)?,
            dns: address(&self.dns)?,
            peer: address(&self.peer)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct EntryRecord {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdRecord>,
    #[prost(oneof = "PayloadRecord", tags = "2, 3, 4")]
    payload: Option<PayloadRecord>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PayloadRecord {
    #[prost(bool, tag = "2")]
    Blank(bool),
    #[prost(bytes = "bytes", tag = "3")]
    Proposal(Bytes),
    #[prost(message, tag = "4")]
    Membership(MembershipRecord),
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadRecord::Blank(true),
            EntryPayload::Normal(proposal) => PayloadRecord::Proposal(proposal.0.clone()),
            EntryPayload::Membership(m) => PayloadRecord::Membership(m.into()),
        };
        Self { log_id: Some(entry.log_id.into()), payload: Some(payload) }
    }
}

impl EntryRecord {
    fn entry(self) -> Result<Entry, String> {
        let log_id = self.log_id.ok_or("entry without a log id")?;
        // A payload of a kind that this release does not know is never skipped.
        let payload = match self.payload.ok_or("entry without a known payload")? {
            PayloadRecord::Blank(_) => EntryPayload::Blank,
            PayloadRecord::Proposal(bytes) => EntryPayload::Normal(Proposal(bytes)),
            PayloadRecord::Membership(m) => EntryPayload::Membership(m.membership()?),
        };
        Ok(Entry { log_id: log_id.into(), payload })
    }
}

/// Consecutive entries, packed.
#[derive(Clone, PartialEq, Message)]
struct EntriesRecord {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryRecord>,
}

/// Encodes consecutive entries as one record.
pub(crate) fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    EntriesRecord { entries: entries.iter().map(EntryRecord::from).collect() }.encode_to_vec()
}

/// The entries of a record whose first index is `first`: at least one, without a gap.
pub(crate) fn decode_entries(first: u64, bytes: Bytes) -> Result<Vec<Entry>, String> {
    let record = EntriesRecord::decode(bytes).map_err(|e| format!("entries: {e}"))?;
    let mut entries = Vec::with_capacity(record.entries.len());
    for (index, record) in (first..).zip(record.entries) {
        let entry = record.entry()?;
        if entry.log_id.index != index {
            return Err(format!("found entry {} in the place of {index}", entry.log_id.index));
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err("record without entries".to_owned());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16) -> Member {
        let at = |p| std::net::SocketAddr::from(([127, 0, 0, 1], p));
        Member {
            name: format!("n{port}"),
            api: at(port),
            http: at(port + 1),
            dns: at(port + 2),
            peer: at(port + 3),
        }
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new_committed(term, u64::MAX - 1), index }
    }

    #[test]
    fn entries_of_every_kind_survive_the_round_trip() {
        let joint = vec![BTreeSet::from([1, u64::MAX]), BTreeSet::from([1, 2])];
        let members = BTreeMap::from([(1, member(10)), (2, member(20)), (u64::MAX, member(30))]);
        let membership = Membership::new(joint, members).unwrap();
        let entries = vec![
            Entry { log_id: log_id(1, 7), payload: EntryPayload::Blank },
            Entry {
                log_id: log_id(1, 8),
                payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"\0\xffx"))),
            },
            Entry { log_id: log_id(2, 9), payload: EntryPayload::Normal(Proposal(Bytes::new())) },
            Entry { log_id: log_id(2, 10), payload: EntryPayload::Membership(membership) },
        ];
        let bytes = Bytes::from(encode_entries(&entries));
        assert_eq!(decode_entries(7, bytes.clone()).unwrap(), entries);
        assert!(decode_entries(8, bytes).is_err(), "entries in the wrong place were taken");
    }

    #[test]
    fn votes_and_memberships_survive_the_round_trip() {
        let vote = Vote::new_committed(3, 4);
        assert_eq!(Vote::from(VoteRecord::from(&vote)), vote);
        let stored = StoredMembership::new(Some(log_id(4, 5)), Membership::default());
        assert_eq!(MembershipRecord::from(&stored).stored().unwrap(), stored);
    }

    #[test]
    fn a_sealed_record_tells_damage_and_a_wrong_place() {
        let sealed = seal(9, b"content");
        assert_eq!(unseal(9, &sealed).unwrap(), b"content");
        assert!(unseal(8, &sealed).is_err());
        assert!(unseal(9, &sealed[..3]).is_err());
        for byte in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[byte] ^= 1 << bit;
                assert!(unseal(9, &flipped).is_err(), "bit {bit} of byte {byte}");
            }
        }
    }
}
