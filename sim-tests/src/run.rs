//! One run of one seed: the faults of its plan strike while clients use the cluster, then everything is healed, and the
//! cluster must be well, agree and serve. Every invariant looks every few milliseconds.

use crate::{
    chronicle::Chronicle,
    cluster::{Cluster, NodeNow},
    faults::{Active, Field, TABLE, Undo, When},
    invariants::{self, Invariant, Moment, Violation, exits, well},
    links::Links,
    oracle::Oracle,
    plan::Plan,
    trace::Trace,
    workload::{self, watches::Screens},
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rollcall_core::record::Reason;
use rollcall_registry::raft::Role;
use std::time::Duration;
use turmoil::Sim;

/// Longest way of a message while nothing is wrong.
pub const LATENCY_MAX: Duration = Duration::from_millis(5);
/// After the faults, everything must be well again within this.
const HEALING: Duration = Duration::from_secs(60);
/// Who supervises a node that ended starts it again after this.
const SUPERVISED: Duration = Duration::from_millis(500);
/// So often the invariants look.
const LOOK: Duration = Duration::from_millis(10);
/// It is calm again so long after the last fault: connections are open again, deadlines of old calls have passed.
const SETTLE: Duration = Duration::from_secs(4);
/// When all clients are gone, what they left on the nodes must be gone within this.
const CLEARING: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Revision that all nodes reached.
    pub revision: u64,
    /// Hash of the state at that revision.
    pub hash: u128,
    /// Simulated time that it took.
    pub simulated: Duration,
    /// Writes that clients began.
    pub writes: usize,
    /// Rare states that were reached, as of [`crate::points::Points::line`].
    pub points: String,
}

/// A run under way.
struct Run<'p, 's> {
    plan: &'p Plan,
    trace: &'p Trace,
    sim: Sim<'s>,
    cluster: Cluster,
    links: Links,
    oracle: Oracle,
    screens: Screens,
    chronicle: Chronicle,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<Violation>,
    /// Faults at work, and when they end.
    active: Vec<Active>,
    /// Machines that ended by themselves, and when they are started again.
    ended: Vec<(Duration, usize)>,
    looked: Duration,
    disturbed: Duration,
    calm: Duration,
    /// Who leads, and in which term: one that leads again begins a new reign.
    leader: Option<(u64, u64)>,
    leader_changes: u32,
    leader_changed: Duration,
}

/// Runs a plan.
///
/// # Errors
/// When the simulation itself fails, which is a fault of its own code.
pub fn run(plan: &Plan, trace: &Trace) -> Result<Report, Box<dyn std::error::Error>> {
    exits::note_panics();
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .simulation_duration(plan.length + HEALING + CLEARING * 2)
        .tick_duration(plan.tick)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY_MAX)
        .tcp_capacity(65_536)
        .udp_capacity(65_536)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .build();
    let (cluster, oracle) = (Cluster::start(&mut sim, plan), Oracle::default());
    trace.when_seen("receive a snapshot", "a follower installed a snapshot", &oracle.points);
    let let_go = "a registration was let go of with unknown outcome";
    trace.when_seen("let go, may be listed even so", let_go, &oracle.points);
    let screens = workload::start(&mut sim, &cluster, plan, &oracle);
    trace.line("sim", &plan.sketch());
    let mut run = Run {
        plan,
        trace,
        sim,
        cluster,
        links: Links::default(),
        oracle,
        screens,
        chronicle: Chronicle::default(),
        invariants: invariants::all(),
        violations: Vec::new(),
        active: Vec::new(),
        ended: Vec::new(),
        looked: Duration::ZERO,
        disturbed: Duration::ZERO,
        calm: Duration::ZERO,
        leader: None,
        leader_changes: 0,
        leader_changed: Duration::ZERO,
    };
    run.safety()?;
    run.liveness()?;
    run.clearing()?;
    Ok(run.report())
}

impl<'s> Run<'_, 's> {
    /// The phase with faults.
    fn safety(&mut self) -> turmoil::Result {
        let mut strikes = self.plan.strikes.iter().copied().peekable();
        while self.sim.elapsed() < self.plan.length && self.violations.is_empty() {
            self.step()?;
            let now = self.sim.elapsed();
            while let Some(at) = self.first_over(now) {
                let Active { name, undo, .. } = self.active.remove(at);
                if let Some((lasts, undo)) = self.undo(undo) {
                    self.active.push(Active { name, until: now + lasts, when: None, undo });
                } else {
                    self.trace.line("sim", &format!("{name} is over"));
                }
                self.disturbed = now;
            }
            while let Some(strike) = strikes.next_if(|strike| strike.at <= now) {
                let kind = &TABLE[strike.kind];
                let mut dice = SmallRng::seed_from_u64(strike.seed);
                let mut field = self.field();
                field.worst = strike.worst;
                let undo = (kind.begin)(&mut field, &mut dice);
                let (name, until, when) = (kind.name, now + strike.lasts, field.until);
                if let Some(undo) = undo {
                    self.active.push(Active { name, until, when, undo });
                }
                self.disturbed = now;
            }
        }
        Ok(())
    }

    /// Ends a fault; returns how it goes on, if it does.
    fn undo(&mut self, undo: Undo) -> Option<(Duration, Undo)> {
        let mut field = self.field();
        undo(&mut field);
        field.then
    }

    /// A fault that is over now.
    fn first_over(&self, now: Duration) -> Option<usize> {
        let early = |when: &When| when(&self.cluster, now);
        self.active.iter().position(|it| it.until <= now || it.when.as_ref().is_some_and(early))
    }

    /// Everything is healed; then all must be well in time.
    fn liveness(&mut self) -> turmoil::Result {
        self.trace.line("sim", "heal everything");
        for Active { undo, .. } in std::mem::take(&mut self.active) {
            let mut next = Some(undo);
            while let Some(undo) = next {
                next = self.undo(undo).map(|(_, undo)| undo);
            }
        }
        for machine in &self.cluster.machines {
            machine.body().disk.disarm();
        }
        self.disturbed = self.sim.elapsed();
        let end = self.sim.elapsed() + HEALING;
        while self.violations.is_empty() {
            self.step()?;
            if self.looked != self.sim.elapsed() {
                continue;
            }
            self.replace_suspects();
            let nodes = self.cluster.nodes();
            let ails = well::ails(&self.moment(&nodes), &self.screens);
            if ails.is_empty() {
                break;
            }
            if self.sim.elapsed() > end {
                let seen = format!("after {HEALING:?}: {}", ails.join("; "));
                self.violations.push(Violation::new("all is well after healing", seen));
            }
        }
        Ok(())
    }

    /// The history is complete: last looks; then all clients go, and what they left must go with them.
    fn clearing(&mut self) -> turmoil::Result {
        if !self.violations.is_empty() {
            return Ok(());
        }
        self.count_points();
        let (nodes, mut found) = (self.cluster.nodes(), Vec::new());
        let mut invariants = std::mem::take(&mut self.invariants);
        for invariant in &mut invariants {
            invariant.end(&self.moment(&nodes), &mut found);
        }
        self.violations.append(&mut found);
        self.look_for_what_must_be();
        for host in workload::HOSTS {
            self.sim.crash(*host);
        }
        let end = self.sim.elapsed() + CLEARING;
        while self.sim.elapsed() < end {
            self.sim.step()?;
        }
        for machine in &self.cluster.machines {
            let Some(api) = machine.api() else { continue };
            let left = [api.hub().len(), api.tails(), api.heartbeat_streams()];
            if left != [0, 0, 0] {
                let seen =
                    format!("{} still counts watches, tails, heartbeats {left:?}", machine.name);
                self.violations.push(Violation::new("nothing stays of clients that left", seen));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> turmoil::Result {
        self.sim.step()?;
        self.trace.set_now(self.sim.elapsed());
        self.supervise();
        if self.sim.elapsed() >= self.looked + LOOK {
            self.look();
        }
        Ok(())
    }

    fn field(&mut self) -> Field<'_, 's> {
        Field {
            sim: &mut self.sim,
            cluster: &self.cluster,
            links: &mut self.links,
            trace: self.trace,
            oracle: &self.oracle,
            points: &self.oracle.points,
            worst: false,
            until: None,
            then: None,
        }
    }

    fn moment<'a>(&'a self, nodes: &'a [NodeNow]) -> Moment<'a> {
        Moment {
            now: self.sim.elapsed(),
            calm: self.calm,
            leader_changes: self.leader_changes,
            leader_changed: self.leader_changed,
            plan: self.plan,
            cluster: &self.cluster,
            nodes,
            chronicle: &self.chronicle,
            oracle: &self.oracle,
        }
    }

    fn look(&mut self) {
        let (now, nodes) = (self.sim.elapsed(), self.cluster.nodes());
        let passed = now.saturating_sub(self.looked);
        self.looked = now;
        for node in &nodes {
            self.chronicle.read(now, node, &mut self.violations);
        }
        self.cluster.note_recovered(&nodes, &self.oracle.points);
        if self.follow_leader(now, &nodes) && self.active.is_empty() {
            if now > self.disturbed + SETTLE {
                self.calm += passed;
            }
        } else {
            self.disturbed = now;
        }
        let mut found = Vec::new();
        let mut invariants = std::mem::take(&mut self.invariants);
        for invariant in &mut invariants {
            invariant.look(&self.moment(&nodes), &mut found);
        }
        self.invariants = invariants;
        self.violations.append(&mut found);
        for (invariant, seen) in self.oracle.ledger().complaints.drain(..) {
            self.violations.push(Violation::new(invariant, seen));
        }
    }

    /// Counts reigns. Returns whether all nodes are up and follow one.
    fn follow_leader(&mut self, now: Duration, nodes: &[NodeNow]) -> bool {
        let leads = nodes.iter().filter(|node| node.status.role == Role::Leader);
        let leader = leads.max_by_key(|node| node.status.term);
        let leader = leader.map(|node| (node.status.node_id, node.status.term));
        if leader.is_some() && leader != self.leader {
            self.oracle.points.hit("the leader changed");
            if self.leader_changes > 0 && now < self.leader_changed + self.plan.mix.ttl {
                self.oracle.points.hit("the leader changed twice within a lease");
            }
            (self.leader, self.leader_changed) = (leader, now);
            self.leader_changes += 1;
        }
        let id = leader.map(|(id, _)| id);
        nodes.len() == self.cluster.machines.len()
            && id.is_some()
            && nodes.iter().all(|node| node.status.leader == id && !node.status.changing)
    }

    /// Starts machines again whose nodes ended by themselves; one that refuses its data is wiped first, as the message
    /// tells operators to do.
    fn supervise(&mut self) {
        let now = self.sim.elapsed();
        for index in 0..self.cluster.machines.len() {
            let has_ended = self.cluster.machines[index].body().ended.is_some();
            if has_ended && !self.ended.iter().any(|(_, known)| *known == index) {
                self.ended.push((now + SUPERVISED, index));
            }
        }
        while let Some(at) = self.ended.iter().position(|(due, _)| *due <= now) {
            let (_, index) = self.ended.remove(at);
            let ended = self.cluster.machines[index].body().ended.clone();
            // A fault has taken the machine down meanwhile: it will start it.
            let Some(ended) = ended else { continue };
            let damaged = self.cluster.machines[index].body().damaged;
            let refused =
                ended.refused_to_start && !self.cluster.machines[index].body().disk.has_failed();
            self.trace.line("sim", &format!("start n{} again", index + 1));
            if damaged && refused {
                self.cluster.wipe(&mut self.sim, index);
            } else {
                self.cluster.power_cut(&mut self.sim, index);
            }
            self.cluster.restart(&mut self.sim, index);
            self.disturbed = now;
        }
    }

    /// A disk with flipped bits that nobody has met is not kept.
    fn replace_suspects(&mut self) {
        for index in 0..self.cluster.machines.len() {
            let body = self.cluster.machines[index].body();
            let suspect = body.damaged && body.replaces.is_none() && body.api.is_some();
            drop(body);
            if suspect {
                self.trace.line("sim", &format!("replace n{}", index + 1));
                self.cluster.wipe(&mut self.sim, index);
                self.cluster.restart(&mut self.sim, index);
            }
        }
    }

    /// A scenario that does not come to what it is about shows nothing.
    fn look_for_what_must_be(&mut self) {
        for (point, least) in self.plan.must {
            let count = self.oracle.points.count(point);
            if count < *least {
                let seen = format!("{point}: {count} times, at least {least} are asked for");
                self.violations.push(Violation::new("the faults come to what they are for", seen));
            }
        }
    }

    fn count_points(&self) {
        let reasons = [
            (Reason::LeaseExpired, "a lease expired"),
            (Reason::Restored, "a lease was restored"),
            (Reason::Evicted, "an instance was evicted"),
            (Reason::TakenOver, "an instance was taken over"),
            (Reason::Deregistered, "an instance was deregistered"),
        ];
        for (reason, point) in reasons {
            for _ in 0..self.chronicle.count(reason) {
                self.oracle.points.hit(point);
            }
        }
    }

    fn report(self) -> Report {
        let nodes = self.cluster.nodes();
        let state = nodes.first().map(|node| &node.seen.state);
        Report {
            revision: state.map_or(0, |state| state.revision()),
            hash: state.map_or(0, |state| state.hash()),
            simulated: self.sim.elapsed(),
            writes: self.oracle.ledger().writes.len(),
            points: self.oracle.points.line(),
            violations: self.violations,
        }
    }
}
