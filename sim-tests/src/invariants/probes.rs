//! Checks: a persistent instance is never removed. And where nothing is wrong but a target that dies or a checker that
//! reaches none of its targets, what lives stays HEALTHY on every node, and what is dead becomes UNHEALTHY in time,
//! although that checker can no longer tell the two apart.

use super::{Invariant, Moment, Violation};
use crate::{faults::TABLE, workload::probed};
use rollcall_core::{name::InstanceName, record::HealthStatus};
use std::{collections::BTreeMap, time::Duration};

/// A dead instance is UNHEALTHY so long after its death: `fall` probes, and the word of another checker.
const SEEN: Duration = Duration::from_secs(8);

#[derive(Debug, Default)]
pub(super) struct Probes {
    /// How many probed instances each life of a node has shown.
    shown: BTreeMap<(usize, u64), usize>,
    /// All were HEALTHY once, with every node as a checker.
    formed: bool,
    /// The death that has not been made good yet.
    died: Option<Duration>,
    /// That death was seen by all nodes.
    seen: bool,
    /// It has been made good since then. For a while the probes that failed meanwhile count.
    lives: Option<Duration>,
}

impl Invariant for Probes {
    fn look(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if moment.plan.mix.probed == 0 {
            return;
        }
        self.look_for_losses(moment, out);
        if !only_targets(moment) {
            return;
        }
        if !self.formed {
            self.formed = ails(moment).is_empty();
            return;
        }
        self.look_at_the_dead(moment, out);
        let living = (0..moment.plan.mix.probed).map(probed::living);
        for name in living.chain(self.died.is_none().then(probed::dying)) {
            let ill = |(_, health): &(usize, Option<HealthStatus>)| !is_healthy(*health);
            if let Some((node, health)) = health(moment, &name).find(ill) {
                let seen = format!("n{}: {name} is {health:?}", node + 1);
                out.push(Violation::new("what lives stays", seen));
                return;
            }
        }
    }

    fn end(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        if moment.plan.mix.probed > 0 && only_targets(moment) && !self.formed {
            let seen = ails(moment).join("; ");
            out.push(Violation::new("checks begin to work", seen));
        }
    }
}

impl Probes {
    fn look_for_losses(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        for node in moment.nodes {
            let service = node.seen.state.service(&probed::dying().service);
            let count = service.map_or(0, |service| service.instances.len());
            let shown = self.shown.entry((node.index, node.boot)).or_default();
            if count < *shown {
                let seen = format!("n{}: {count} are listed, {shown} were", node.index + 1);
                out.push(Violation::new("a persistent instance is never removed", seen));
            }
            *shown = count;
        }
    }

    fn look_at_the_dead(&mut self, moment: &Moment<'_>, out: &mut Vec<Violation>) {
        let died = moment.oracle.ledger().died;
        let all =
            |wanted| health(moment, &probed::dying()).all(|(_, health)| health == Some(wanted));
        match died {
            Some(at) => {
                if self.died != Some(at) {
                    (self.died, self.seen) = (Some(at), false);
                }
                self.lives = None;
                if !self.seen && all(HealthStatus::Unhealthy) {
                    self.seen = true;
                    moment.oracle.points.hit("a death was found by checks in time");
                }
                if !self.seen && moment.now > at + SEEN {
                    let seen = format!("it died at {at:?}, at most {SEEN:?} are allowed");
                    out.push(Violation::new("a dead instance goes", seen));
                }
            }
            None if self.died.is_some() => {
                let since = *self.lives.get_or_insert(moment.now);
                if moment.now > since + SEEN && all(HealthStatus::Healthy) {
                    (self.died, self.lives) = (None, None);
                }
            }
            None => {}
        }
    }
}

/// Nothing can go wrong in this run but targets and the way to them; and there are checkers enough to doubt.
fn only_targets(moment: &Moment<'_>) -> bool {
    let harmless = |kind: &usize| ["target_dies", "targets_cut"].contains(&TABLE[*kind].name);
    moment.plan.voters >= 3 && moment.plan.kinds.iter().all(harmless)
}

fn is_healthy(health: Option<HealthStatus>) -> bool {
    health == Some(HealthStatus::Healthy)
}

/// How each node sees an instance.
fn health(
    moment: &Moment<'_>,
    name: &InstanceName,
) -> impl Iterator<Item = (usize, Option<HealthStatus>)> {
    moment
        .nodes
        .iter()
        .map(|node| (node.index, node.seen.state.instance(name).map(|record| record.health)))
}

/// What is not well yet with the checks; empty when all nodes probe, and all instances are HEALTHY.
pub(super) fn ails(moment: &Moment<'_>) -> Vec<String> {
    let mut ails = Vec::new();
    let count = moment.plan.mix.probed;
    if count == 0 {
        return ails;
    }
    for node in moment.nodes {
        let checkers = node.seen.state.checkers().nodes().len();
        if checkers < moment.cluster.machines.len() {
            ails.push(format!("n{} knows {checkers} checkers", node.index + 1));
        }
    }
    for name in (0..count).map(probed::living).chain([probed::dying()]) {
        let ill = health(moment, &name).find(|(_, health)| !is_healthy(*health));
        if let Some((node, health)) = ill {
            ails.push(format!("n{}: {name} is {health:?}", node + 1));
        }
    }
    ails
}
