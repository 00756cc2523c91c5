//! Ours: one node or three, as the release binary with default settings.

use super::{Lab, READY, Size};
use crate::{
    load::rollcall::status,
    outcome::Outcome,
    process::{self, Place, Process, Used},
};
use rollcall_proto::v1::MemberRole;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// A node, running or not. Its data and its addresses stay.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) api: SocketAddr,
    pub(crate) dns: SocketAddr,
    peer: SocketAddr,
    pub(crate) process: Process,
}

#[derive(Debug)]
pub(crate) struct Rollcall {
    pub(crate) nodes: Vec<Node>,
}

impl Rollcall {
    /// Started and ready. `settings` are `key=value`.
    pub(crate) async fn start(lab: &Lab, size: Size, settings: &[&str]) -> Outcome<Self> {
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=size.members() {
            let join = nodes.first().map(|first| first.peer);
            let mut node = node(lab, number, size.place(), join, settings)?;
            node.process.start()?;
            node.ready().await?;
            nodes.push(node);
        }
        let started = Self { nodes };
        let until = Instant::now() + READY;
        loop {
            let members = status(started.nodes[0].api).await?.members;
            let voters = members.iter().filter(|member| {
                matches!(member.role(), MemberRole::Leader | MemberRole::Follower)
            });
            if voters.count() == size.members() {
                return Ok(started);
            }
            if Instant::now() > until {
                return Err(format!("{} voters: not within {READY:?}", size.members()).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Index of the node that leads.
    pub(crate) async fn leader(&self) -> Outcome<usize> {
        let until = Instant::now() + READY;
        while Instant::now() < until {
            for (at, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.process.is_running())
            {
                let Ok(status) = status(node.api).await else { continue };
                if status.role() == MemberRole::Leader {
                    return Ok(at);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(format!("a leader: not within {READY:?}").into())
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.pid()).collect()
    }

    pub(crate) fn used(&self) -> Outcome<Used> {
        process::used(&self.pids())
    }
}

impl Node {
    /// Waits until it hears a leader and is in step with it.
    pub(crate) async fn ready(&mut self) -> Outcome {
        let until = Instant::now() + READY;
        while Instant::now() < until {
            self.process.check()?;
            if let Ok(status) = status(self.api).await
                && status.leader_node_id != 0
                && status.staleness.is_some()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Err(format!("{}: not ready within {READY:?}", self.api).into())
    }
}

fn node(
    lab: &Lab,
    number: usize,
    place: Place,
    join: Option<SocketAddr>,
    settings: &[&str],
) -> Outcome<Node> {
    let address = || Outcome::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, process::port()?)));
    let (api, http, dns, peer) = (address()?, address()?, address()?, address()?);
    let name = format!("n{number}");
    let directory = lab.fresh(&name)?;
    let data = directory.join("data");
    let mut process = Process::new(&name, &lab.rollcall, place, &directory)
        .arguments(["server", "--name", &name, "--data-dir", &data.to_string_lossy()])
        .arguments(["--listen-grpc".into(), api.to_string(), "--listen-http".into()])
        .arguments([http.to_string(), "--listen-dns".into(), dns.to_string()])
        .arguments(["--listen-peer".into(), peer.to_string()]);
    process = match join {
        None => process.arguments(["--bootstrap"]),
        Some(first) => process.arguments(["--join".into(), first.to_string()]),
    };
    for setting in ["telemetry.log=warn"].iter().chain(settings) {
        process = process.arguments(["--set", setting]);
    }
    Ok(Node { api, dns, peer, process })
}
