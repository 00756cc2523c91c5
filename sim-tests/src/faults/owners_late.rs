//! What an owner sends is held back until a lease of its instances runs out, and arrives while that is being decided: the
//! leader is slow to commit meanwhile.

use super::{Field, Undo, When};
use crate::{cluster::Machine, run::LATENCY_MAX, workload};
use rand::{RngExt, rngs::SmallRng};
use std::time::Duration;

/// Longest way between the leader and its peers.
const SLOW: Duration = Duration::from_millis(200);
/// The leader has found by then what has run out.
const FOUND: Duration = Duration::from_millis(10);

/// The shortest leases have run out until then.
pub(super) fn lasts(ttl: Duration) -> Duration {
    ttl * 2
}

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let leader = field.leader()?;
    let number = dice.random_range(0..workload::OWNERS.len());
    let owner = workload::OWNERS[number];
    let (name, peers) = (field.name(leader), field.others(leader));
    let nodes: Vec<String> = field.cluster.machines.iter().map(|m| m.name.clone()).collect();
    field.tell(&format!("hold back what {owner} sends"));
    nodes.iter().for_each(|node| field.links.hold(field.sim, owner, node));
    peers.iter().for_each(|peer| field.links.slow(field.sim, &name, peer, SLOW));
    field.until = Some(runs_out(number, FOUND + Duration::from_millis(dice.random_range(0..15))));
    Some(Box::new(move |field| {
        nodes.iter().for_each(|node| field.links.release(field.sim, owner, node));
        peers.iter().for_each(|peer| field.links.slow(field.sim, &name, peer, LATENCY_MAX));
    }))
}

/// So much time after a lease of that owner has run out, by the clock of the leader.
fn runs_out(owner: usize, after: Duration) -> When {
    let prefix = format!("o{owner}-");
    Box::new(move |cluster, now| {
        cluster.machines.iter().any(|machine| ran_out(machine, &prefix, now, after).is_some())
    })
}

/// A lease that ran out some time ago on the machine that leads.
fn ran_out(machine: &Machine, prefix: &str, now: Duration, after: Duration) -> Option<u64> {
    let (api, clock) = (machine.api()?, machine.body().clock.clone()?);
    let table = api.leases().table();
    let lease_time = clock.at(now).saturating_sub(table.paused());
    let seen = api.view().seen();
    let records = seen.state.services().values().flat_map(|service| service.instances.values());
    let own = records.filter(|record| record.name.id.as_str().starts_with(prefix));
    let mut leases = own.filter_map(|record| Some((record.generation, record.spec.ttl?)));
    let over = leases.find(|(generation, ttl)| {
        let beat = table.last_beat(*generation).map(Duration::from_millis);
        beat.is_some_and(|beat| lease_time >= beat + ttl.duration() + after)
    });
    over.map(|(generation, _)| generation)
}
