//! The checker of the instance that can die reaches none of its targets, but all of its peers.

use super::{Field, Undo, both_ways};
use crate::workload::probed;
use rand::rngs::SmallRng;
use rollcall_core::name::InstanceName;

/// A checker that sees fewer targets fail at once does not doubt itself, and may be wrong about them.
const DOUBTS: usize = 3;

pub(super) fn begin(field: &mut Field<'_, '_>, _: &mut SmallRng) -> Option<Undo> {
    let nodes = field.cluster.nodes();
    let state = &nodes.first()?.seen.state;
    state.instance(&probed::dying())?;
    let checker = state.checkers().of(&probed::dying())?;
    let service = state.service(&probed::dying().service)?;
    // The one that can die may be known to be dead: it does not count.
    let its_own = |name: &InstanceName| {
        *name != probed::dying() && state.checkers().of(name) == Some(checker)
    };
    if service.instances.values().filter(|record| its_own(&record.name)).count() < DOUBTS {
        return None;
    }
    let victim = nodes.iter().find(|node| node.status.node_id == checker)?;
    let name = field.name(victim.index);
    field.tell(&format!("cut {name} off from its targets"));
    field.points.hit("a checker was cut off from its targets");
    let targets: Vec<_> = probed::TARGETS.iter().map(|host| (*host).to_owned()).collect();
    Some(field.block(both_ways(&name, &targets)))
}
