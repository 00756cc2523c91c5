//! The demo services of `rollcall dev --demo`: real listeners on free ports, registered through the client library
//! like any other. One of them now and then dies, listener and heartbeats, and comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use axum::Router;
use rollcall_client::{Client, Guard, Registration};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::Failure;
use super::super::stdout::complain;
use super::nodes::Nodes;

/// Short, so that a death shows soon.
const TTL: Duration = Duration::from_secs(3);
const ALIVE: Duration = Duration::from_secs(40);
const DEAD: Duration = Duration::from_secs(15);
/// Instances that live as long as the demo.
const LASTING: [(&str, &str, &str); 6] = [
    ("shop", "shop-1", "a"),
    ("shop", "shop-2", "b"),
    ("shop", "shop-3", "b"),
    ("pay", "pay-1", "a"),
    ("pay", "pay-2", "b"),
    ("stock", "stock-1", "a"),
];
/// The one that dies and comes back.
const MORTAL: (&str, &str, &str) = ("stock", "stock-2", "b");

/// Running demo services.
#[derive(Debug)]
pub(super) struct Demo {
    client: Client,
    guards: Vec<Guard>,
    serving: JoinSet<()>,
    /// Ends the mortal instance.
    stop: watch::Sender<bool>,
}

impl Demo {
    /// What runs, in one line.
    pub(super) const SUMMARY: &str = "demo services: shop (3 instances), pay (2), stock (2); stock-2 dies every 55s and \
                                      is back 15s later";
    /// What to try.
    pub(super) const COMMANDS: [&str; 3] = ["resolve shop", "watch stock", "why stock-2"];

    /// Starts all instances; returns when they are registered.
    pub(super) async fn start(nodes: &Nodes) -> Result<Self, Failure> {
        let client = nodes.client()?;
        let (stop, stopped) = watch::channel(false);
        let mut demo =
            Self { client: client.clone(), guards: Vec::new(), serving: JoinSet::new(), stop };
        for instance in LASTING {
            let (listener, registration) = open(instance).await?;
            demo.serving.spawn(answer(listener, instance.1));
            demo.guards.push(client.register(registration).await?);
        }
        let addresses: Vec<_> = nodes.0.iter().map(|node| node.listen.grpc.to_string()).collect();
        let (alive, mut born) = watch::channel(false);
        let live = move || live_and_die(&addresses, &stopped, &alive);
        let thread = thread::Builder::new().name("demo".to_owned()).spawn(live);
        thread.map_err(|error| Failure::new(format!("start the demo: {error}")))?;
        // The thread tells, or has said why it cannot.
        drop(born.wait_for(|born| *born).await);
        Ok(demo)
    }

    /// Ends all instances with a goodbye, as far as the registry takes it.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        drop(self.client.with_timeout(Duration::from_secs(1)).close().await);
        self.serving.shutdown().await;
    }
}

async fn open(
    (service, id, zone): (&str, &str, &str),
) -> Result<(TcpListener, Registration), Failure> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let opened = TcpListener::bind(any).await;
    let opened = opened.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) =
        opened.map_err(|error| Failure::new(format!("open a port for {id}: {error}")))?;
    let registration = Registration::new(service)
        .id(id)
        .endpoint("http", address)
        .zone(zone)
        .tag("demo")
        .version("1.0.0")
        .ttl(TTL);
    Ok((listener, registration))
}

/// Answers HTTP.
async fn answer(listener: TcpListener, id: &'static str) {
    let text = move || async move { format!("this is {id}\n") };
    if let Err(error) = axum::serve(listener, Router::new().fallback(text)).await {
        tracing::warn!(id, %error, "a demo service ended");
    }
}

/// Lives of the mortal instance, each on a runtime of its own: when that ends, listener and heartbeats end without
/// a goodbye, as in a crash.
fn live_and_die(
    addresses: &[String],
    stopped: &watch::Receiver<bool>,
    alive: &watch::Sender<bool>,
) {
    while !*stopped.borrow() {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return complain(&format!("the demo's stock-2 cannot start: {error}")),
        };
        let life = runtime.block_on(async {
            let (listener, registration) = open(MORTAL).await?;
            let guard = Client::new(addresses)?.register(registration).await?;
            alive.send_replace(true);
            let mut stopped = stopped.clone();
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = tokio::time::sleep(ALIVE) => {}
                () = answer(listener, MORTAL.1) => {}
            }
            // Dropped after the runtime: nobody carries its goodbye out.
            Ok::<_, Failure>(guard)
        });
        runtime.shutdown_background();
        if let Err(failure) = life {
            alive.send_replace(true);
            failure.tell();
        }
        let mut left = DEAD;
        while !*stopped.borrow() && !left.is_zero() {
            let step = left.min(Duration::from_millis(100));
            thread::sleep(step);
            left -= step;
        }
    }
}
