//! The machines fall apart into two groups of any size; clients reach all of them.

use super::{Field, Undo, both_ways};
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let names: Vec<String> = field.cluster.machines.iter().map(|m| m.name.clone()).collect();
    let (left, right): (Vec<_>, Vec<_>) = names.into_iter().partition(|_| dice.random());
    if left.is_empty() || right.is_empty() {
        return None;
    }
    field.tell(&format!("split {left:?} from {right:?}"));
    Some(field.block(left.iter().flat_map(|one| both_ways(one, &right)).collect()))
}
