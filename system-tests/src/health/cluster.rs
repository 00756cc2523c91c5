//! Three servers as processes, each on a machine of its own or all on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rollcall_client::v1::MemberRole;

use super::observer::Observer;
use crate::case::{Checked, check};
use crate::metrics::metric;
use crate::netns::Namespace;
use crate::program::{Program, until};
use crate::registry::START;
use crate::stage::Stage;

/// Servers of a cluster.
pub(crate) const SERVERS: usize = 3;
/// The same as a metric.
const COUNT: f64 = 3.0;

/// One server, running or not; its data and its addresses stay.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    /// Where its API answers.
    pub(crate) grpc: SocketAddr,
    /// Where its metrics are.
    pub(crate) http: SocketAddr,
    peer: SocketAddr,
    arguments: Vec<String>,
    machine: Option<Namespace>,
    program: Option<Program>,
}

impl Server {
    /// Starts it and waits for nothing.
    pub(crate) fn start(&mut self, stage: &Stage) -> Checked {
        let binary: &Path = &stage.rollcall;
        let machine = self.machine.as_ref();
        let mut command = machine.map_or_else(|| Command::new(binary), |one| one.command(binary));
        self.program = Some(stage.start(&self.name, command.args(&self.arguments))?);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    /// Its process.
    pub(crate) fn program(&self) -> Checked<&Program> {
        self.program.as_ref().ok_or_else(|| format!("{} does not run", self.name).into())
    }
}

/// The three.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The servers.
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    /// On three machines with an onlooker on the last one, formed.
    pub(crate) fn formed(stage: &Stage, machines: &[Namespace]) -> Checked<(Self, Observer)> {
        machines.last().ok_or("no machines")?.enter()?;
        let cluster = Self::spread(stage, machines)?;
        let observer = Observer::start(&cluster.grpc())?;
        cluster.until_formed(&observer)?;
        Ok((cluster, observer))
    }

    /// On the first three machines.
    pub(crate) fn spread(stage: &Stage, machines: &[Namespace]) -> Checked<Self> {
        let mut servers = Vec::new();
        for machine in &machines[..SERVERS] {
            let ip = machine.address.parse()?;
            let ports = [8300, 8500, 8502, 8600].map(|port| SocketAddr::new(ip, port));
            servers.push(Self::server(stage, servers.first(), ports, Some(machine)));
        }
        Self::start(stage, servers)
    }

    /// All on the loopback of the machine that this thread is on, which must have these ports free.
    pub(crate) fn local(stage: &Stage) -> Checked<Self> {
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            let base = 8_000 + 1_000 * u16::try_from(number)?;
            let ports =
                [300, 500, 502, 600].map(|port| SocketAddr::from(([127, 0, 0, 1], base + port)));
            servers.push(Self::server(stage, servers.first(), ports, None));
        }
        Self::start(stage, servers)
    }

    fn server(
        stage: &Stage,
        first: Option<&Server>,
        [peer, http, grpc, dns]: [SocketAddr; 4],
        machine: Option<&Namespace>,
    ) -> Server {
        let name = format!("server-{peer}").replace([':', '.'], "-");
        let data = stage.path(&name).to_string_lossy().into_owned();
        let mut arguments = vec!["server".to_owned(), "--name".to_owned(), name.clone()];
        arguments.extend(["--data-dir".to_owned(), data]);
        for (flag, address) in [("peer", peer), ("http", http), ("grpc", grpc), ("dns", dns)] {
            arguments.extend([format!("--listen-{flag}"), address.to_string()]);
        }
        match first {
            None => arguments.push("--bootstrap".to_owned()),
            Some(first) => arguments.extend(["--join".to_owned(), first.peer.to_string()]),
        }
        if machine.is_some() {
            arguments.push("--insecure".to_owned());
        }
        Server { name, grpc, http, peer, arguments, machine: machine.cloned(), program: None }
    }

    fn start(stage: &Stage, servers: Vec<Server>) -> Checked<Self> {
        let mut cluster = Self { servers };
        for server in &mut cluster.servers {
            server.start(stage)?;
        }
        Ok(cluster)
    }

    /// Where the API of each answers.
    pub(crate) fn grpc(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.grpc).collect()
    }

    /// Waits until all three vote and probe. A node that begins to probe takes instances over, and counts their failures
    /// from the start.
    pub(crate) fn until_formed(&self, observer: &Observer) -> Checked {
        until("three servers vote and probe", START, || {
            for server in &self.servers {
                let members = observer.status(server.grpc)?.members;
                let votes = |role| [MemberRole::Leader, MemberRole::Follower].contains(&role);
                let voters = members.iter().filter(|member| votes(member.role())).count();
                let checkers = metric(server.http, "rollcall_checkers")?;
                let all = voters == SERVERS && checkers.total_cmp(&COUNT).is_eq();
                check(all, || {
                    format!("{} sees {voters} voters and {checkers} checkers", server.name)
                })?;
            }
            Ok(())
        })
    }

    /// A metric, summed over the servers, all of which must answer: a sum of some would look like a counter that fell.
    pub(crate) fn sum(&self, name: &str) -> Checked<f64> {
        let mut sum = 0.0;
        for server in &self.servers {
            sum += metric(server.http, name).map_err(|why| format!("{}: {why}", server.name))?;
        }
        Ok(sum)
    }

    /// The newest term that a server knows.
    pub(crate) fn term(&self, observer: &Observer) -> Checked<u64> {
        let all = self.servers.iter().filter_map(|server| observer.status(server.grpc).ok());
        all.map(|status| status.term).max().ok_or_else(|| "no server says its term".into())
    }

    /// How many terms have begun since that one.
    pub(crate) fn terms_since(&self, observer: &Observer, before: u64) -> Checked<u32> {
        let now = self.term(observer)?;
        let more = now.checked_sub(before).ok_or_else(|| {
            format!("term {now} after {before}: those that knew the newer one do not answer")
        })?;
        Ok(u32::try_from(more)?)
    }

    /// The index of the server that leads.
    pub(crate) fn leader(&self, observer: &Observer, within: Duration) -> Checked<usize> {
        until("a leader", within, || {
            let leads = |server: &Server| {
                server.program.is_some()
                    && observer
                        .status(server.grpc)
                        .is_ok_and(|status| status.role() == MemberRole::Leader)
            };
            self.servers.iter().position(leads).ok_or_else(|| "nobody leads".into())
        })
    }
}
