//! `rollcall run`: a program as an instance of a service.

use std::net::SocketAddr;
use std::time::Duration;

use rollcall_client::{Client, Guard};
use tokio::sync::oneshot;

use super::super::args::RunArgs;
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::{Failure, Outcome};
use super::child;
use super::{news, registration, service_name};

/// Name of the endpoint: `--port` gives only one.
const ENDPOINT: &str = "default";
/// Pause between two attempts to reach the registry for the first time.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the goodbye. The lease runs out by itself otherwise.
const GOODBYE: Duration = Duration::from_secs(3);

/// Runs the program at once; registers it as soon as the registry answers, deregisters it when it ends.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Outcome {
    let mut program = child::start(&args.command)?;
    let (stop, stopped) = oneshot::channel();
    let keeping = tokio::spawn(keep(context.client.clone(), args, stopped));
    let ended = program.wait().await;
    // The receiver is gone only where nothing is kept.
    let _ = stop.send(());
    if tokio::time::timeout(GOODBYE, keeping).await.is_err() {
        complain("the registry did not take the goodbye in time; the lease runs out by itself");
    }
    ended.map(child::exit)
}

/// Keeps the instance registered until the program has ended, and says goodbye.
async fn keep(client: Client, args: RunArgs, mut stopped: oneshot::Receiver<()>) {
    let registered = tokio::select! {
        biased;
        _ = &mut stopped => return,
        guard = register(&client, &args) => guard,
    };
    let guard = match registered {
        Ok(guard) => guard,
        Err(failure) => {
            failure.tell();
            return complain("the program goes on, but it is not registered");
        }
    };
    tokio::select! {
        biased;
        _ = &mut stopped => {}
        () = follow(&guard) => {}
    }
    let name = guard.name().to_string();
    if let Err(error) = guard.deregister().await {
        complain(&format!("{name} could not be deregistered, its lease runs out: {error}"));
    }
}

/// Tells every change of the registration.
async fn follow(guard: &Guard) {
    let name = guard.name().to_string();
    let mut states = guard.states();
    loop {
        let text = news(&name, &states.borrow_and_update());
        if let Some(text) = text {
            complain(&text);
        }
        if states.changed().await.is_err() {
            // Nothing more will come; the program decides when it is over.
            return std::future::pending().await;
        }
    }
}

async fn register(client: &Client, args: &RunArgs) -> Result<Guard, Failure> {
    let service = service_name(&args.service, &args.spec);
    let address = match args.address {
        Some(ip) => SocketAddr::new(ip, args.port),
        None => SocketAddr::new(local_ip(client, &service.to_string()).await, args.port),
    };
    let id = match &args.id {
        Some(id) => id.as_str().to_owned(),
        None => default_id(args.port),
    };
    let mut registration = registration(&service, &args.spec).id(id).endpoint(ENDPOINT, address);
    if let Some(ttl) = args.ttl {
        registration = registration.ttl(ttl.duration());
    }
    Ok(client.keep_registered(registration)?)
}

/// This side's address of the connection to the registry; tries on until there is one.
async fn local_ip(client: &Client, service: &str) -> std::net::IpAddr {
    let mut told = false;
    loop {
        match client.local_ip().await {
            Ok(Some(ip)) => return ip,
            // A connection without an address can only be a local one.
            Ok(None) => return std::net::Ipv4Addr::LOCALHOST.into(),
            Err(error) => {
                if !told {
                    complain(&format!(
                        "{service} is not registered: {error}; trying on while the program runs"
                    ));
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// `HOST-PORT`, with what an id may not hold replaced.
fn default_id(port: u16) -> String {
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let host: String = host.chars().map(legal).take(64).collect();
    format!("{host}-{port}")
}
