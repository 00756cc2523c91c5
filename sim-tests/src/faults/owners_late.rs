//! What an owner sends is held back until a lease of its instances runs out, and arrives while that is being decided: the
//! leader does not hear its peers for that moment, and has decided when it does.

use super::{Field, Undo, When};
use crate::{cluster::Machine, workload};
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

/// The leader hears no peer from so long before the lease runs out.
const BEFORE: Duration = Duration::from_millis(20);
/// After this the leader has found what has run out, and the owner is heard.
const FOUND: Duration = Duration::from_millis(35);
/// For so long: shorter than any election.
const UNDECIDED: Duration = Duration::from_millis(120);

/// The shortest leases have run out until then.
pub(super) fn lasts(ttl: Duration) -> Duration {
    ttl * 2
}

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let number = dice.random_range(0..workload::OWNERS.len());
    let owner = workload::OWNERS[number];
    let nodes: Vec<String> = field.cluster.machines.iter().map(|m| m.name.clone()).collect();
    field.tell(&format!("hold back what {owner} sends"));
    nodes.iter().for_each(|node| field.links.hold(field.sim, owner, node));
    field.until = Some(runs_out(number));
    Some(Box::new(move |field| {
        let peers = hold_peers(field);
        field.then = Some((FOUND, hear(owner, nodes, peers)));
    }))
}

/// The links between the leader and its peers, which are held from now on.
fn hold_peers(field: &mut Field<'_, '_>) -> Vec<(String, String)> {
    let Some(leader) = field.leader() else { return Vec::new() };
    let name = field.name(leader);
    let pairs: Vec<_> = field.others(leader).into_iter().map(|peer| (name.clone(), peer)).collect();
    pairs.iter().for_each(|(one, other)| field.links.hold(field.sim, one, other));
    pairs
}

/// The owner is heard; the peers a moment later.
fn hear(owner: &'static str, nodes: Vec<String>, peers: Vec<(String, String)>) -> Undo {
    Box::new(move |field| {
        nodes.iter().for_each(|node| field.links.release(field.sim, owner, node));
        let decide: Undo = Box::new(move |field| {
            peers.iter().for_each(|(one, other)| field.links.release(field.sim, one, other));
        });
        field.then = Some((UNDECIDED, decide));
    })
}

/// A moment before a lease of that owner runs out, by the clock of the leader.
fn runs_out(owner: usize) -> When {
    let prefix = format!("o{owner}-");
    Box::new(move |cluster, now| {
        cluster.machines.iter().any(|machine| is_running_out(machine, &prefix, now) == Some(true))
    })
}

/// Whether a lease is about to run out on a machine, if that leads.
fn is_running_out(machine: &Machine, prefix: &str, now: Duration) -> Option<bool> {
    let (api, clock) = (machine.api()?, machine.body().clock.clone()?);
    let table = api.leases().table();
    let lease_time = clock.at(now).saturating_sub(table.paused());
    let seen = api.view().seen();
    let records = seen.state.services().values().flat_map(|service| service.instances.values());
    let own = records.filter(|record| record.name.id.as_str().starts_with(prefix));
    let mut leases = own.filter_map(|record| Some((record.generation, record.spec.ttl?)));
    Some(leases.any(|(generation, ttl)| {
        let beat = table.last_beat(generation).map(Duration::from_millis);
        beat.is_some_and(|beat| lease_time + BEFORE >= beat + ttl.duration())
    }))
}
