//! Health: what verdicts, self-reports and the end of a lease make of an instance.
//!
//! Precedence: lease, then the worst critical check, then advisory checks and the instance's own word, which can only
//! degrade. The admin state stands beside it and is not touched here.

use super::{Change, State};
use crate::{
    check::{Check, Opinion, Verdict},
    checkers::Checkers,
    command::{
        Done, Finding, Rejection, ReportHealth, ReportSelf, Reported, SelfReport, SetCheckers,
        Source,
    },
    instance::{Spec, limit},
    name::ServiceName,
    policy::Policy,
    record::{Actor, AdminState, HealthStatus, Lease, LeaseState, Reason, Record, Subject},
    signals::{Heard, Signals, Standing},
};
use std::sync::Arc;

impl State {
    /// The checks that apply to an instance: its own, or those of the policy of its service as far as it has the
    /// endpoint.
    pub fn checks<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Check> {
        self.checks_for(&record.name.service, &record.spec)
    }

    /// Revision of the declaration that a verdict rests on: it changes when the instance is registered anew or when
    /// the checks of its service change.
    pub fn basis(&self, record: &Record) -> u64 {
        let by_policy = record.spec.checks.is_empty();
        let service = self.service(&record.name.service).filter(|_| by_policy);
        record.signals.basis().max(service.map_or(0, |service| service.checks_since))
    }

    /// The nodes that probe.
    pub fn checkers(&self) -> &Checkers {
        &self.checkers
    }

    /// Whether the critical checks of an instance say that it is dead: it has some, and none passes.
    pub fn is_dead_by_checks(&self, record: &Record) -> bool {
        self.alive_by_checks(record) == Some(false)
    }

    /// Whether any critical check passes; `None` = there is none.
    fn alive_by_checks(&self, record: &Record) -> Option<bool> {
        let critical = self.checks(record).filter(|check| !check.advisory);
        critical.map(|check| record.signals.passes(&check.id)).reduce(|any, one| any || one)
    }

    fn checks_for<'a>(
        &'a self,
        service: &ServiceName,
        spec: &'a Spec,
    ) -> impl Iterator<Item = &'a Check> {
        let policy = || self.service(service)?.policy.as_ref().map(|policy| &policy.checks);
        let checks = if spec.checks.is_empty() { policy() } else { Some(&spec.checks) };
        let checks = checks.map_or(&[][..], |checks| checks);
        checks.iter().filter(|check| check.address(spec).is_some())
    }

    // === What registering does ===

    /// The signals with which a registration begins, which is about to make the next revision. What a check came to
    /// stays where the check and its endpoint are the same; a check that failed gets a new chance with `fresh`, which
    /// is a new process or one that was taken for dead.
    pub(super) fn signals_at_registration(
        &self,
        old: Option<&Record>,
        new: &Record,
        fresh: bool,
    ) -> Signals {
        let mut standings = Vec::new();
        let mut anew = old.is_none();
        for check in self.checks(new) {
            let same = old.filter(|old| {
                let before = self.checks(old).find(|before| before.id == check.id);
                before == Some(check) && check.address(&old.spec) == check.address(&new.spec)
            });
            let opinion = match same {
                Some(old) => match old.signals.standing(&check.id) {
                    // Set by a policy later, and nobody has found fault with it. It is noted, so that a verdict from
                    // before this registration is known as such.
                    None => Some(Opinion::PASSING),
                    Some(kept) if fresh && kept.opinion.verdict == Verdict::Failing => None,
                    Some(kept) => Some(kept.opinion),
                },
                None => None,
            };
            anew |= opinion.is_none();
            let opinion = opinion.unwrap_or(Opinion::STARTING);
            standings.push(Standing { check: check.id.clone(), opinion });
        }
        let heard = old.and_then(|old| old.signals.heard());
        let since_ms = heard.filter(|_| !anew).map_or(self.cluster_ms, |heard| heard.since_ms);
        let same_owner = heard.filter(|_| old.is_some_and(|old| old.generation == new.generation));
        Signals::of(Heard {
            basis: self.revision + 1,
            since_ms,
            standings,
            self_report: same_owner.and_then(|heard| heard.self_report.clone()),
            lost_ms: None,
            unhealthy_since: heard.and_then(|heard| heard.unhealthy_since),
        })
    }

    // === What the commands do ===

    pub(super) fn report_health(&mut self, report: &ReportHealth) -> Result<Done, Rejection> {
        check_count(report.items.len())?;
        if let Source::Checker { epoch, .. } = report.source
            && epoch != self.checkers.epoch()
        {
            return Err(Rejection::CheckersChanged { epoch, current: self.checkers.epoch() });
        }
        let done = report.items.iter().map(|item| self.report_one(item, report));
        Ok(Done::Reported(done.collect()))
    }

    fn report_one(&mut self, item: &Finding, report: &ReportHealth) -> Reported {
        let Some(record) = self.by_generation(item.generation).cloned() else {
            return Reported::Superseded;
        };
        let mut opinion = item.opinion;
        let is_checker = match report.source {
            Source::Checker { node, .. } => self.checkers.of(&record.name) == Some(node),
            Source::Quick => opinion.verdict == Verdict::Failing,
        };
        let known = self.checks(&record).any(|check| check.id == item.check);
        let listed = record.lease.is_none_or(|lease| lease.state != LeaseState::Expired);
        let current = self.basis(&record) == item.basis;
        if !(is_checker && known && listed && current) || opinion.verdict == Verdict::Starting {
            return Reported::Superseded;
        }
        let before = record.signals.opinion(&item.check);
        let fails_still = [before, opinion].iter().all(|it| it.verdict == Verdict::Failing);
        opinion.hasty = match report.source {
            Source::Quick => true,
            // The checker goes on from a hasty verdict until it has found one itself.
            Source::Checker { .. } => opinion.hasty && before.hasty && fails_still,
        };
        let failed_already = report.source == Source::Quick && fails_still;
        if before == opinion || failed_already {
            return Reported::Unchanged;
        }
        let signals = record.signals.with(|heard| {
            // The first fault found with a check that a policy has set since.
            heard.basis = heard.basis.max(item.basis);
            heard.note(&item.check, opinion);
        });
        let reason = reason_of(&before, &opinion, is_running(&record));
        self.hear(&record, signals, reason, &report.actor, item.evidence.clone());
        Reported::Taken
    }

    /// Lets a record have these signals, and draws the conclusion.
    fn hear(
        &mut self,
        record: &Arc<Record>,
        signals: Signals,
        reason: Reason,
        actor: &Actor,
        evidence: Arc<str>,
    ) {
        let mut new = Record { signals, ..Record::clone(record) };
        let mut reason = reason;
        if let Some(lease) = new.lease
            && self.is_dead_by_every_signal(&new)
        {
            new.lease = Some(Lease { state: LeaseState::Expired, ..lease });
            reason = Reason::LeaseExpired;
        }
        self.revise(record, new, reason, actor, evidence);
    }

    /// Whether its lease is over and, of the checks that kept it, none passes any more. Maintenance suspends that: who
    /// expires leases finds out when it ends, of held ones when protection releases them.
    fn is_dead_by_every_signal(&self, record: &Record) -> bool {
        let over = record
            .lease
            .is_some_and(|lease| matches!(lease.state, LeaseState::Lost | LeaseState::Held));
        over && record.admin_state() != AdminState::Maintenance && self.is_dead_by_checks(record)
    }

    pub(super) fn report_self(&mut self, report: &ReportSelf) -> Result<Done, Rejection> {
        check_count(report.items.len() + report.figures.len())?;
        let items = report.items.iter().map(|item| self.report_self_one(item, &report.actor));
        let mut done: Vec<Reported> = items.collect();
        done.extend(report.figures.iter().map(|figure| self.take_figure(*figure)));
        Ok(Done::Reported(done))
    }

    fn report_self_one(&mut self, item: &SelfReport, actor: &Actor) -> Reported {
        let Some(record) = self.by_generation(item.generation).cloned() else {
            return Reported::Superseded;
        };
        let before = record.signals.heard().and_then(|heard| heard.self_report.clone());
        let now = item.degraded.clone().map(super::bounded);
        if before == now {
            return Reported::Unchanged;
        }
        let reason = if now.is_some() { Reason::SelfDegraded } else { Reason::SelfRecovered };
        let evidence = now.clone().unwrap_or_default();
        let signals = record.signals.with(|heard| heard.self_report = now);
        self.hear(&record, signals, reason, actor, evidence);
        Reported::Taken
    }

    pub(super) fn set_checkers(&mut self, set: &SetCheckers) -> Result<Done, Rejection> {
        if set.nodes.len() > limit::CHECKERS {
            let problem =
                format!("{} checkers: 0 to {} are allowed", set.nodes.len(), limit::CHECKERS);
            return Err(Rejection::InvalidBatch { problem: problem.into() });
        }
        let current = self.checkers.epoch();
        let next = Checkers::new(set.epoch, set.nodes.clone());
        if next == *self.checkers {
            // It was proposed twice.
            return Ok(Done::Applied);
        }
        if set.epoch != current.saturating_add(1) {
            return Err(Rejection::CheckersChanged { epoch: set.epoch, current });
        }
        self.checkers = Arc::new(next);
        Ok(Done::Applied)
    }

    /// The checks of a service are others now: what those came to that are gone, or test something else, is forgotten,
    /// instance by instance. One that is only asked at another pace, or counts more or less, keeps its verdict.
    pub(super) fn follow_checks(
        &mut self,
        service: &ServiceName,
        before: Option<&Policy>,
        actor: &Actor,
    ) {
        let Some(now) = self.service(service).cloned() else { return };
        let checks = |policy: Option<&Policy>| policy.map(|policy| policy.checks.clone());
        let before = checks(before).unwrap_or_default();
        let after = checks(now.policy.as_deref()).unwrap_or_default();
        for record in now.instances.values() {
            let Some(heard) = record.signals.heard() else { continue };
            if !record.spec.checks.is_empty() {
                continue;
            }
            let stays = |standing: &&Standing| {
                let of = |check: &&Check| check.id == standing.check;
                let (before, after) = (before.iter().find(of), after.iter().find(of));
                before.zip(after).is_some_and(|(before, after)| {
                    // One that could only degrade, and waits for its first success, takes nobody out of service now.
                    let waits = standing.opinion.verdict == Verdict::Starting;
                    after.tests_as(before) && !(waits && before.advisory && !after.advisory)
                })
            };
            let kept: Vec<Standing> = heard.standings.iter().filter(stays).cloned().collect();
            let signals = match kept.len() < heard.standings.len() {
                true => record.signals.with(|heard| heard.standings = kept),
                false => record.signals.clone(),
            };
            if signals != record.signals || self.is_judged_otherwise(record) {
                let evidence = "the policy of the service names other checks";
                self.hear(record, signals, Reason::ChecksChanged, actor, evidence.into());
            }
        }
    }

    // === How a conclusion is drawn ===

    /// Puts `new` in place of `record`, with the health that follows from its lease and its signals, and one event.
    pub(super) fn revise(
        &mut self,
        record: &Arc<Record>,
        mut new: Record,
        reason: Reason,
        actor: &Actor,
        evidence: Arc<str>,
    ) {
        self.judge(&mut new, reason);
        let event = self.event(Change {
            subject: Subject::Instance(record.name.clone()),
            generation: record.generation,
            from: Some(record.status()),
            to: Some(new.status()),
            reason,
            actor,
            evidence,
        });
        if record.status() != new.status() {
            new.status_ms = self.wall_ms;
        }
        new.revision = event.revision;
        new.history = record.history.and(event);
        self.put(Some(record), Some(new));
    }

    /// Sets the health that follows from lease and signals. `reason` is why it is looked at.
    pub(super) fn judge(&self, record: &mut Record, reason: Reason) {
        let (health, why) = self.assess(record);
        match why {
            Some(why) => record.reason = why,
            None if record.health != health => record.reason = reason,
            None => {}
        }
        record.health = health;
        let is_unhealthy = health == HealthStatus::Unhealthy;
        let is_lost = record.lease.is_some_and(|lease| lease.state == LeaseState::Lost);
        let heard = record.signals.heard();
        let was_unhealthy = heard.is_some_and(|heard| heard.unhealthy_since.is_some());
        let was_lost = heard.is_some_and(|heard| heard.lost_ms.is_some());
        if was_unhealthy != is_unhealthy || was_lost != is_lost {
            record.signals = record.signals.with(|heard| {
                let (revision, now) = (self.revision + 1, self.cluster_ms);
                heard.unhealthy_since =
                    is_unhealthy.then(|| heard.unhealthy_since.unwrap_or(revision));
                heard.lost_ms = is_lost.then(|| heard.lost_ms.unwrap_or(now));
            });
        }
    }

    /// Whether what follows from a record, as its checks are now, is not what it says.
    fn is_judged_otherwise(&self, record: &Record) -> bool {
        let (health, why) = self.assess(record);
        health != record.health
            || why.is_some_and(|why| why != record.reason)
            || self.is_dead_by_every_signal(record)
    }

    /// Health by the order of precedence, and what is to blame.
    fn assess(&self, record: &Record) -> (HealthStatus, Option<Reason>) {
        let lost = match record.lease.map(|lease| lease.state) {
            Some(LeaseState::Expired) => {
                return (HealthStatus::Expired, Some(Reason::LeaseExpired));
            }
            Some(LeaseState::Lost | LeaseState::Held) => true,
            Some(LeaseState::Current) | None => false,
        };
        let mut worst = Worst::default();
        for check in self.checks(record) {
            let opinion = record.signals.opinion(&check.id);
            match (opinion.verdict, check.advisory) {
                (Verdict::Failing, false) if opinion.hasty => worst.broken = true,
                (Verdict::Failing, false) => worst.failing = true,
                (Verdict::Starting, false) => worst.starting = true,
                (Verdict::Failing, true) => worst.advisory = true,
                (Verdict::Passing, _) | (Verdict::Starting, true) => {}
            }
        }
        let self_report = record.signals.heard().is_some_and(|heard| heard.self_report.is_some());
        if worst.failing {
            (HealthStatus::Unhealthy, Some(Reason::CheckFailed))
        } else if worst.broken {
            let why = if lost { Reason::CheckFailed } else { Reason::StreamBroken };
            (HealthStatus::Unhealthy, Some(why))
        } else if worst.starting {
            (HealthStatus::Starting, None)
        } else if lost {
            (HealthStatus::Degraded, Some(Reason::HeartbeatLost))
        } else if worst.advisory {
            (HealthStatus::Degraded, Some(Reason::CheckFailed))
        } else if self_report {
            (HealthStatus::Degraded, Some(Reason::SelfDegraded))
        } else {
            (HealthStatus::Healthy, None)
        }
    }

    // === What the end of a lease does ===

    /// What a lease that runs out becomes: without critical checks the gate of protection decides, with them they do.
    pub(super) fn end_of_lease(&self, record: &Record) -> LeaseState {
        match self.alive_by_checks(record) {
            Some(true) => LeaseState::Lost,
            Some(false) => LeaseState::Expired,
            None if self.is_protected(&record.name.service) => LeaseState::Held,
            None => LeaseState::Expired,
        }
    }
}

/// The worst that the checks of an instance say.
#[derive(Debug, Default)]
struct Worst {
    failing: bool,
    broken: bool,
    starting: bool,
    advisory: bool,
}

/// Why a check is thought of in another way.
fn reason_of(before: &Opinion, now: &Opinion, is_running: bool) -> Reason {
    let same = now.verdict == before.verdict && now.flapping != before.flapping;
    match now.verdict {
        _ if same && now.flapping => Reason::CheckFlaps,
        _ if same => Reason::CheckSteady,
        Verdict::Failing if now.hasty && is_running => Reason::StreamBroken,
        Verdict::Failing | Verdict::Starting => Reason::CheckFailed,
        Verdict::Passing => Reason::CheckPassed,
    }
}

fn is_running(record: &Record) -> bool {
    record.lease.is_some_and(|lease| lease.state == LeaseState::Current)
}

fn check_count(count: usize) -> Result<(), Rejection> {
    if count == 0 || count > limit::FINDINGS {
        let problem = format!("a batch of {count}: 1 to {} are allowed", limit::FINDINGS);
        return Err(Rejection::InvalidBatch { problem: problem.into() });
    }
    Ok(())
}
