//! Asks a service by name over HTTP, through hyper's client:
//! `cargo run -p rollcall-client --example http -- 127.0.0.1:8502 greeter 10`. Start some of `server` first.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use rollcall_client::{Balance, Client, Policy};
use std::error::Error;
use tonic::body::Body;
use tower::Service as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let registry = arguments.next().unwrap_or_else(|| "127.0.0.1:8502".to_owned());
    let service = arguments.next().unwrap_or_else(|| "greeter".to_owned());
    let requests: u32 = arguments.next().as_deref().unwrap_or("10").parse()?;

    let balance = Balance::service(&service)?.endpoint("http").policy(Policy::RoundRobin);
    let hyper = legacy::Client::builder(TokioExecutor::new()).build_http::<Body>();
    let mut http = Client::new([registry])?.balance(balance)?.http(hyper);

    for _ in 0..requests {
        let answer = http.call(http::Request::get("/").body(Empty::new())?).await?;
        let text = answer.into_body().collect().await?.to_bytes();
        print!("{}", String::from_utf8_lossy(&text));
    }
    Ok(())
}
