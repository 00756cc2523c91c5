//! Connections of one machine lose a message and are broken for good; new ones can be opened at once. Its clients' too.

use super::{Field, Undo, both_ways};
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let (name, mut others) = (field.name(victim), field.others(victim));
    if dice.random() {
        others.extend(field.clients());
    }
    field.tell(&format!("break connections of {name}"));
    // What is under way when a link is blocked is lost, and turmoil's TCP sends nothing twice.
    let undo = field.block(both_ways(&name, &others));
    undo(field);
    None
}
