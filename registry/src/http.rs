//! HTTP on a port of its own: liveness, readiness and metrics. Works without quorum and asks nobody.

use crate::{
    api::Api,
    dns::stats::DnsStats,
    metrics::Metrics,
    net::{Connection, Listener},
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// A node that is further behind is not ready.
const READY_STALENESS: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const RETRY: Duration = Duration::from_millis(20);

/// Our listener as axum wants it.
#[derive(Debug)]
struct Accept(Box<dyn Listener>);

impl axum::serve::Listener for Accept {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok(connection) => {
                    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                    let from = connection.remote_addr().unwrap_or(unknown);
                    return (connection, from);
                }
                Err(error) => {
                    tracing::warn!(%error, "accept an http connection");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Serves until `stop` resolves.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: Box<dyn Listener>,
    api: Api,
    dns: Arc<DnsStats>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let metrics = Metrics::of(api.clone(), dns);
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state((api, metrics));
    axum::serve(Accept(listener), router).with_graceful_shutdown(stop).await
}

type Shared = (Api, Metrics);

async fn ready(State((api, _)): State<Shared>) -> Response {
    let freshness = api.freshness();
    let problem = match freshness.staleness {
        _ if api.is_draining() => "this node is shutting down".to_owned(),
        _ if !freshness.leader_known => "no leader is known".to_owned(),
        None => "not caught up since the start".to_owned(),
        Some(behind) if behind > READY_STALENESS => format!("{behind:?} behind"),
        Some(_) => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {problem}\n")).into_response()
}

async fn render(State((_, metrics)): State<Shared>) -> Response {
    const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
