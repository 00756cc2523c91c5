//! One machine does not hear another (or all others), which hear it. Half the time it is the leader that is deaf.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let (name, mut others) = (field.name(victim), field.others(victim));
    if others.is_empty() {
        return None;
    }
    if dice.random() {
        let one = dice.random_range(0..others.len());
        others = vec![others.swap_remove(one)];
    }
    let deaf: bool = dice.random();
    field.tell(&format!("{name} is {} to {others:?}", if deaf { "deaf" } else { "dumb" }));
    let pair = |other: &String| match deaf {
        true => (other.clone(), name.clone()),
        false => (name.clone(), other.clone()),
    };
    Some(field.block(others.iter().map(pair).collect()))
}
