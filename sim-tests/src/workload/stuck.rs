//! Streams that nobody reads: watches and tails opened on the bare API and then left alone, until they are dropped at
//! the end of the run. They must cost a bounded amount and hold up nobody.

use super::{Setup, host};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rollcall_proto::v1::{
    self, discovery_service_client::DiscoveryServiceClient,
    journal_service_client::JournalServiceClient,
};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "stuck", setup.plan.mix.stuck, setup, |setup, task| async move {
        hang(&setup, task).await
    });
}

/// A connection to one node, made when it is first needed.
pub(super) fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a node's address");
    endpoint.connect_timeout(Duration::from_secs(1)).connect_with_connector_lazy(tower::service_fn(
        |uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let port = uri.port_u16().unwrap_or_default();
            turmoil::net::TcpStream::connect((host, port)).await.map(TokioIo::new)
        },
    ))
}

async fn hang(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("stuck {task}"));
    loop {
        let node = dice.random_range(0..setup.addresses.len());
        let channel = channel(&setup.addresses[node]);
        let opening = Duration::from_secs(2);
        if task == 0 {
            let target =
                v1::watch_request::Target::Pattern(v1::watch_request::ServicePattern::default());
            let request = v1::WatchRequest { target: Some(target), ..v1::WatchRequest::default() };
            let mut client = DiscoveryServiceClient::new(channel);
            let opened = tokio::time::timeout(opening, client.watch(request)).await;
            if let Ok(Ok(stream)) = opened {
                hold(setup, stream).await;
            }
        } else {
            let start = Some(v1::tail_request::Start::AfterRevision(0));
            let request = v1::TailRequest { start, service: None };
            let mut client = JournalServiceClient::new(channel);
            let opened = tokio::time::timeout(opening, client.tail(request)).await;
            if let Ok(Ok(stream)) = opened {
                hold(setup, stream).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Keeps a stream without reading it until the phase with faults is over.
async fn hold<S>(setup: &Setup, stream: S) {
    while crate::oracle::now() < setup.plan.length {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    setup.oracle.points.hit("a stream was stuck at the end");
    drop(stream);
}
