//! Rollcall servers under test, driven by their own command line.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::case::Checked;
use crate::program::{Program, output, until};
use crate::stage::Stage;

/// The canonical domain of a server that was told none.
pub(crate) const DOMAIN: &str = "rollcall.internal";
/// Longest wait for a server.
pub(crate) const START: Duration = Duration::from_secs(30);

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// The API.
    pub(crate) grpc: SocketAddr,
    /// Health and metrics.
    pub(crate) http: SocketAddr,
    /// DNS, UDP and TCP.
    pub(crate) dns: SocketAddr,
}

/// A cluster in one process: `rollcall dev`.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The process.
    pub(crate) program: Program,
    /// Its nodes.
    pub(crate) nodes: Vec<Addresses>,
    rollcall: PathBuf,
}

impl Registry {
    /// Starts `nodes` nodes with these settings (`dns.ttl`, `1s`) and waits until all are ready.
    pub(crate) fn start(stage: &Stage, nodes: usize, settings: &[(&str, &str)]) -> Checked<Self> {
        let ready = stage.path("rollcall.json");
        let log = File::create(stage.path("rollcall.log"))?;
        let mut command = Command::new(&stage.rollcall);
        command.args(["dev", "-o", "json", "--port-base", "0", "--nodes", &nodes.to_string()]);
        command.arg("--data-dir").arg(stage.path("data"));
        for (key, value) in settings {
            let name = format!("ROLLCALL__{}", key.to_uppercase().replace('.', "__"));
            command.env(name, value);
        }
        command.stdin(Stdio::null()).stdout(File::create(&ready)?).stderr(log);
        let mut program = Program::with_streams("rollcall", &mut command)?;
        let line = until("the registry is ready", START, || {
            program.check_alive()?;
            let text = fs::read_to_string(&ready)?;
            let (line, _) = text.split_once('\n').ok_or("it has not said so")?;
            Ok(serde_json::from_str::<Value>(line)?)
        })?;
        let address = |node: &Value, key: &str| -> Checked<SocketAddr> {
            Ok(node[key].as_str().ok_or_else(|| format!("{key} is missing: {node}"))?.parse()?)
        };
        let mut listening = Vec::new();
        for node in line["nodes"].as_array().into_iter().flatten() {
            listening.push(Addresses {
                grpc: address(node, "grpc")?,
                http: address(node, "http")?,
                dns: address(node, "dns")?,
            });
        }
        Ok(Self { program, nodes: listening, rollcall: stage.rollcall.clone() })
    }

    /// Where the first node answers DNS.
    pub(crate) fn dns(&self) -> SocketAddr {
        self.nodes[0].dns
    }

    /// A call of the command line.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.rollcall);
        command.args(arguments).env("ROLLCALL_ADDR", self.nodes[0].grpc.to_string());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Checked<String> {
        output(&mut self.command(arguments))
    }

    /// Registers a persistent instance with one endpoint and what else is said.
    pub(crate) fn register(
        &self,
        service: &str,
        id: &str,
        endpoint: &str,
        more: &[&str],
    ) -> Checked {
        let mut arguments = vec!["register", service, "--id", id, "--persistent", "--endpoint"];
        arguments.push(endpoint);
        arguments.extend(more);
        self.run(&arguments).map(drop)
    }

    /// Registers an instance that beats until the program ends.
    pub(crate) fn beat(
        &self,
        stage: &Stage,
        service: &str,
        id: &str,
        endpoint: &str,
        ttl: &str,
    ) -> Checked<Program> {
        let arguments = ["register", service, "--id", id, "--endpoint", endpoint, "--ttl", ttl];
        let program = stage.start(&format!("beat-{id}"), &mut self.command(&arguments))?;
        until("the instance is listed", START, || {
            let listed = self.run(&["ls", service, "-o", "json"])?;
            if listed.contains(&format!("\"{id}\"")) { Ok(()) } else { Err(listed.into()) }
        })?;
        Ok(program)
    }
}
