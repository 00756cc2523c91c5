//! Everything between two machines, or a machine and the clients, is held back and then delivered at once: late
//! answers, late beats, late acknowledgements of earlier terms.

use super::{Field, Undo};
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let (name, mut others) = (field.name(victim), field.others(victim));
    if dice.random_range(0..3) == 0 {
        others = field.clients();
    }
    if others.is_empty() {
        return None;
    }
    let other = others.swap_remove(dice.random_range(0..others.len()));
    field.tell(&format!("hold what is between {name} and {other}"));
    field.links.hold(field.sim, &name, &other);
    Some(Box::new(move |field| field.links.release(field.sim, &name, &other)))
}
