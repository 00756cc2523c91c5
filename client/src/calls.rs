//! The calls of the API, one method each: the request and the answer are the messages of `rollcall.v1`.
//!
//! An empty `request_id` is filled; a `min_revision` of 0 means this client's own writes where the builder asked for
//! read-your-writes.

use crate::{
    client::{Client, Kind},
    error::Error,
    nodes::NodeChannel,
};
use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient as Admin,
    discovery_service_client::DiscoveryServiceClient as Discovery,
    journal_service_client::JournalServiceClient as Journal,
    registration_service_client::RegistrationServiceClient as Registrations,
};
use tonic::Request;

/// Longest answer that is taken, in bytes: the server's own limit of 3 MiB and some.
pub(crate) const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Most pages of one listing: 100,000 services at 100 a page, and some.
const PAGES: usize = 2_000;

macro_rules! through {
    ($service:ident . $method:ident) => {
        |channel: NodeChannel, request: Request<_>| async move {
            $service::new(channel).max_decoding_message_size(ANSWER_BYTES).$method(request).await
        }
    };
}

impl Client {
    /// The instances of one service. An unknown service is an empty answer, not an error.
    pub async fn resolve(&self, mut q: v1::ResolveRequest) -> Result<v1::ResolveResponse, Error> {
        q.min_revision = self.shared.floor(q.min_revision);
        let call = self.call("resolve", Kind::Read);
        self.shared.unary(call, q, through!(Discovery.resolve)).await
    }

    /// Several services in one call, all of one revision.
    pub async fn batch_resolve(
        &self,
        mut q: v1::BatchResolveRequest,
    ) -> Result<v1::BatchResolveResponse, Error> {
        q.min_revision = self.shared.floor(q.min_revision);
        let call = self.call("batch resolve", Kind::Read);
        self.shared.unary(call, q, through!(Discovery.batch_resolve)).await
    }

    /// One instance with its last events. Refused with NOT_FOUND where it is not registered.
    pub async fn get_instance(
        &self,
        mut q: v1::GetInstanceRequest,
    ) -> Result<v1::GetInstanceResponse, Error> {
        q.min_revision = self.shared.floor(q.min_revision);
        let call = self.call("get instance", Kind::Read);
        self.shared.unary(call, q, through!(Discovery.get_instance)).await
    }

    /// One page of the services of a namespace.
    pub async fn list_services(
        &self,
        mut q: v1::ListServicesRequest,
    ) -> Result<v1::ListServicesResponse, Error> {
        q.min_revision = self.shared.floor(q.min_revision);
        let call = self.call("list services", Kind::Read);
        self.shared.unary(call, q, through!(Discovery.list_services)).await
    }

    /// All services of a namespace, page after page. Each page has the deadline of a call.
    pub async fn list_all_services(
        &self,
        mut q: v1::ListServicesRequest,
    ) -> Result<Vec<v1::ServiceSummary>, Error> {
        let mut services = Vec::new();
        for _ in 0..PAGES {
            let page = self.list_services(q.clone()).await?;
            services.extend(page.services);
            if page.next_page_token.is_empty() || page.next_page_token == q.page_token {
                break;
            }
            q.page_token = page.next_page_token;
        }
        Ok(services)
    }

    /// Lists instances, all or none, and leaves it at that: nobody keeps their leases. [`Client::register`] does.
    pub async fn register_once(
        &self,
        mut q: v1::RegisterRequest,
    ) -> Result<v1::RegisterResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("register", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Registrations.register)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }

    /// Removes instances, all or none.
    pub async fn deregister(
        &self,
        mut q: v1::DeregisterRequest,
    ) -> Result<v1::DeregisterResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("deregister", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Registrations.deregister)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }

    /// Drains an instance, takes it into maintenance, or enables it again.
    pub async fn set_admin_state(
        &self,
        mut q: v1::SetAdminStateRequest,
    ) -> Result<v1::SetAdminStateResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("set admin state", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Registrations.set_admin_state)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }

    /// Events of an instance, of a service or of everything, newest first, one page.
    pub async fn history(&self, mut q: v1::HistoryRequest) -> Result<v1::HistoryResponse, Error> {
        q.min_revision = self.shared.floor(q.min_revision);
        let call = self.call("history", Kind::Read);
        self.shared.unary(call, q, through!(Journal.history)).await
    }

    /// The cluster as the answering node sees it.
    pub async fn get_cluster_status(&self) -> Result<v1::GetClusterStatusResponse, Error> {
        let call = self.call("get cluster status", Kind::Read);
        let q = v1::GetClusterStatusRequest {};
        self.shared.unary(call, q, through!(Admin.get_cluster_status)).await
    }

    /// Takes in a node that waits. It may take as long as the node needs to catch up: give it a deadline to match.
    pub async fn add_member(
        &self,
        q: v1::AddMemberRequest,
    ) -> Result<v1::AddMemberResponse, Error> {
        let call = self.call("add member", Kind::Once);
        self.shared.unary(call, q, through!(Admin.add_member)).await
    }

    /// Makes a learner a voter.
    pub async fn promote_member(
        &self,
        q: v1::PromoteMemberRequest,
    ) -> Result<v1::PromoteMemberResponse, Error> {
        let call = self.call("promote member", Kind::Once);
        self.shared.unary(call, q, through!(Admin.promote_member)).await
    }

    /// Takes a node out of the cluster.
    pub async fn remove_member(
        &self,
        q: v1::RemoveMemberRequest,
    ) -> Result<v1::RemoveMemberResponse, Error> {
        let call = self.call("remove member", Kind::Once);
        self.shared.unary(call, q, through!(Admin.remove_member)).await
    }

    /// Hands leadership to another voter.
    pub async fn transfer_leader(
        &self,
        q: v1::TransferLeaderRequest,
    ) -> Result<v1::TransferLeaderResponse, Error> {
        let call = self.call("transfer leader", Kind::Once);
        self.shared.unary(call, q, through!(Admin.transfer_leader)).await
    }

    /// Writes a snapshot on the answering node now.
    pub async fn trigger_snapshot(&self) -> Result<v1::TriggerSnapshotResponse, Error> {
        let call = self.call("trigger snapshot", Kind::Once);
        let q = v1::TriggerSnapshotRequest {};
        self.shared.unary(call, q, through!(Admin.trigger_snapshot)).await
    }

    /// The policy of a service; unset where none is stored.
    pub async fn get_service_policy(
        &self,
        q: v1::GetServicePolicyRequest,
    ) -> Result<v1::GetServicePolicyResponse, Error> {
        let call = self.call("get service policy", Kind::Read);
        self.shared.unary(call, q, through!(Admin.get_service_policy)).await
    }

    /// Stores the policy of a service, replacing the former as a whole.
    pub async fn put_service_policy(
        &self,
        mut q: v1::PutServicePolicyRequest,
    ) -> Result<v1::PutServicePolicyResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("put service policy", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Admin.put_service_policy)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }

    /// Deletes the policy of a service; deleting none is no error.
    pub async fn delete_service_policy(
        &self,
        mut q: v1::DeleteServicePolicyRequest,
    ) -> Result<v1::DeleteServicePolicyResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("delete service policy", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Admin.delete_service_policy)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }

    /// What is held back at present.
    pub async fn get_protection(&self) -> Result<v1::GetProtectionResponse, Error> {
        let call = self.call("get protection", Kind::Read);
        let q = v1::GetProtectionRequest {};
        self.shared.unary(call, q, through!(Admin.get_protection)).await
    }

    /// Ends the protection of a scope.
    pub async fn release_protection(
        &self,
        mut q: v1::ReleaseProtectionRequest,
    ) -> Result<v1::ReleaseProtectionResponse, Error> {
        self.shared.identify(&mut q.request_id);
        let call = self.call("release protection", Kind::Write);
        let answer = self.shared.unary(call, q, through!(Admin.release_protection)).await?;
        self.shared.wrote(call, answer.revision);
        Ok(answer)
    }
}
