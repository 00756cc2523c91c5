//! tonic with nothing behind it: it acknowledges beats, answers every look-up with the same reply, and passes changes
//! on to all watchers. What the same client reaches with it is what the machine allows.

use super::{Lab, READY};
use crate::{
    load::rollcall::{channel, discovery},
    outcome::Outcome,
    process::{self, Place, Process},
};
use futures_util::{Stream, StreamExt};
use prost::Message;
use rollcall_proto::v1::{
    self,
    discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
    registration_service_server::{RegistrationService, RegistrationServiceServer},
};
use std::{net::SocketAddr, path::Path, pin::Pin, time::Duration};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Changes that a slow watcher may be behind.
const BEHIND: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) api: SocketAddr,
    pub(crate) process: Process,
}

impl Bare {
    /// Started on core 0, answering look-ups with this reply.
    pub(crate) async fn start(lab: &Lab, reply: &v1::ResolveResponse) -> Outcome<Self> {
        let directory = lab.fresh("bare")?;
        let api = SocketAddr::from(([127, 0, 0, 1], process::port()?));
        let file = directory.join("reply");
        std::fs::write(&file, reply.encode_to_vec())?;
        let mut process = Process::new("bare", &std::env::current_exe()?, Place::Core0, &directory)
            .arguments(["serve-bare", &api.to_string(), &file.to_string_lossy()]);
        process.start()?;
        let until = Instant::now() + READY;
        let mut asker = discovery(&channel(api)?);
        while asker.resolve(v1::ResolveRequest::default()).await.is_err() {
            process.check()?;
            if Instant::now() > until {
                return Err("the bare server does not answer".into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { api, process })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.process.pid().into_iter().collect()
    }
}

/// A reply of the same size that costs nothing to encode: one long text.
pub(crate) fn opaque(reply: &v1::ResolveResponse) -> v1::ResolveResponse {
    let instance = v1::Instance {
        // Two tags and two lengths stand around the text.
        instance_id: "x".repeat(reply.encoded_len().saturating_sub(6)),
        ..v1::Instance::default()
    };
    v1::ResolveResponse { instances: vec![instance], ..v1::ResolveResponse::default() }
}

/// Serves until it is ended.
pub(crate) async fn serve(address: SocketAddr, reply: &Path) -> Outcome {
    let reply = v1::ResolveResponse::decode(&*std::fs::read(reply)?)?;
    let (changes, _) = broadcast::channel(BEHIND);
    let bare = Service { reply, changes };
    let listener = tokio::net::TcpListener::bind(address).await?;
    // tonic does not set it on connections that are handed to it.
    let accepted = TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    let server = Server::builder()
        .add_service(RegistrationServiceServer::new(bare.clone()))
        .add_service(DiscoveryServiceServer::new(bare));
    Ok(server.serve_with_incoming(accepted).await?)
}

#[derive(Clone)]
struct Service {
    reply: v1::ResolveResponse,
    changes: broadcast::Sender<v1::WatchResponse>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RegistrationService for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        for item in request.into_inner().items {
            let instance = v1::Instance { spec: item.spec, ..v1::Instance::default() };
            let delta =
                v1::watch_response::Delta { upserted: vec![instance], ..Default::default() };
            let name = item.name.unwrap_or_default();
            let change = v1::WatchResponse {
                service: Some(v1::ServiceName { namespace: String::new(), service: name.service }),
                event: Some(v1::watch_response::Event::Delta(delta)),
                ..v1::WatchResponse::default()
            };
            // Nobody may be watching.
            let _ = self.changes.send(change);
        }
        Ok(Response::new(v1::RegisterResponse::default()))
    }

    async fn deregister(
        &self,
        _: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn set_admin_state(
        &self,
        _: Request<v1::SetAdminStateRequest>,
    ) -> Result<Response<v1::SetAdminStateResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type StreamHeartbeatsStream = Answers<v1::StreamHeartbeatsResponse>;

    async fn stream_heartbeats(
        &self,
        request: Request<Streaming<v1::StreamHeartbeatsRequest>>,
    ) -> Result<Response<Self::StreamHeartbeatsStream>, Status> {
        let answers = request.into_inner().map(|message| {
            message.map(|message| v1::StreamHeartbeatsResponse {
                ack_sequence: message.sequence,
                ..v1::StreamHeartbeatsResponse::default()
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl DiscoveryService for Service {
    async fn resolve(
        &self,
        _: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        Ok(Response::new(self.reply.clone()))
    }

    async fn batch_resolve(
        &self,
        _: Request<v1::BatchResolveRequest>,
    ) -> Result<Response<v1::BatchResolveResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_instance(
        &self,
        _: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    /// The changes of the first service that is named.
    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let Some(v1::watch_request::Target::Services(list)) = request.into_inner().target else {
            return Err(Status::invalid_argument("target: name a service"));
        };
        let wanted = list.names.into_iter().next();
        let changes = BroadcastStream::new(self.changes.subscribe()).filter_map(move |change| {
            let wanted = change.as_ref().map_or(true, |change| change.service == wanted);
            let change = change.map_err(|error| Status::data_loss(error.to_string()));
            std::future::ready(wanted.then_some(change))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_reply_has_the_size_of_the_one_it_stands_for() {
        let instance = v1::Instance { instance_id: "a".repeat(1_500), ..v1::Instance::default() };
        let reply = v1::ResolveResponse { instances: vec![instance], ..Default::default() };
        assert_eq!(opaque(&reply).encoded_len(), reply.encoded_len());
    }
}
