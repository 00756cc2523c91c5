//! RegistrationService: instances speak.

use super::{Api, Caller, declared, heartbeat::Heartbeats, status};
use crate::lease::beat::NotAcknowledged;
use rollcall_core::{
    Command, Outcome,
    command::{Done, Registered},
};
use rollcall_proto::{convert, error, v1, v1::registration_service_server as service};
use std::{pin::Pin, sync::Arc};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// The outcome, or the refusal as a status.
pub(super) fn done(outcome: &Outcome) -> Result<&Done, Status> {
    outcome.result.as_ref().map_err(error::of_rejection)
}

impl Api {
    async fn register_batch(
        &self,
        request: v1::RegisterRequest,
        caller: &Caller,
    ) -> Result<v1::RegisterResponse, Status> {
        let admission = convert::Admission {
            default_ttl: self.settings().default_ttl,
            address_limit: !self.settings().loopback,
        };
        let register =
            convert::register(request, &caller.from, admission).map_err(error::of_invalid)?;
        declared::admit(&register, &self.checks().rules())?;
        let (items, repeatable) = (register.items.clone(), register.request_id.is_some());
        let outcome = self.submit(Command::Register(register), caller).await?;
        let Done::Registered(results) = done(&outcome)? else {
            return Err(status::unexpected("register", &outcome));
        };
        self.renew_repeated(results, repeatable).await?;
        let seen = self.view().seen();
        let results = items.iter().zip(results).map(|(item, result)| {
            let record = seen.state.instance(&item.name);
            convert::registered(result, &item.spec, record.map(|record| &**record))
        });
        Ok(v1::RegisterResponse { items: results.collect(), revision: outcome.revision })
    }

    /// A call that repeats an earlier one is a sign of life like a beat: its owner counts the lease from it, but the
    /// catalogue has nothing to change. `repeatable` = the outcome may be that of an earlier call.
    async fn renew_repeated(&self, results: &[Registered], repeatable: bool) -> Result<(), Status> {
        let leased = results.iter().filter(|result| result.lease_epoch > 0);
        let repeated = leased.filter(|result| repeatable || !result.changed);
        let handles: Vec<u64> = repeated.map(|result| result.generation).collect();
        if handles.is_empty() {
            return Ok(());
        }
        match self.leases().beat(handles).await {
            Ok(_) => Ok(()),
            // What has just been granted needs no beat.
            Err(NotAcknowledged) if results.iter().all(|result| result.changed) => Ok(()),
            Err(NotAcknowledged) => Err(status::no_leader(self.leases().leaderless_grace())),
        }
    }

    async fn deregister_batch(
        &self,
        request: v1::DeregisterRequest,
        caller: &Caller,
    ) -> Result<v1::DeregisterResponse, Status> {
        let deregister = convert::deregister(request, &caller.from).map_err(error::of_invalid)?;
        let outcome = self.submit(Command::Deregister(deregister), caller).await?;
        let Done::Deregistered(removed) = done(&outcome)? else {
            return Err(status::unexpected("deregister", &outcome));
        };
        Ok(convert::deregistered(removed, outcome.revision))
    }

    async fn set_admin(
        &self,
        request: v1::SetAdminStateRequest,
        caller: &Caller,
    ) -> Result<v1::SetAdminStateResponse, Status> {
        let set = convert::set_admin_state(request, &caller.from).map_err(error::of_invalid)?;
        let name = set.name.clone();
        let outcome: Arc<Outcome> = self.submit(Command::SetAdminState(set), caller).await?;
        done(&outcome)?;
        let seen = self.view().seen();
        let instance = seen.state.instance(&name).map(|record| convert::instance(record));
        Ok(v1::SetAdminStateResponse { instance, revision: outcome.revision })
    }
}

#[tonic::async_trait]
impl service::RegistrationService for Api {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let caller = Caller::of(&request);
        self.register_batch(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let caller = Caller::of(&request);
        self.deregister_batch(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn set_admin_state(
        &self,
        request: Request<v1::SetAdminStateRequest>,
    ) -> Result<Response<v1::SetAdminStateResponse>, Status> {
        let caller = Caller::of(&request);
        self.set_admin(request.into_inner(), &caller).await.map(Response::new)
    }

    type StreamHeartbeatsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamHeartbeatsResponse, Status>> + Send>>;

    async fn stream_heartbeats(
        &self,
        request: Request<Streaming<v1::StreamHeartbeatsRequest>>,
    ) -> Result<Response<Self::StreamHeartbeatsStream>, Status> {
        let from = Caller::of(&request).from;
        let heartbeats = Heartbeats::start(self.clone(), from, request.into_inner())?;
        let stream = futures_util::stream::unfold(Some(heartbeats), |heartbeats| async move {
            let mut heartbeats = heartbeats?;
            let answer = heartbeats.next().await?;
            // A stream ends with its first error.
            let rest = answer.is_ok().then_some(heartbeats);
            Some((answer, rest))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
