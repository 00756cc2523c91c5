//! An instance dies that only its checks tell of, and lives again later.

use super::{Field, Undo};
use crate::workload::probed;
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, _: &mut SmallRng) -> Option<Undo> {
    let nodes = field.cluster.nodes();
    nodes.first()?.seen.state.instance(&probed::dying())?;
    field.tell("a probed instance dies");
    field.points.hit("a probed instance died");
    field.sim.crash(probed::DYING);
    field.oracle.ledger().died = Some(field.now());
    Some(Box::new(|field| {
        field.tell("it lives again");
        field.sim.bounce(probed::DYING);
        field.oracle.ledger().died = None;
    }))
}
