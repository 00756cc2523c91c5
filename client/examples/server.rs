//! A service that registers itself, answers over gRPC and HTTP, and drains before it leaves:
//! `cargo run -p rollcall-client --example server -- 127.0.0.1:8502 greeter`. Start several, interrupt one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use http::HeaderValue;
use rollcall_client::{Client, Registration, v1::AdminState};
use std::{error::Error, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tower::util::MapResponseLayer;

/// Time for callers to learn that nothing new shall come.
const DRAIN: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let registry = arguments.next().unwrap_or_else(|| "127.0.0.1:8502".to_owned());
    let service = arguments.next().unwrap_or_else(|| "greeter".to_owned());

    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let web = TcpListener::bind("127.0.0.1:0").await?;
    let registration = Registration::new(service)
        .endpoint("grpc", grpc.local_addr()?)
        .endpoint("http", web.local_addr()?);
    let name = registration.name()?.id.to_string();

    // Both servers end when this says so.
    let (stop, stopped) = watch::channel(false);
    let ended = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let who = HeaderValue::from_str(&name)?;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let answering = Server::builder()
        .layer(MapResponseLayer::new(move |mut answer: http::Response<tonic::body::Body>| {
            answer.headers_mut().insert("x-answered-by", who.clone());
            answer
        }))
        .add_service(health)
        .serve_with_incoming_shutdown(TcpListenerStream::new(grpc), ended(stopped.clone()));
    let answering = tokio::spawn(answering);
    let greeting = format!("hello from {name}\n");
    let pages = axum::Router::new().fallback(move || std::future::ready(greeting.clone()));
    let web = axum::serve(web, pages).with_graceful_shutdown(ended(stopped));
    let web = tokio::spawn(web.into_future());

    let guard = Client::new([registry])?.register(registration).await?;
    println!("{name} is listed; interrupt it to see it leave");
    tokio::signal::ctrl_c().await?;

    guard.set_admin_state(AdminState::Draining, "interrupted").await?;
    tokio::time::sleep(DRAIN).await;
    stop.send_replace(true);
    answering.await??;
    web.await??;
    guard.deregister().await?;
    println!("{name} has left");
    Ok(())
}
