//! A service that registers itself, answers over gRPC and HTTP, and drains before it leaves:
//! `cargo run -p rollcall-client --example server -- 127.0.0.1:8502 greeter`. Start several, interrupt one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use http::{HeaderValue, Response};
use rollcall_client::{Client, Registration};
use std::{error::Error, time::Duration};
use tokio::{net::TcpListener, signal::ctrl_c};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{body::Body, transport::Server};
use tower::util::MapResponseLayer;

/// Time for callers to learn that nothing new shall come, and for calls on their way.
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
    let guard = Client::new([registry])?.register(registration).await?;
    println!("{name} is listed; interrupt it to see it leave");

    let greeting = format!("hello from {name}\n");
    let pages = axum::Router::new().fallback(move || std::future::ready(greeting.clone()));
    let pages = axum::serve(web, pages).with_graceful_shutdown(guard.drain_on(ctrl_c(), DRAIN));

    let who = HeaderValue::from_str(&name)?;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let calls = Server::builder()
        .layer(MapResponseLayer::new(move |mut answer: Response<Body>| {
            answer.headers_mut().insert("x-answered-by", who.clone());
            answer
        }))
        .add_service(health)
        .serve_with_incoming_shutdown(
            TcpListenerStream::new(grpc),
            guard.drain_on(ctrl_c(), DRAIN),
        );

    let (pages, calls) = tokio::join!(pages.into_future(), calls);
    guard.deregister().await?;
    println!("{name} has left");
    pages?;
    calls?;
    Ok(())
}
