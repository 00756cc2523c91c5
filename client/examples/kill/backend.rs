//! One backend: a gRPC service that registers itself, answers after 2 ms, does badly when it is told to on its standard
//! input (`slow`, `fail`, `well`), and drains on SIGTERM.

use super::{Outcome, report::tell};
use clap::Args;
use rollcall_client::{Client, Registration};
use std::{
    io::BufRead as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_server::{Health, HealthServer},
};

/// The service that all backends belong to.
pub(crate) const SERVICE: &str = "echo";
/// Time of each answer, and that of a slow backend.
const QUICK_MS: u64 = 2;
const SLOW_MS: u64 = 60;
const TTL: Duration = Duration::from_secs(3);
/// Time from "no more calls, please" to the end.
const GRACE: Duration = Duration::from_secs(1);
/// Time for the calls that are left then.
const LAST_CALLS: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Backend {
    /// Addresses of the registry.
    #[arg(long, value_delimiter = ',')]
    registry: Vec<String>,
    /// Instance id.
    #[arg(long)]
    id: String,
}

#[derive(Default)]
struct Manner {
    delay_ms: AtomicU64,
    fails: AtomicBool,
}

struct Echo(Arc<Manner>);

impl Backend {
    pub(crate) async fn serve(self) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let manner = Arc::new(Manner { delay_ms: QUICK_MS.into(), fails: false.into() });
        obey(Arc::clone(&manner));
        let client = Client::new(self.registry)?;
        let echo = Registration::new(SERVICE).id(self.id).endpoint("grpc", address).ttl(TTL);
        let mut terminated = signal(SignalKind::terminate())?;
        let guard = client.register(echo).await?;
        tell(&address.to_string());
        let drained = guard.drain_on(async move { terminated.recv().await }, GRACE);
        let (over, is_over) = tokio::sync::oneshot::channel();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = Server::builder()
            .add_service(HealthServer::new(Echo(manner)))
            .serve_with_incoming_shutdown(incoming, async move {
                drained.await;
                // Nobody listens where the server ended by itself.
                let _ = over.send(());
            });
        let too_late = async {
            drop(is_over.await);
            tokio::time::sleep(LAST_CALLS).await;
        };
        tokio::select! {
            biased;
            served = serving => served?,
            () = too_late => {}
        }
        Ok(guard.deregister().await?)
    }
}

/// Changes its manner as the standard input says. The thread ends with the input.
fn obey(manner: Arc<Manner>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            manner.delay_ms.store(if line == "slow" { SLOW_MS } else { QUICK_MS }, Relaxed);
            manner.fails.store(line == "fail", Relaxed);
        }
    });
}

#[tonic::async_trait]
impl Health for Echo {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if self.0.fails.load(Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        tokio::time::sleep(Duration::from_millis(self.0.delay_ms.load(Relaxed))).await;
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("check only"))
    }
}
