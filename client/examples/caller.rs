//! Calls a service by name over gRPC, and prints who answered:
//! `cargo run -p rollcall-client --example caller -- 127.0.0.1:8502 greeter 20`. Start some of `server` first.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use rollcall_client::{Balance, Client, Retry};
use std::{collections::BTreeMap, error::Error, time::Duration};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let registry = arguments.next().unwrap_or_else(|| "127.0.0.1:8502".to_owned());
    let service = arguments.next().unwrap_or_else(|| "greeter".to_owned());
    let calls: u32 = arguments.next().as_deref().unwrap_or("20").parse()?;

    // A health check may be asked twice: it is tried elsewhere where one does not answer.
    let balance = Balance::service(&service)?
        .endpoint("grpc")
        .retry(Retry::idempotent(3))
        .timeout(Duration::from_secs(1));
    let channel = Client::new([registry])?.balance(balance)?.channel();
    let mut client = HealthClient::new(channel);

    let mut answered = BTreeMap::new();
    for _ in 0..calls {
        let who = match client.check(HealthCheckRequest::default()).await {
            Ok(answer) => {
                let who = answer.metadata().get("x-answered-by");
                who.and_then(|who| who.to_str().ok()).unwrap_or("somebody").to_owned()
            }
            Err(status) => format!("nobody: {}", status.message()),
        };
        println!("{who}");
        *answered.entry(who).or_insert(0) += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{answered:?}");
    Ok(())
}
