//! Several nodes in one process, formed into one cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rollcall_client::Client;

use super::super::args::DevArgs;
use super::super::{Exit, Failure};
use super::addresses::Addresses;
use crate::config::Config;
use crate::host::Host;
use crate::node::Node;

/// Longest wait for a cluster of all nodes.
const FORMING: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Running nodes; the first one began the cluster.
#[derive(Debug)]
pub(super) struct Nodes(pub(super) Vec<Node>);

impl Nodes {
    /// Starts them, each with a directory of its own below `data`, and waits until all vote.
    pub(super) async fn start(
        args: &DevArgs,
        base: &Config,
        data: &Path,
        seed: u64,
    ) -> Result<Self, Failure> {
        let addresses = Addresses::load(data)?.choose(args, data)?;
        let mut nodes = Self(Vec::new());
        for (index, listen) in (0..args.nodes).zip(addresses) {
            let mut config = base.clone();
            config.node.name = format!("n{}", index + 1);
            config.node.data_dir = data.join(&config.node.name);
            config.listen = listen;
            config.cluster.bootstrap = index == 0;
            let seeds: Vec<SocketAddr> = nodes.0.iter().map(|node| node.listen.peer).collect();
            // Nodes of one process must not draw the same numbers.
            let host = Host::system(seed.wrapping_add(u64::from(index)));
            let directory = config.node.data_dir.clone();
            let started = Node::start(config.node_options(seeds), host).await;
            nodes.0.push(started.map_err(|error| {
                Failure::new(format!(
                    "start node {} in {}: {error}",
                    index + 1,
                    directory.display()
                ))
            })?);
        }
        Addresses::save(&nodes.0, data)?;
        match tokio::time::timeout(FORMING, nodes.formed(usize::from(args.nodes))).await {
            Ok(()) => Ok(nodes),
            Err(_) => Err(Failure::new(format!(
                "the {} nodes in {} formed no cluster within {FORMING:?}; try another --data-dir",
                args.nodes,
                data.display()
            ))),
        }
    }

    async fn formed(&self, count: usize) {
        for node in &self.0 {
            node.ready().await;
        }
        while self.0.iter().any(|node| node.replica().status().members.len() < count) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A client of all of them.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.0.iter().map(|node| node.listen.grpc.to_string()))?)
    }

    /// Resolves when one of them cannot be trusted any more.
    pub(super) async fn failed(&self) -> Failure {
        let failures = self.0.iter().map(|node| Box::pin(node.failed()));
        let (reason, at, _) = futures_util::future::select_all(failures).await;
        let text = format!("node {} cannot be trusted any more: {reason}", at + 1);
        Failure::with(Exit::DiskFailed, text)
    }

    /// Stops all of them, the leader of the beginning last.
    pub(super) async fn shutdown(self) {
        for node in self.0.into_iter().rev() {
            node.shutdown().await;
        }
    }
}
