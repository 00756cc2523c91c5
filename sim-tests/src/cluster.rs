//! Nodes on simulated machines. A machine keeps its disk over restarts; a power cut takes what was not synced.

use crate::{
    clock::SimClock,
    disk::{Fault, MemDisk},
    net::SimNet,
};
use rollcall_registry::{
    api::ApiSettings,
    check::CheckSettings,
    dns::DnsSettings,
    host::{Host, Random, WriterMode},
    lease::LeaseSettings,
    node::{Entry, Listen, Node, NodeOptions},
    raft::{JoinOptions, RaftSettings},
    view::View,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use turmoil::Sim;

/// Ports of every simulated node.
pub const GRPC: u16 = 8502;
const HTTP: u16 = 8500;
/// Port of DNS on every simulated node.
pub const DNS: u16 = 8600;
const PEER: u16 = 8300;

/// Timings of every node of a simulated cluster.
#[derive(Debug, Clone, Default)]
pub struct Timing {
    /// Consensus.
    pub raft: RaftSettings,
    /// Leases.
    pub lease: LeaseSettings,
    /// Active checks.
    pub check: CheckSettings,
}

#[derive(Debug)]
struct Body {
    disk: MemDisk,
    boots: u64,
    view: Option<View>,
    node_id: Option<u64>,
}

/// One machine: its name, and what outlives a restart.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Host name in the simulation.
    pub name: String,
    body: Arc<Mutex<Body>>,
}

impl Machine {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What readers of this node see; `None` while it is down.
    pub fn view(&self) -> Option<View> {
        self.body().view.clone()
    }

    /// The id of its node, once that has started.
    pub fn node_id(&self) -> Option<u64> {
        self.body().node_id
    }

    /// How often it was started.
    pub fn boots(&self) -> u64 {
        self.body().boots
    }
}

/// A cluster of simulated nodes.
#[derive(Debug)]
pub struct Cluster {
    /// The machines, in order of their names `n1`, `n2`, ...
    pub machines: Vec<Machine>,
    seed: u64,
}

impl Cluster {
    /// Adds `count` machines to the simulation. The first one bootstraps, the others join it.
    pub fn start(sim: &mut Sim<'_>, count: usize, seed: u64, timing: &Timing) -> Self {
        let mut machines = Vec::new();
        for index in 0..count {
            let body = Body { disk: MemDisk::new(), boots: 0, view: None, node_id: None };
            let name = format!("n{}", index + 1);
            let machine = Machine { name: name.clone(), body: Arc::new(Mutex::new(body)) };
            machines.push(machine.clone());
            let timing = timing.clone();
            sim.host(name, move || {
                run(machine.clone(), index, seed ^ (index as u64 + 1), timing.clone())
            });
        }
        Self { machines, seed }
    }

    /// Addresses of the API, for clients.
    pub fn addresses(&self) -> Vec<String> {
        self.machines.iter().map(|machine| format!("{}:{GRPC}", machine.name)).collect()
    }

    /// Cuts the power of a machine: the process is gone, and with it what was not synced.
    pub fn power_cut(&self, sim: &mut Sim<'_>, index: usize) {
        let machine = &self.machines[index];
        let mut body = machine.body();
        body.view = None;
        // What still runs while the process is torn down must not reach the disk any more.
        body.disk.arm(Fault::PowerCut(0));
        let boots = body.boots;
        body.disk = body.disk.after_power_cut(self.seed ^ (boots << 8) ^ index as u64);
        drop(body);
        sim.crash(machine.name.as_str());
    }

    /// Starts a machine that is down.
    pub fn restart(&self, sim: &mut Sim<'_>, index: usize) {
        sim.bounce(self.machines[index].name.as_str());
    }

    /// The machine that leads, if one does, by the states of those that are up.
    pub fn views(&self) -> Vec<(usize, View)> {
        let views = self.machines.iter().enumerate();
        views.filter_map(|(index, machine)| Some((index, machine.view()?))).collect()
    }
}

fn anywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

async fn run(machine: Machine, index: usize, seed: u64, timing: Timing) -> turmoil::Result {
    let (disk, boots) = {
        let mut body = machine.body();
        body.boots += 1;
        (body.disk.clone(), body.boots)
    };
    let host = Host {
        clock: Arc::new(SimClock::new(0)),
        net: Arc::new(SimNet),
        disk: Arc::new(disk),
        random: Random::new(seed.wrapping_add(boots)),
        writer: WriterMode::Task,
    };
    let first = SocketAddr::new(turmoil::lookup("n1"), PEER);
    let join = JoinOptions { seeds: vec![first], ..JoinOptions::default() };
    let entry = match index {
        0 => Entry { bootstrap: boots == 1, ..Entry::default() },
        _ => Entry { bootstrap: false, join },
    };
    let options = NodeOptions {
        name: machine.name.clone(),
        data_dir: "/data".into(),
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
        api: ApiSettings::default(),
        dns: DnsSettings::default(),
        shutdown_grace: Duration::from_secs(1),
    };
    let node = Node::start(options, host).await?;
    machine.body().view = Some(node.api().view().clone());
    machine.body().node_id = Some(node.replica().node_id());
    let why = node.failed().await;
    // A simulated disk fails only when the scenario says so; the process ends as the real one does.
    tracing::error!(why, "the node stopped itself");
    machine.body().view = None;
    node.shutdown().await;
    Ok(())
}
