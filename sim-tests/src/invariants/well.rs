//! Liveness: after the faults, everything is well again within a bound. One leader, equal members and states, every
//! instance that an owner keeps listed and nothing else of theirs, no protection left, every watch up to date.

use super::{Moment, probes};
use crate::workload::{OWNERS, forsaken::is_forsaken, watches::Screens};
use rollcall_core::{
    State,
    record::{LeaseState, Record},
};
use rollcall_registry::raft::Standing;
use std::sync::Arc;

/// What is not well yet; empty when everything is.
pub fn ails(moment: &Moment<'_>, screens: &Screens) -> Vec<String> {
    let mut ails = nodes(moment);
    let Some(first) = moment.nodes.first() else { return ails };
    let state = &first.seen.state;
    ails.extend(instances(moment, state));
    ails.extend(forsaken(state));
    if !state.protections().is_empty() {
        ails.push(format!("protected: {:?}", state.protections().keys().collect::<Vec<_>>()));
    }
    ails.extend(watches(state, screens));
    ails.extend(probes::ails(moment));
    if !moment.oracle.ledger().served {
        ails.push("no write and confirmed read was answered".to_owned());
    }
    ails
}

fn nodes(moment: &Moment<'_>) -> Vec<String> {
    let mut ails = Vec::new();
    let count = moment.cluster.machines.len();
    if moment.nodes.len() < count {
        ails.push(format!("{} of {count} nodes are up", moment.nodes.len()));
    }
    let Some(first) = moment.nodes.first() else { return ails };
    for node in moment.nodes {
        let name = node.index + 1;
        let (state, other) = (&node.seen.state, &first.seen.state);
        if (state.revision(), state.hash()) != (other.revision(), other.hash()) {
            ails.push(format!(
                "n{name} is at {}, n{} at {}",
                state.revision(),
                first.index + 1,
                other.revision()
            ));
        }
        let leader = node.status.leader;
        if leader.is_none() || leader != first.status.leader {
            ails.push(format!("n{name} follows {leader:x?}"));
        }
        let members = &node.status.members;
        let voters = members.values().filter(|m| m.standing == Standing::Voter).count();
        if node.status.changing || members.len() != count || voters != moment.plan.voters {
            ails.push(format!("n{name} knows {} members, {voters} vote", members.len()));
        }
        if moment.cluster.machines[node.index].body().damaged {
            ails.push(format!("n{name} has not recovered"));
        }
    }
    ails
}

fn is_current(record: &Arc<Record>) -> bool {
    record.lease.is_some_and(|lease| lease.state == LeaseState::Current)
}

fn instances(moment: &Moment<'_>, state: &State) -> Vec<String> {
    let owned = state.services().values().flat_map(|service| service.instances.values());
    let owned: Vec<_> = owned.filter(|record| record.name.id.as_str().starts_with('o')).collect();
    let expected = OWNERS.len() * moment.plan.mix.instances;
    let current = owned.iter().filter(|record| is_current(record)).count();
    if owned.len() == expected && current == expected {
        return Vec::new();
    }
    vec![format!(
        "{} instances of owners, {current} with a lease, {expected} should be",
        owned.len()
    )]
}

/// What nobody renews is gone when all is well: how long that may take is judged by `expiry_bound`.
fn forsaken(state: &State) -> Option<String> {
    let services = state.services().values();
    let left = services.filter(|service| is_forsaken(&service.name));
    let mut records = left.flat_map(|service| service.instances.values());
    records.find(|record| is_current(record)).map(|record| format!("{} has a lease", record.name))
}

fn watches(state: &State, screens: &Screens) -> Vec<String> {
    let mut ails = Vec::new();
    for (watch, picture) in screens.now() {
        for (name, service) in &picture.services {
            let held = state.service(name);
            let routable_only = watch % 3 == 2;
            let expected: Vec<_> = held
                .iter()
                .flat_map(|service| service.instances.values())
                .filter(|record| !routable_only || record.routable())
                .map(|record| (record.name.id.as_str(), record.revision))
                .collect();
            let shown: Vec<_> = service
                .instances
                .values()
                .map(|instance| (instance.instance_id.as_str(), instance.revision))
                .collect();
            if shown != expected {
                ails.push(format!("watch {watch} shows {name} as {shown:?}, it is {expected:?}"));
            }
        }
        if !picture.connected || !picture.complete {
            ails.push(format!("watch {watch} is not connected"));
        }
        if watch.is_multiple_of(3) {
            // A service that lost its instances and has no policy is kept for a while, and shown to nobody.
            let mut held = state.services().values().filter(|held| !held.instances.is_empty());
            let missing = held.find(|held| !picture.services.contains_key(&held.name));
            let missing = missing.map(|held| &held.name);
            if let Some(name) = missing {
                ails.push(format!("watch {watch} does not show {name}"));
            }
        }
    }
    ails
}
