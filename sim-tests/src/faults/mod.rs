//! What can go wrong, one kind to a file. A kind begins and returns how it ends; several may be at work at a time.
//!
//! A new kind is one file and one line in [`TABLE`]; nothing else names it.

mod bit_flip;
mod blackout;
mod bridge;
mod broken;
mod clock_jump;
mod clock_rate;
mod cut;
mod disk_full;
mod hold;
mod kill;
mod latency;
mod left_behind;
mod mid_write;
mod old_leader;
mod one_way;
mod owners_cut;
mod owners_die;
mod owners_gone;
mod owners_late;
mod pause;
mod power;
mod slow_disk;
mod split;
mod sync_error;
mod target_dies;
mod targets_cut;
mod wipe;
mod write_error;

pub use clock_rate::FASTEST;

use crate::{
    cluster::Cluster, links::Links, oracle::Oracle, points::Points, trace::Trace, workload,
};
use rand::{RngExt, rngs::SmallRng};
use rollcall_registry::raft::Role;
use std::time::Duration;
use turmoil::Sim;

/// Where faults strike.
pub struct Field<'f, 's> {
    /// The simulation.
    pub sim: &'f mut Sim<'s>,
    /// The nodes.
    pub cluster: &'f Cluster,
    /// What is wrong with the links already.
    pub links: &'f mut Links,
    /// What happens is written here.
    pub trace: &'f Trace,
    /// What the clients were told.
    pub oracle: &'f Oracle,
    /// Rare states that were reached.
    pub points: &'f Points,
    /// This strike hits the leader, or all owners, whatever its dice say.
    pub worst: bool,
    /// Set by a fault that may be over before its time.
    pub until: Option<When>,
    /// Set by a fault that goes on in another way: for how long, and how that ends.
    pub then: Option<(Duration, Undo)>,
}

/// Tells whether a fault is over before its time, at some simulated time.
pub type When = Box<dyn Fn(&Cluster, Duration) -> bool>;

impl std::fmt::Debug for Field<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Field")
    }
}

/// How a fault ends.
pub type Undo = Box<dyn FnOnce(&mut Field<'_, '_>)>;

/// A fault at work.
pub struct Active {
    /// Its name.
    pub name: &'static str,
    /// When it ends.
    pub until: Duration,
    /// Or before that.
    pub when: Option<When>,
    /// How it ends.
    pub undo: Undo,
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One kind of fault.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Begins it; `None` where it is over at once, or makes no sense now.
    pub begin: fn(&mut Field<'_, '_>, &mut SmallRng) -> Option<Undo>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! table {
    ($($file:ident: $what:literal,)*) => {
        /// Every kind of fault.
        pub const TABLE: &[Kind] =
            &[$(Kind { name: stringify!($file), what: $what, begin: $file::begin },)*];
    };
}

table! {
    bit_flip: "power cut, then flipped bits in the log or a snapshot of one machine, a minority of the voters",
    blackout: "power cut of all machines at once",
    bridge: "two machines do not hear each other, the others hear both",
    broken: "connections of one machine break and can be opened again at once",
    clock_jump: "the wall clock of one machine jumps by up to ten years",
    clock_rate: "the monotonic clock of one machine runs up to a tenth too fast or too slow",
    cut: "one machine hears no other, clients reach it",
    disk_full: "a disk reports that it is nearly full",
    hold: "everything between two machines is held back, then delivered at once",
    kill: "the process of one machine dies, its writes stay",
    latency: "the links of one machine are slow and uneven",
    mid_write: "the power fails in the middle of an operation of the disk",
    one_way: "one machine does not hear another, which hears it",
    owners_cut: "the owners of instances reach no node",
    owners_die: "an owner process dies with all its instances, and starts again later",
    pause: "one machine stands still, and its monotonic clock with it",
    power: "power cut of one machine: what was not synced is lost, torn or there",
    split: "the machines fall apart into two groups",
    sync_error: "an fsync fails",
    wipe: "a machine comes back with an empty disk and replaces what it was",
    write_error: "a write fails for lack of space",
    target_dies: "a probed instance dies, and lives again later",
    targets_cut: "a checker reaches none of its targets, but all of its peers",
    old_leader: "the leader hears no other machine for longer than leases, all clients reach it",
    owners_late: "beats are held back until a lease runs out, and come while that is being decided",
    owners_gone: "no owner reaches any node until the leases of all are over",
    left_behind: "a follower hears no other machine until it needs a snapshot, clients reach it",
    slow_disk: "whatever is to be saved on the disk of one machine, or of a majority, waits before it is",
}

impl<'s> Field<'_, 's> {
    /// Simulated time.
    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Adds a line to the trace.
    pub fn tell(&self, text: &str) {
        self.trace.line("sim", text);
    }

    /// One machine: half the time the leader, if there is one.
    pub fn victim(&self, dice: &mut SmallRng) -> usize {
        let any = dice.random_range(0..self.cluster.machines.len());
        let leader = dice.random_range(0..2) == 0 || self.worst;
        if leader { self.leader().unwrap_or(any) } else { any }
    }

    /// The machine that leads, by its own word.
    pub fn leader(&self) -> Option<usize> {
        let nodes = self.cluster.nodes();
        let leads = nodes.iter().filter(|node| node.status.role == Role::Leader);
        leads.max_by_key(|node| node.status.term).map(|node| node.index)
    }

    /// Name of a machine.
    pub fn name(&self, index: usize) -> String {
        self.cluster.machines[index].name.clone()
    }

    /// Names of all machines but one.
    pub fn others(&self, index: usize) -> Vec<String> {
        let machines = self.cluster.machines.iter().enumerate();
        machines.filter(|(at, _)| *at != index).map(|(_, m)| m.name.clone()).collect()
    }

    /// Names of all hosts on which clients run.
    pub fn clients(&self) -> Vec<String> {
        workload::HOSTS.iter().map(|host| (*host).to_owned()).collect()
    }

    /// Blocks directions of links, and says how to unblock them.
    pub fn block(&mut self, pairs: Vec<(String, String)>) -> Undo {
        for (from, to) in &pairs {
            self.links.block(self.sim, from, to);
        }
        Box::new(move |field| {
            for (from, to) in &pairs {
                field.links.unblock(field.sim, from, to);
            }
        })
    }

    /// Cuts the power of a machine, often with its links cut first, so that its peers learn nothing; and says how
    /// to start it again.
    pub fn crash(&mut self, index: usize, dice: &mut SmallRng, way: Crash) -> Option<Undo> {
        if self.cluster.machines[index].body().down {
            return None;
        }
        let (name, others) = (self.name(index), self.others(index));
        let quiet = dice.random_range(0..2) == 0;
        let cut = quiet.then(|| self.block(both_ways(&name, &others)));
        match way {
            Crash::Power => self.cluster.power_cut(self.sim, index),
            Crash::Kill => self.cluster.kill(self.sim, index),
            Crash::Wipe => self.cluster.wipe(self.sim, index),
        }
        Some(Box::new(move |field| {
            if let Some(cut) = cut {
                cut(field);
            }
            field.cluster.restart(field.sim, index);
        }))
    }
}

/// How a machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// What was not synced is lost, torn or there.
    Power,
    /// What was written stays.
    Kill,
    /// Everything is lost.
    Wipe,
}

/// How long a fault lasts that is about leases or the length of the log, whatever its dice say.
pub fn lasts(name: &str, ttl: Duration) -> Option<Duration> {
    match name {
        "old_leader" => Some(old_leader::lasts(ttl)),
        "owners_gone" => Some(owners_gone::lasts(ttl)),
        "owners_late" => Some(owners_late::lasts(ttl)),
        "left_behind" => Some(left_behind::LASTS),
        _ => None,
    }
}

/// Both directions of the links between one machine and some others.
fn both_ways(one: &str, others: &[String]) -> Vec<(String, String)> {
    let pairs = |other: &String| [(one.to_owned(), other.clone()), (other.clone(), one.to_owned())];
    others.iter().flat_map(pairs).collect()
}
