//! Nodes on simulated machines. A machine keeps its disk over restarts; a power cut takes what was not synced.

use crate::{
    clock::SimClock,
    disk::{Fault, MemDisk},
    net::SimNet,
    plan::{Plan, Timing},
    points::Points,
};
use rollcall_registry::{
    api::Api,
    dns::DnsSettings,
    host::{Host, Random, WriterMode},
    node::{Entry, Listen, Node, NodeOptions},
    raft::{JoinOptions, Standing, status::Status},
    view::Seen,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use turmoil::Sim;

/// Port of the gRPC API of every simulated node.
pub const GRPC: u16 = 8502;
const HTTP: u16 = 8500;
/// Port of DNS on every simulated node.
pub const DNS: u16 = 8600;
const PEER: u16 = 8300;

/// Where every simulated node keeps its data.
pub const DATA_DIR: &str = "/data";

/// How a node that ended by itself came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it said.
    pub reason: String,
    /// It refused to start with what it found on its disk.
    pub refused_to_start: bool,
}

/// What is known of one machine, and what outlives a restart.
#[derive(Debug)]
pub struct Body {
    /// Its disk.
    pub disk: MemDisk,
    /// How often it was started.
    pub boots: u64,
    /// The running node; `None` while it is down.
    pub api: Option<Api>,
    /// Its clocks since the last start.
    pub clock: Option<Arc<SimClock>>,
    /// Rate of its monotonic clock, in thousandths.
    pub rate: u32,
    /// By how much its wall clock is wrong, ms.
    pub wrong_by_ms: i64,
    /// Id of the node that its disk holds; 0 = not known yet.
    pub node_id: u64,
    /// The node that it comes to replace.
    pub replaces: Option<u64>,
    /// Its disk lost or may lose what was synced: until it is a full voter again, no other one may.
    pub damaged: bool,
    /// A fault of its disk was armed: it may end by itself.
    pub may_end: bool,
    /// It ended by itself.
    pub ended: Option<Ended>,
    /// It is down by the will of a fault.
    pub down: bool,
}

/// One machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Host name in the simulation.
    pub name: String,
    /// Receives everything, does not vote.
    pub learner: bool,
    body: Arc<Mutex<Body>>,
}

/// A node as the invariants see it.
#[derive(Debug, Clone)]
pub struct NodeNow {
    /// Which machine.
    pub index: usize,
    /// Which boot of it.
    pub boot: u64,
    /// What its readers see.
    pub seen: Arc<Seen>,
    /// Where it stands in consensus.
    pub status: Status,
}

impl Machine {
    /// What is known of it.
    pub fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running node; `None` while it is down.
    pub fn api(&self) -> Option<Api> {
        self.body().api.clone()
    }
}

/// A cluster of simulated nodes.
#[derive(Debug)]
pub struct Cluster {
    /// The machines, in order of their names `n1`, `n2`, ...; learners last.
    pub machines: Vec<Machine>,
    seed: u64,
}

impl Cluster {
    /// Adds the machines of a plan to the simulation. The first one bootstraps, the others join it.
    pub fn start(sim: &mut Sim<'_>, plan: &Plan) -> Self {
        let count = plan.voters + plan.learners;
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let mut machines = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let body = Body {
                disk: MemDisk::new(),
                boots: 0,
                api: None,
                clock: None,
                rate: plan.rates[index],
                wrong_by_ms: 0,
                node_id: 0,
                replaces: None,
                damaged: false,
                may_end: false,
                ended: None,
                down: false,
            };
            let body = Arc::new(Mutex::new(body));
            let machine = Machine { name: name.clone(), learner: index >= plan.voters, body };
            machines.push(machine.clone());
            let (timing, seed) = (plan.timing.clone(), plan.seed);
            let peers: Vec<String> = names.iter().filter(|other| *other != name).cloned().collect();
            sim.host(name.as_str(), move || {
                let setting = (timing.clone(), peers.clone(), seed ^ (index as u64 + 1) << 32);
                run(machine.clone(), index, setting)
            });
        }
        Self { machines, seed: plan.seed }
    }

    /// Addresses of the API, for clients.
    pub fn addresses(&self) -> Vec<String> {
        self.machines.iter().map(|machine| format!("{}:{GRPC}", machine.name)).collect()
    }

    /// Machines that vote.
    pub fn voters(&self) -> usize {
        self.machines.iter().filter(|machine| !machine.learner).count()
    }

    /// Cuts the power of a machine: the process is gone, and with it what was not synced.
    pub fn power_cut(&self, sim: &mut Sim<'_>, index: usize) {
        let seed = self.seed;
        self.stop(sim, index, |disk, boots| {
            // What still runs while the process is torn down must not reach the disk any more.
            disk.arm(Fault::PowerCut(0));
            disk.after_power_cut(seed ^ (boots << 8) ^ index as u64)
        });
    }

    /// Kills the process of a machine; what it wrote stays, synced or not.
    pub fn kill(&self, sim: &mut Sim<'_>, index: usize) {
        self.stop(sim, index, |disk, _| {
            let next = disk.after_kill();
            disk.arm(Fault::PowerCut(0));
            next
        });
    }

    /// A machine comes back empty, to replace the node that it was.
    pub fn wipe(&self, sim: &mut Sim<'_>, index: usize) {
        self.stop(sim, index, |disk, _| {
            disk.arm(Fault::PowerCut(0));
            MemDisk::new()
        });
        let mut body = self.machines[index].body();
        body.damaged = true;
        if body.node_id != 0 {
            body.replaces = Some(body.node_id);
        }
        body.node_id = 0;
    }

    fn stop(&self, sim: &mut Sim<'_>, index: usize, next: impl FnOnce(&MemDisk, u64) -> MemDisk) {
        let machine = &self.machines[index];
        let mut body = machine.body();
        body.api = None;
        body.clock = None;
        body.disk = next(&body.disk, body.boots);
        body.ended = None;
        body.down = true;
        drop(body);
        sim.crash(machine.name.as_str());
    }

    /// Starts a machine that is down.
    pub fn restart(&self, sim: &mut Sim<'_>, index: usize) {
        let mut body = self.machines[index].body();
        body.down = false;
        body.may_end = body.damaged;
        drop(body);
        sim.bounce(self.machines[index].name.as_str());
    }

    /// The nodes that are up.
    pub fn nodes(&self) -> Vec<NodeNow> {
        let node = |(index, machine): (usize, &Machine)| {
            let mut body = machine.body();
            let (boot, api) = (body.boots, body.api.as_ref()?);
            let (seen, status) = (api.view().seen(), api.replica().status());
            body.node_id = status.node_id;
            Some(NodeNow { index, boot, seen, status })
        };
        self.machines.iter().enumerate().filter_map(node).collect()
    }

    /// Whether one more voter may lose what it had synced, and no majority loses it.
    pub fn may_damage(&self, index: usize) -> bool {
        let damaged = self.machines.iter().filter(|m| !m.learner && m.body().damaged).count();
        !self.machines[index].body().damaged
            && (self.machines[index].learner || 2 * (damaged + 1) < self.voters())
    }

    /// Takes note of machines that have replaced what they were, by the word of the leader.
    pub fn note_recovered(&self, nodes: &[NodeNow], points: &Points) {
        let is_leader = |node: &&NodeNow| node.status.leader == Some(node.status.node_id);
        let leader = nodes.iter().filter(is_leader).max_by_key(|node| node.status.term);
        let Some(leader) = leader else { return };
        for machine in &self.machines {
            let mut body = machine.body();
            let (id, old) = (body.node_id, body.replaces);
            let Some(member) = leader.status.members.get(&id) else { continue };
            let stands = machine.learner || member.standing == Standing::Voter;
            let replaced = old.is_none_or(|old| !leader.status.members.contains_key(&old));
            let close = member.lag.is_some_and(|lag| lag == 0) || id == leader.status.node_id;
            let is_new = body.replaces.is_some();
            if body.damaged && is_new && stands && replaced && close && !leader.status.changing {
                body.damaged = false;
                body.replaces = None;
                points.hit("a wiped node became a voter again");
            }
        }
    }
}

fn anywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// One life of a node; its end by itself is noted, and is for the invariants to judge.
async fn run(
    machine: Machine,
    index: usize,
    (timing, peers, seed): (Timing, Vec<String>, u64),
) -> turmoil::Result {
    let now = turmoil::sim_elapsed().unwrap_or_default();
    let (host, entry) = {
        let mut body = machine.body();
        body.boots += 1;
        let clock = Arc::new(SimClock::new(now, body.rate, body.wrong_by_ms));
        body.clock = Some(clock.clone());
        let host = Host {
            clock,
            net: Arc::new(SimNet),
            disk: Arc::new(body.disk.clone()),
            random: Random::new(seed.wrapping_add(body.boots)),
            writer: WriterMode::Task,
        };
        let seeds = peers.iter().map(|peer| SocketAddr::new(turmoil::lookup(peer.as_str()), PEER));
        let seeds = seeds.collect();
        let join = JoinOptions { seeds, learner: machine.learner, replace: body.replaces };
        let entry = match (index, body.boots) {
            (0, 1) => Entry { bootstrap: true, ..Entry::default() },
            _ => Entry { bootstrap: false, join },
        };
        (host, entry)
    };
    let options = NodeOptions {
        name: machine.name.clone(),
        data_dir: DATA_DIR.into(),
        listen: Listen {
            grpc: anywhere(GRPC),
            http: anywhere(HTTP),
            dns: anywhere(DNS),
            peer: anywhere(PEER),
        },
        advertise: Some(turmoil::lookup(machine.name.as_str())),
        entry,
        raft: timing.raft,
        lease: timing.lease,
        check: timing.check,
        api: timing.api,
        dns: DnsSettings::default(),
        shutdown_grace: Duration::from_secs(1),
    };
    let boot = machine.body().boots;
    let node = match Node::start(options, host).await {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(%error, "the node does not start");
            end(&machine, boot, error.to_string(), true);
            return Ok(());
        }
    };
    machine.body().api = Some(node.api().clone());
    let why = node.failed().await;
    tracing::error!(why, "the node stopped itself");
    machine.body().api = None;
    node.shutdown().await;
    end(&machine, boot, why, false);
    Ok(())
}

fn end(machine: &Machine, boot: u64, reason: String, refused_to_start: bool) {
    let mut body = machine.body();
    if body.boots == boot {
        body.ended = Some(Ended { reason, refused_to_start });
    }
}
