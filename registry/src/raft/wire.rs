//! Raft's values in the messages of the peer protocol, both ways. What came over the network is checked here:
//! a message that lacks what it needs is refused, never guessed.

use std::collections::BTreeMap;

use openraft::vote::RaftLeaderIdExt;
use rollcall_proto::internal::v1 as pb;
use tonic::Status;

use super::types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Member, Membership, Proposal,
    SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type AppendError = openraft::raft::StreamAppendError<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;

/// A message that cannot be understood: a bug, or another version.
pub(crate) fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("malformed peer message: {what}"))
}

pub(crate) fn log_id_out(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_in(id: &pb::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new_committed(id.term, id.node_id), id.index)
}

pub(crate) fn vote_out(vote: &Vote) -> pb::Ballot {
    let LeaderId { term, node_id } = vote.leader_id;
    pb::Ballot { term, node_id, committed: vote.committed }
}

pub(crate) fn vote_in(ballot: Option<pb::Ballot>) -> Result<Vote, Status> {
    let pb::Ballot { term, node_id, committed } = ballot.ok_or_else(|| malformed("no vote"))?;
    Ok(Vote { leader_id: LeaderId { term, node_id }, committed })
}

pub(crate) fn member_out(member: &Member) -> pb::Member {
    pb::Member {
        name: member.name.clone(),
        api_address: member.api.to_string(),
        http_address: member.http.to_string(),
        dns_address: member.dns.to_string(),
        peer_address: member.peer.to_string(),
    }
}

pub(crate) fn member_in(member: Option<&pb::Member>) -> Result<Member, Status> {
    let member = member.ok_or_else(|| malformed("no member"))?;
    let address = |text: &str| text.parse().map_err(|_| malformed(&format!("address {text:?}")));
    Ok(Member {
        name: member.name.clone(),
        api: address(&member.api_address)?,
        http: address(&member.http_address)?,
        dns: address(&member.dns_address)?,
        peer: address(&member.peer_address)?,
    })
}

pub(crate) fn membership_out(membership: &Membership) -> pb::Membership {
    pb::Membership {
        voter_sets: membership
            .get_joint_config()
            .iter()
            .map(|ids| pb::VoterSet { node_ids: ids.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| pb::NamedMember { node_id: *id, member: Some(member_out(node)) })
            .collect(),
    }
}

pub(crate) fn membership_in(membership: &pb::Membership) -> Result<Membership, Status> {
    if membership.voter_sets.is_empty() && membership.members.is_empty() {
        return Ok(Membership::default());
    }
    let voters =
        membership.voter_sets.iter().map(|set| set.node_ids.iter().copied().collect()).collect();
    let mut members = BTreeMap::new();
    for named in &membership.members {
        members.insert(named.node_id, member_in(named.member.as_ref())?);
    }
    Membership::new(voters, members).map_err(|error| malformed(&error.to_string()))
}

pub(crate) fn meta_out(meta: &SnapshotMeta) -> (Option<pb::LogId>, pb::StoredMembership) {
    let stored = &meta.last_membership;
    let membership = pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(stored.membership())),
    };
    (meta.last_log_id.as_ref().map(log_id_out), membership)
}

pub(crate) fn meta_in(
    last_log_id: Option<&pb::LogId>,
    membership: Option<&pb::StoredMembership>,
) -> Result<SnapshotMeta, Status> {
    let stored = membership.ok_or_else(|| malformed("snapshot without a membership"))?;
    let inner = stored.membership.as_ref().ok_or_else(|| malformed("empty membership"))?;
    Ok(SnapshotMeta {
        last_log_id: last_log_id.map(log_id_in),
        last_membership: StoredMembership::new(
            stored.log_id.as_ref().map(log_id_in),
            membership_in(inner)?,
        ),
    })
}

fn entry_out(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(Proposal(bytes)) => Some(pb::entry::Payload::Command(bytes)),
        EntryPayload::Membership(m) => Some(pb::entry::Payload::Membership(membership_out(&m))),
    };
    pb::Entry { log_id: Some(log_id_out(&entry.log_id)), payload }
}

fn entry_in(entry: pb::Entry) -> Result<Entry, Status> {
    let log_id = entry.log_id.as_ref().ok_or_else(|| malformed("entry without a log id"))?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Command(bytes)) => EntryPayload::Normal(Proposal(bytes)),
        Some(pb::entry::Payload::Membership(m)) => EntryPayload::Membership(membership_in(&m)?),
    };
    Ok(Entry { log_id: log_id_in(log_id), payload })
}

pub(crate) fn append_out(request: AppendRequest) -> pb::StreamAppendRequest {
    pb::StreamAppendRequest {
        vote: Some(vote_out(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_out),
        entries: request.entries.into_iter().map(entry_out).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_out),
    }
}

pub(crate) fn append_in(request: pb::StreamAppendRequest) -> Result<AppendRequest, Status> {
    Ok(AppendRequest {
        vote: vote_in(request.vote)?,
        prev_log_id: request.prev_log_id.as_ref().map(log_id_in),
        entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_in),
    })
}

pub(crate) fn append_result_out(result: AppendResult) -> pb::StreamAppendResponse {
    use pb::stream_append_response::Result as Wire;
    let result = match result {
        Ok(matched) => Wire::Matched(pb::Matched { log_id: matched.as_ref().map(log_id_out) }),
        Err(AppendError::Conflict(at)) => Wire::Conflict(log_id_out(&at)),
        Err(AppendError::HigherVote(vote)) => Wire::HigherVote(vote_out(&vote)),
    };
    pb::StreamAppendResponse { result: Some(result) }
}

pub(crate) fn append_result_in(response: pb::StreamAppendResponse) -> Result<AppendResult, Status> {
    use pb::stream_append_response::Result as Wire;
    Ok(match response.result.ok_or_else(|| malformed("no append result"))? {
        Wire::Matched(matched) => Ok(matched.log_id.as_ref().map(log_id_in)),
        Wire::Conflict(at) => Err(AppendError::Conflict(log_id_in(&at))),
        Wire::HigherVote(vote) => Err(AppendError::HigherVote(vote_in(Some(vote))?)),
    })
}

pub(crate) fn vote_request_out(request: &VoteRequest) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_out(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_out),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_in(request: pb::VoteRequest) -> Result<VoteRequest, Status> {
    let mut vote =
        VoteRequest::new(vote_in(request.vote)?, request.last_log_id.as_ref().map(log_id_in));
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

pub(crate) fn vote_response_out(response: &VoteResponse) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_out(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_out),
    }
}

pub(crate) fn vote_response_in(response: pb::VoteResponse) -> Result<VoteResponse, Status> {
    Ok(VoteResponse::new(
        vote_in(response.vote)?,
        response.last_log_id.as_ref().map(log_id_in),
        response.granted,
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;

    fn member(name: &str) -> Member {
        let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Member { name: name.to_owned(), api: at(1), http: at(2), dns: at(3), peer: at(4) }
    }

    #[test]
    fn every_kind_of_entry_survives_the_wire() {
        let id = |index| LogId::new(CommittedLeaderId::new_committed(7, 9), index);
        let voters = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let members = BTreeMap::from([(1, member("a")), (2, member("b")), (3, member("c"))]);
        let membership = Membership::new(voters, members).unwrap();
        let command = Proposal(Bytes::from_static(b"command"));
        let request = AppendRequest {
            vote: Vote { leader_id: LeaderId { term: 7, node_id: 9 }, committed: true },
            prev_log_id: Some(id(3)),
            entries: vec![
                Entry { log_id: id(4), payload: EntryPayload::Blank },
                Entry { log_id: id(5), payload: EntryPayload::Normal(command) },
                Entry { log_id: id(6), payload: EntryPayload::Membership(membership) },
            ],
            leader_commit: None,
        };
        let back = append_in(append_out(request.clone())).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn a_message_without_a_vote_is_refused() {
        let error = append_in(pb::StreamAppendRequest::default()).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
