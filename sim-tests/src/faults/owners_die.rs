//! An owner process dies with all its instances, without a goodbye, and starts again later: mass death, and a herd
//! that registers anew. Often all owners at once.

use super::{Field, Undo};
use crate::workload;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let mut owners = workload::OWNERS.to_vec();
    if dice.random() && !field.worst {
        owners = vec![owners[dice.random_range(0..owners.len())]];
    }
    owners.retain(|owner| field.sim.is_host_running(*owner));
    field.tell(&format!("{owners:?} die"));
    for owner in &owners {
        field.sim.crash(*owner);
        bury(field, owner);
    }
    Some(Box::new(move |field| {
        for owner in &owners {
            field.sim.bounce(*owner);
        }
    }))
}

/// From now on nobody beats for the instances of this owner.
fn bury(field: &Field<'_, '_>, owner: &str) {
    let number = workload::OWNERS.iter().position(|known| *known == owner).unwrap_or_default();
    let (now, mut ledger) = (field.now(), field.oracle.ledger());
    let prefix = format!("o{number}-");
    let names = ledger.beats.keys().filter(|name| name.id.as_str().starts_with(&prefix));
    let names: Vec<_> = names.cloned().collect();
    for name in names {
        ledger.beats.remove(&name);
        ledger.left.insert(name, now);
    }
}
