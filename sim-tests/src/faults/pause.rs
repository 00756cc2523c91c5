//! One machine stands still: its links are held, its monotonic clock shows the time again when it goes on. Its tasks
//! run meanwhile, unheard; a real SIGSTOP belongs to the tests with real processes.

use super::{Field, Undo};
use rand::rngs::SmallRng;

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    let clock = field.cluster.machines[victim].body().clock.clone()?;
    let name = field.name(victim);
    let mut others = field.others(victim);
    others.extend(field.clients());
    field.tell(&format!("pause {name}"));
    if field.leader() == Some(victim) {
        field.points.hit("the leader was paused");
    }
    for other in &others {
        field.links.hold(field.sim, &name, other);
    }
    let since = field.now();
    clock.freeze(since);
    Some(Box::new(move |field| {
        let now = field.now();
        let rate = field.cluster.machines[victim].body().rate;
        clock.thaw(now, rate, now.saturating_sub(since));
        field.oracle.ledger().resumed.insert(victim, now);
        for other in &others {
            field.links.release(field.sim, &name, other);
        }
    }))
}
