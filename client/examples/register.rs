//! A service that registers itself, answers, and leaves when it is interrupted:
//! `cargo run -p rollcall-client --example register -- 127.0.0.1:8502 127.0.0.1:8000`.

use rollcall_client::{Client, Registration};
use std::{error::Error, net::SocketAddr};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let registry = arguments.next().unwrap_or_else(|| "127.0.0.1:8502".to_owned());
    let listen: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:8000").parse()?;

    let listener = TcpListener::bind(listen).await?;
    let registration =
        Registration::new("greeter").endpoint("tcp", listener.local_addr()?).tag("example");
    let guard = Client::new([registry])?.register(registration).await?;

    loop {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => break,
            connection = listener.accept() => connection?.0.write_all(b"hello\n").await?,
        }
    }
    guard.deregister().await?;
    Ok(())
}
