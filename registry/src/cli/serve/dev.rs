//! `rollcall dev`: a whole cluster in one process, to try things out.

use std::path::Path;

use serde_json::json;

use super::super::args::{DevArgs, Output};
use super::super::signals::Stop;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, stdout, telemetry, words};
use super::demo::Demo;
use super::nodes::Nodes;
use super::{load_config, runtime};
use crate::config::Config;

/// Port of the API that needs no `--addr`.
const API_PORT: u16 = 8502;

/// Runs the nodes until interrupted. Settings come from the environment, addresses from the flags.
pub(crate) fn dev(args: &DevArgs, output: Output) -> Outcome {
    let mut loaded = load_config(&Default::default())?;
    if loaded.origin("telemetry.log").is_none() {
        loaded.config.telemetry.log = "warn,openraft=error".to_owned();
    }
    telemetry::start(&loaded.config.telemetry)?;
    let temporary = match args.data_dir {
        Some(_) => None,
        None => {
            let made = tempfile::Builder::new().prefix("rollcall-dev-").tempdir();
            Some(
                made.map_err(|error| Failure::new(format!("make a temporary directory: {error}")))?,
            )
        }
    };
    let data = match (&args.data_dir, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(made)) => made.path().to_owned(),
        (None, None) => unreachable!("made above"),
    };
    let (runtime, seed) = runtime()?;
    let outcome = runtime.block_on(Box::pin(run(args, output, &loaded.config, &data, seed)));
    runtime.shutdown_background();
    if let Some(made) = temporary
        && let Err(error) = made.close()
    {
        complain(&format!("remove {}: {error}", data.display()));
    }
    outcome
}

async fn run(args: &DevArgs, output: Output, config: &Config, data: &Path, seed: u64) -> Outcome {
    let mut stop = Stop::catch()?;
    let nodes = tokio::select! {
        biased;
        number = stop.wait() => return Ok(Exit::Signal(number)),
        nodes = Box::pin(Nodes::start(args, config, data, seed)) => nodes?,
    };
    let demo = match args.demo {
        true => Some(Demo::start(&nodes).await?),
        false => None,
    };
    match output {
        Output::Json => stdout::json_line(&ready(&nodes, data))?,
        Output::Table => stdout::line(&welcome(&nodes, data, args))?,
    }
    tokio::select! {
        biased;
        failure = nodes.failed() => return Err(failure),
        _ = stop.wait() => {}
    }
    let shutdown = async {
        if let Some(demo) = demo {
            demo.stop().await;
        }
        nodes.shutdown().await;
    };
    tokio::select! {
        biased;
        () = Box::pin(shutdown) => Ok(Exit::Ok),
        again = stop.wait() => Ok(Exit::Signal(again)),
    }
}

fn ready(nodes: &Nodes, data: &Path) -> serde_json::Value {
    let listed: Vec<_> = nodes
        .0
        .iter()
        .map(|node| {
            json!({
                "grpc": node.listen.grpc.to_string(),
                "http": node.listen.http.to_string(),
                "dns": node.listen.dns.to_string(),
                "peer": node.listen.peer.to_string(),
                "node_id": words::id(node.replica().node_id()),
            })
        })
        .collect();
    json!({ "nodes": listed, "data_dir": data.display().to_string() })
}

fn welcome(nodes: &Nodes, data: &Path, args: &DevArgs) -> String {
    let mut lines = Vec::new();
    for (at, node) in nodes.0.iter().enumerate() {
        lines.push(format!(
            "node n{} ({}): gRPC {}, HTTP {}, DNS {}, peers {}",
            at + 1,
            words::id(node.replica().node_id()),
            node.listen.grpc,
            node.listen.http,
            node.listen.dns,
            node.listen.peer
        ));
    }
    let kept = if args.data_dir.is_some() { "kept" } else { "removed at the end" };
    lines.push(format!("data in {}, {kept}", data.display()));
    if args.demo {
        lines.push(Demo::SUMMARY.to_owned());
    }
    lines.push(String::new());
    lines.push("Try in another terminal:".to_owned());
    let grpc = nodes.0[0].listen.grpc;
    let address = if grpc.port() == API_PORT { String::new() } else { format!(" --addr {grpc}") };
    let commands = match args.demo {
        true => Demo::COMMANDS,
        false => [
            "register web --id web-1 --endpoint http=127.0.0.1:8000 --persistent",
            "resolve web",
            "why web-1",
        ],
    };
    lines.extend(commands.map(|command| format!("  {} {command}{address}", program())));
    lines.push(String::new());
    lines.push("Stop with Ctrl-C.".to_owned());
    lines.join("\n")
}

/// This program as the person called it, so that the same words call it again.
fn program() -> String {
    let called = std::env::args_os().next();
    called.map_or_else(|| "rollcall".to_owned(), |name| name.to_string_lossy().into_owned())
}
