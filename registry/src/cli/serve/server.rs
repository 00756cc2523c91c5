//! `rollcall server`: one node, until it is stopped or cannot be trusted any more.

use std::net::SocketAddr;

use super::super::args::ServerArgs;
use super::super::signals::Stop;
use super::super::{Exit, Failure, Outcome, telemetry};
use super::{load_config, runtime};
use crate::config::Config;
use crate::host::Host;
use crate::node::Node;

/// Runs a node. Prints nothing; the log says where it listens.
pub(crate) fn server(args: &ServerArgs) -> Outcome {
    let loaded = load_config(args)?;
    telemetry::start(&loaded.config.telemetry)?;
    let (runtime, seed) = runtime()?;
    let outcome = runtime.block_on(Box::pin(serve(&loaded.config, Host::system(seed))));
    // A disk that hangs must not keep a failed node from ending.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: &Config, host: Host) -> Outcome {
    let mut stop = Stop::catch()?;
    let seeds = seeds(&config.cluster.join).await?;
    let node = Node::start(config.node_options(seeds), host).await.map_err(|error| {
        Failure::new(format!("start the node in {}: {error}", config.node.data_dir.display()))
    })?;
    tell(config, &node);
    let signal = tokio::select! {
        biased;
        reason = node.failed() => {
            let text = format!("this node cannot be trusted any more: {reason}");
            return Err(Failure::with(Exit::DiskFailed, text));
        }
        signal = stop.wait() => signal,
    };
    tracing::info!(signal, "stopping; the same signal again stops at once");
    tokio::select! {
        biased;
        () = Box::pin(node.shutdown()) => {
            tracing::info!("stopped");
            Ok(Exit::Ok)
        }
        again = stop.wait() => Ok(Exit::Signal(again)),
    }
}

fn tell(config: &Config, node: &Node) {
    let listen = node.listen;
    tracing::info!(
        name = config.node_name(),
        id = format!("{:016x}", node.replica().node_id()),
        grpc = %listen.grpc, http = %listen.http, dns = %listen.dns, peer = %listen.peer,
        data = %config.node.data_dir.display(),
        "the node listens"
    );
    if !config.is_loopback() {
        tracing::warn!("there is no TLS and no access control: whoever reaches it can change it");
    }
    if node.api().cluster_id().is_empty() && config.cluster.join.is_empty() {
        tracing::warn!(
            "this node belongs to no cluster: start it with --bootstrap to make one, with --join \
             to enter one, or take it in with `rollcall member add`"
        );
    }
}

/// The addresses that the names in `cluster.join` stand for. One that is found is enough.
async fn seeds(join: &[String]) -> Result<Vec<SocketAddr>, Failure> {
    let mut seeds = Vec::new();
    let mut problems = Vec::new();
    for name in join {
        match tokio::net::lookup_host(name).await {
            Ok(found) => seeds.extend(found),
            Err(error) => problems.push(format!("look up {name}: {error}")),
        }
    }
    if seeds.is_empty() && !join.is_empty() {
        let text = format!("no member to join: {}; check --join", problems.join("; "));
        return Err(Failure::new(text));
    }
    for problem in problems {
        tracing::warn!(problem, "a member to join has no address");
    }
    Ok(seeds)
}
