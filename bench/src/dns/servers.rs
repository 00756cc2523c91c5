//! How each DNS server is started: on core 0, with one thread that answers.

use super::data::{self, Data};
use crate::{
    load::rollcall,
    outcome::Outcome,
    process::{self, Place, Process},
    servers::{Lab, Program, Size, rollcall::Rollcall},
};
use std::{net::SocketAddr, path::Path};

const SERVICES: usize = 10_000;
/// dnsmasq takes minutes for more.
const SERVICES_DNSMASQ: usize = 1_000;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rollcall,
    Knot,
    Dnsmasq,
    Hickory,
    Echo,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Knot, Self::Rollcall, Self::Dnsmasq, Self::Hickory, Self::Echo];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rollcall => "rollcall",
            Self::Knot => "knot",
            Self::Dnsmasq => "dnsmasq",
            Self::Hickory => "hickory server",
            Self::Echo => "bare UDP echo",
        }
    }

    /// What it is given, with so many instances a service.
    pub(crate) fn data(self, instances: usize) -> Data {
        let services = if self == Self::Dnsmasq { SERVICES_DNSMASQ } else { SERVICES };
        Data { services, instances }
    }

    /// dnsmasq was given addresses alone; hickory searches its whole zone for what is not there, some 30 ms an answer.
    pub(crate) fn knows(self, question: &str) -> bool {
        match self {
            Self::Rollcall | Self::Knot => question != "echo",
            Self::Dnsmasq => matches!(question, "a" | "random"),
            Self::Hickory => matches!(question, "a" | "srv"),
            Self::Echo => question == "echo",
        }
    }
}

/// A server that answers or will soon; ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Where changes go, with ours.
    pub(crate) api: Option<SocketAddr>,
    process: Process,
}

impl Server {
    /// An error with the end of its log, where it has ended by itself.
    pub(crate) fn check(&mut self) -> Outcome {
        self.process.check()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.process.pid().into_iter().collect()
    }
}

pub(crate) async fn start(lab: &Lab, kind: Kind, instances: usize) -> Outcome<Server> {
    let (directory, data) = (lab.fresh("dns")?, kind.data(instances));
    if kind == Kind::Rollcall {
        let mut registry = Rollcall::start(lab, Size::One, &[]).await?;
        let node = registry.nodes.pop().ok_or("no node")?;
        let channel = rollcall::channel(node.api)?;
        rollcall::fill(&channel, data.registrations()).await?;
        return Ok(Server { address: node.dns, api: Some(node.api), process: node.process });
    }
    let port = process::port()?;
    let own = std::env::current_exe()?;
    let process = |program: &Path| Process::new(kind.name(), program, Place::Core0, &directory);
    let mut process = match kind {
        Kind::Knot => {
            let file = directory.join("knot.conf");
            std::fs::write(directory.join("zone"), data.zone())?;
            std::fs::write(&file, knot_conf(&directory, port))?;
            process(&Program::Knot.path()?).arguments(["-c", &file.to_string_lossy()])
        }
        Kind::Dnsmasq => {
            let hosts = directory.join("hosts");
            std::fs::write(&hosts, data.hosts())?;
            process(&Program::Dnsmasq.path()?)
                .arguments(["-k", "-C", "/dev/null", "--bind-interfaces", "--no-resolv"])
                .arguments([
                    "--no-hosts",
                    "--listen-address=127.0.0.1",
                    "--local-ttl=5",
                    "-u",
                    "root",
                ])
                .arguments([format!("--local=/{}/", data::DOMAIN), format!("--port={port}")])
                .arguments([format!("--addn-hosts={}", hosts.display()), "--pid-file=".into()])
        }
        Kind::Hickory => {
            let size = [data.services, data.instances].map(|count| count.to_string());
            process(&own).arguments(["serve-hickory", &port.to_string()]).arguments(size)
        }
        Kind::Echo | Kind::Rollcall => process(&own).arguments(["serve-echo", &port.to_string()]),
    };
    process.start()?;
    Ok(Server { address: ([127, 0, 0, 1], port).into(), api: None, process })
}

fn knot_conf(folder: &Path, port: u16) -> String {
    let (folder, domain) = (folder.display(), data::DOMAIN);
    format!(
        "server:\n  rundir: {folder}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\n  answer-rotation: on\ndatabase:\n  storage: {folder}\n\
         zone:\n  - domain: {domain}\n    file: {folder}/zone\n    zonefile-sync: -1\n    \
         journal-content: none\n"
    )
}
