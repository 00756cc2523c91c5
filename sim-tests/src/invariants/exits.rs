//! A node ends by itself only where its disk failed or was damaged; and no task of anybody panics.

use super::{Invariant, Moment, Violation};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on panics are noted, in whatever task: a task that is spawned would hide its own.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
    }));
}

#[derive(Debug, Default)]
pub(super) struct Exits {
    judged: BTreeSet<(usize, u64)>,
}

impl Invariant for Exits {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for panic in PANICS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            out.push(Violation::new("no task panics", panic));
        }
        for (index, machine) in moment.cluster.machines.iter().enumerate() {
            let body = machine.body();
            let Some(ended) = &body.ended else { continue };
            if !self.judged.insert((index, body.boots)) {
                continue;
            }
            if body.disk.has_failed() || body.damaged {
                let points = &moment.oracle.points;
                points.hit(match ended.refused_to_start && !body.disk.has_failed() {
                    true => "a node refused to start with damaged data",
                    false => "a node stopped itself over a disk fault",
                });
                continue;
            }
            let seen = format!("n{} ended by itself: {}", index + 1, ended.reason);
            out.push(Violation::new("a node ends only over its disk", seen));
        }
    }
}
