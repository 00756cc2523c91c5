//! Only picks: the call is made by whatever you like, here by a bare socket:
//! `cargo run -p rollcall-client --example pick -- 127.0.0.1:8502 greeter 10`. Start some of `server` first.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use rollcall_client::{Balance, Client, Hint, Outcome, Policy};
use std::{error::Error, time::Duration};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let registry = arguments.next().unwrap_or_else(|| "127.0.0.1:8502".to_owned());
    let service = arguments.next().unwrap_or_else(|| "greeter".to_owned());
    let users: u32 = arguments.next().as_deref().unwrap_or("10").parse()?;

    let balance = Balance::service(&service)?.policy(Policy::RingHash);
    let balancer = Client::new([registry])?.balance(balance)?;
    balancer.ready(Duration::from_secs(5)).await?;

    for user in 0..users {
        let user = format!("user-{user}");
        // The same user goes to the same instance, as long as it is there.
        let pick = balancer.pick_for(Hint::key(&user))?;
        let address = pick.address();
        match TcpStream::connect(address).await {
            Ok(_) => pick.report(Outcome::Success),
            Err(_) => pick.report(Outcome::Failure),
        }
        println!("{user} goes to {address}");
    }
    Ok(())
}
