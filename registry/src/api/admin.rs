//! AdminService: operators look and act.

use super::{Api, Caller, read::STALE, registration::done, status};
use crate::raft::{Role, Standing, leadership::Leadership};
use rollcall_core::{Command, State, record::Scope};
use rollcall_proto::{convert, error, v1, v1::admin_service_server as service};
use std::{pin::Pin, time::Duration};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// A transfer of the lead is answered when the new leader was heard, or after this.
const NEW_LEADER: Duration = Duration::from_secs(2);

impl Api {
    fn members(&self) -> Vec<v1::Member> {
        let status = self.replica().status();
        let leader = self.replica().leadership().borrow().leader.as_ref().map(|(id, _)| *id);
        let seen = self.view().seen();
        let checkers = seen.state.checkers().nodes();
        let members = status.members.iter().map(|(id, member)| v1::Member {
            node_id: *id,
            name: member.member.name.clone(),
            api_address: member.member.api.to_string(),
            http_address: member.member.http.to_string(),
            dns_address: member.member.dns.to_string(),
            peer_address: member.member.peer.to_string(),
            role: match member.standing {
                _ if leader == Some(*id) => v1::MemberRole::Leader,
                Standing::Learner => v1::MemberRole::Learner,
                Standing::Voter => v1::MemberRole::Follower,
            }
            .into(),
            lag_entries: member.lag,
            last_contact: member.last_contact.map(convert::duration),
            probes: checkers.contains(id),
        });
        members.collect()
    }

    fn cluster_status(&self) -> v1::GetClusterStatusResponse {
        let raft = self.replica().status();
        let leader = self.replica().leadership().borrow().leader.as_ref().map(|(id, _)| *id);
        let seen = self.view().seen();
        let state = &seen.state;
        let role = match raft.role {
            Role::Leader => v1::MemberRole::Leader,
            Role::Candidate => v1::MemberRole::Candidate,
            Role::Learner => v1::MemberRole::Learner,
            Role::Follower | Role::Stopped => v1::MemberRole::Follower,
        };
        v1::GetClusterStatusResponse {
            cluster_id: raft.cluster_id.map(|id| format!("{id:032x}")).unwrap_or_default(),
            node_id: raft.node_id,
            role: role.into(),
            leader_node_id: leader.unwrap_or(0),
            term: raft.term,
            committed_index: raft.committed.map_or(0, |id| id.index),
            applied_index: seen.applied_index,
            members: self.members(),
            revision: state.revision(),
            epoch: state.epoch(),
            state_hash: format!("{:032x}", state.hash()),
            instance_count: u32::try_from(state.instance_count()).unwrap_or(u32::MAX),
            service_count: u32::try_from(state.service_count()).unwrap_or(u32::MAX),
            journal_floor_revision: state.journal_floor(),
            cluster_time: Some(convert::duration(Duration::from_millis(state.cluster_ms()))),
            staleness: self.freshness().staleness.map(convert::duration),
            protections: protections(state),
            leases: Some(convert::lease_counts(state.lease_counts())),
            server_version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    async fn put_policy(
        &self,
        request: v1::PutServicePolicyRequest,
        caller: &Caller,
    ) -> Result<v1::PutServicePolicyResponse, Status> {
        let put = convert::put_policy(request, &caller.from).map_err(error::of_invalid)?;
        let outcome = self.submit(Command::PutServicePolicy(put), caller).await?;
        done(&outcome)?;
        Ok(v1::PutServicePolicyResponse { revision: outcome.revision })
    }

    async fn delete_policy(
        &self,
        request: v1::DeleteServicePolicyRequest,
        caller: &Caller,
    ) -> Result<v1::DeleteServicePolicyResponse, Status> {
        let delete = convert::delete_policy(request, &caller.from).map_err(error::of_invalid)?;
        let outcome = self.submit(Command::DeleteServicePolicy(delete), caller).await?;
        done(&outcome)?;
        Ok(v1::DeleteServicePolicyResponse { revision: outcome.revision })
    }

    async fn end_protection(
        &self,
        request: v1::ReleaseProtectionRequest,
        caller: &Caller,
    ) -> Result<v1::ReleaseProtectionResponse, Status> {
        let set = convert::release_protection(request, &caller.from).map_err(error::of_invalid)?;
        let outcome = self.submit(Command::SetProtection(set), caller).await?;
        done(&outcome)?;
        Ok(v1::ReleaseProtectionResponse { revision: outcome.revision })
    }
}

fn protections(state: &State) -> Vec<v1::Protection> {
    let held_in = |scope: &Scope| {
        let held = state.held().iter().filter_map(|generation| state.by_generation(*generation));
        let held = held.filter(|record| match scope {
            Scope::Cluster => true,
            Scope::Service(name) => record.name.service == *name,
        });
        u32::try_from(held.count()).unwrap_or(u32::MAX)
    };
    let protections = state.protections().iter().map(|(scope, protection)| {
        convert::protection(scope, protection, state.cluster_ms(), held_in(scope))
    });
    protections.collect()
}

#[tonic::async_trait]
impl service::AdminService for Api {
    async fn get_cluster_status(
        &self,
        _: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        Ok(Response::new(self.cluster_status()))
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        let add = convert::add_member(&request.into_inner()).map_err(error::of_invalid)?;
        let invited = self.replica().invite(add.peer, add.replace, add.learner).await;
        let node_id = invited.map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(v1::AddMemberResponse { node_id, members: self.members() }))
    }

    async fn promote_member(
        &self,
        request: Request<v1::PromoteMemberRequest>,
    ) -> Result<Response<v1::PromoteMemberResponse>, Status> {
        let promoted = self.replica().promote(request.into_inner().node_id).await;
        promoted.map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(v1::PromoteMemberResponse { members: self.members() }))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let removed = self.replica().remove_member(request.into_inner().node_id).await;
        removed.map_err(|error| status::of_admin(&error))?;
        Ok(Response::new(v1::RemoveMemberResponse { members: self.members() }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let target = request.into_inner().target_node_id;
        let target = (target != 0).then_some(target);
        let mut leadership = self.replica().leadership();
        let leader = |known: &Leadership| known.leader.as_ref().map(|(id, _)| *id);
        let before = leader(&leadership.borrow());
        let transferred = self.replica().transfer_leader(target).await;
        transferred.map_err(|error| status::of_admin(&error))?;
        // It is done when this node has heard the new leader; a node that hears nobody says so with 0.
        let heard = leadership.wait_for(|known| match (leader(known), target) {
            (Some(id), Some(target)) => id == target,
            (id, None) => id.is_some() && id != before,
            (None, Some(_)) => false,
        });
        let heard = tokio::time::timeout(NEW_LEADER, heard).await;
        let leader_node_id = heard.ok().and_then(Result::ok).and_then(|known| leader(&known));
        let leader_node_id = leader_node_id.unwrap_or(0);
        Ok(Response::new(v1::TransferLeaderResponse { leader_node_id }))
    }

    async fn trigger_snapshot(
        &self,
        _: Request<v1::TriggerSnapshotRequest>,
    ) -> Result<Response<v1::TriggerSnapshotResponse>, Status> {
        let snapshot = self.replica().trigger_snapshot().await;
        let snapshot = snapshot.map_err(|error| status::of_admin(&error))?;
        let last_included_index = snapshot.meta().last_log_id.map_or(0, |id| id.index);
        Ok(Response::new(v1::TriggerSnapshotResponse { last_included_index }))
    }

    type ExportSnapshotStream =
        Pin<Box<dyn Stream<Item = Result<v1::ExportSnapshotResponse, Status>> + Send>>;

    async fn export_snapshot(
        &self,
        _: Request<v1::ExportSnapshotRequest>,
    ) -> Result<Response<Self::ExportSnapshotStream>, Status> {
        let snapshot = self.replica().trigger_snapshot().await;
        let snapshot = snapshot.map_err(|error| status::of_admin(&error))?;
        let host = self.host().clone();
        let stream = futures_util::stream::unfold(Some(0), move |offset: Option<u64>| {
            let (host, snapshot) = (host.clone(), snapshot.clone());
            async move {
                let offset = offset?;
                let read = host.run_blocking(move || snapshot.read(offset)).await;
                let part = read.unwrap_or_else(|| Err(std::io::Error::other("cancelled")));
                Some(match part {
                    Ok(data) => {
                        let next = offset + data.len() as u64;
                        let last = data.is_empty();
                        let crc32c = crc32c::crc32c(&data);
                        let part = v1::ExportSnapshotResponse { offset, data, crc32c, last };
                        (Ok(part), (!last).then_some(next))
                    }
                    Err(error) => (Err(status::storage("export", &error)), None),
                })
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_service_policy(
        &self,
        request: Request<v1::GetServicePolicyRequest>,
    ) -> Result<Response<v1::GetServicePolicyResponse>, Status> {
        let service =
            convert::required_service(request.into_inner().service).map_err(error::of_invalid)?;
        let read = self.read(STALE).await?;
        let policy = read.seen.state.service(&service).and_then(|s| s.policy.clone());
        Ok(Response::new(v1::GetServicePolicyResponse {
            read_metadata: Some(self.metadata(&read, Some(&service))),
            policy: policy.map(|policy| convert::policy(&policy)),
        }))
    }

    async fn put_service_policy(
        &self,
        request: Request<v1::PutServicePolicyRequest>,
    ) -> Result<Response<v1::PutServicePolicyResponse>, Status> {
        let caller = Caller::of(&request);
        self.put_policy(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn delete_service_policy(
        &self,
        request: Request<v1::DeleteServicePolicyRequest>,
    ) -> Result<Response<v1::DeleteServicePolicyResponse>, Status> {
        let caller = Caller::of(&request);
        self.delete_policy(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn get_protection(
        &self,
        _: Request<v1::GetProtectionRequest>,
    ) -> Result<Response<v1::GetProtectionResponse>, Status> {
        let read = self.read(STALE).await?;
        let state = &read.seen.state;
        Ok(Response::new(v1::GetProtectionResponse {
            read_metadata: Some(self.metadata(&read, None)),
            protections: protections(state),
            released_count: u32::try_from(state.released().len()).unwrap_or(u32::MAX),
        }))
    }

    async fn release_protection(
        &self,
        request: Request<v1::ReleaseProtectionRequest>,
    ) -> Result<Response<v1::ReleaseProtectionResponse>, Status> {
        let caller = Caller::of(&request);
        self.end_protection(request.into_inner(), &caller).await.map(Response::new)
    }
}
