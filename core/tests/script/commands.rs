//! What each command of a script does, and how what comes out is told.

use crate::words::{Words, duration, name, service};
use rollcall_core::{
    Command, Outcome, Stamped, State,
    check::{Opinion, Verdict},
    command::{
        DeleteServicePolicy, Deregister, Deregistration, Done, EvictInstances, Eviction,
        ExpireLeases, Expired, Expiry, Figure, Finding, LeaseCheckpoint, ProtectionChange,
        PutServicePolicy, Register, Registration, ReportHealth, ReportSelf, Reported, SelfReport,
        SetAdminState, SetCheckers, SetProtection, Source,
    },
    name::{InstanceName, Label},
    policy::Policy,
    record::{AdminState, Event, LeaseState, Reason, Record, Scope, Subject},
    signals::Utilization,
    state::{Loader, Retired},
};
use std::{fmt::Write as _, sync::Arc};

/// Events that the journal of a script keeps, so that its end can be shown.
const JOURNAL: usize = 20;

/// The state that a script plays on.
pub(crate) struct Stage {
    state: State,
    wall_ms: u64,
    hash: u128,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { state: State::new(JOURNAL), wall_ms: 0, hash: 0 }
    }

    /// What comes out of one command line; it ends with a line break.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = Words::of(rest);
        let out = match command {
            "register" => return self.register(rest),
            "fill" => self.fill(&mut words),
            "deregister" => return self.deregister(rest),
            "drain" => self.admin(&mut words, AdminState::Draining),
            "maintenance" => self.admin(&mut words, AdminState::Maintenance),
            "enable" => self.admin(&mut words, AdminState::Enabled),
            "expire" => return self.expire(rest),
            "evict" => self.evict(&mut words),
            "checkers" => self.checkers(&mut words),
            "verdict" => self.verdict(&mut words),
            "says" => self.says(&mut words),
            "missed" => self.checkpoint(&mut words, true),
            "cleared" => self.checkpoint(&mut words, false),
            "protect" => self.protect(&mut words),
            "release" => self.unprotect(&mut words, Reason::ProtectionReleased, "operator:ann"),
            "recover" => self.unprotect(&mut words, Reason::ProtectionEnded, "registry:n1"),
            "policy" => self.policy(&mut words),
            "advance" => {
                let advance = duration(words.take());
                self.send_after(millis(advance), Command::AdvanceTime)
            }
            "clock" => {
                self.wall_ms += millis(duration(words.take()));
                String::new()
            }
            "snapshot" => self.snapshot(),
            "new-epoch" => {
                self.state.begin_epoch();
                format!("epoch {}, revision {}\n", self.state.epoch(), self.state.revision())
            }
            _ => self.ask(command, &mut words),
        };
        words.end();
        out
    }

    /// Commands that only look.
    fn ask(&mut self, command: &str, words: &mut Words<'_>) -> String {
        match command {
            "show" => self.show(words.take()),
            "events" => self.events(&name(words.take())),
            "beat" => self.beat(words.take()),
            "revision" => match words.flag("of") {
                true => format!("{}\n", self.state.service_revision(&service(words.take()))),
                false => format!("{}\n", self.state.revision()),
            },
            "journal" => self.journal(words.number("after")),
            "leases" => {
                let leases = self.state.lease_counts();
                let (current, held, expired) = (leases.current, leases.held, leases.expired);
                let lost = match leases.lost {
                    0 => String::new(),
                    lost => format!(", kept by checks {lost}"),
                };
                let released = self.state.released().len();
                format!(
                    "current {current}, held {held} (released {released}), expired {expired}{lost}\n"
                )
            }
            "remembered" => {
                let (requests, age) = self.state.request_window();
                format!("{requests} requests, the oldest is {age} ms old\n")
            }
            "services" => {
                let known = self.state.services().len();
                format!("{} in use, {known} known\n", self.state.service_count())
            }
            "hash" => {
                let before = std::mem::replace(&mut self.hash, self.state.hash());
                if before == self.hash { "as before\n".into() } else { "changed\n".into() }
            }
            _ => panic!("`{command}`: no such command"),
        }
    }

    // === Commands that change ===

    /// `register NAME [nonce=N] [held=G] [expect=R] [SPEC], NAME .. [request=R] [by=A] [no-address-limit]`
    fn register(&mut self, rest: &str) -> String {
        let mut items = Vec::new();
        let (mut request_id, mut actor, mut address_limit) = (None, None, true);
        for item in rest.split(", ") {
            let mut words = Words::of(item);
            request_id = words.request_id().or(request_id);
            actor = actor.or_else(|| Some(words.actor("owner")));
            address_limit &= !words.flag("no-address-limit");
            let spec = Arc::new(words.spec());
            items.push(Registration {
                name: name(words.take()),
                spec,
                nonce: words.number("nonce").unwrap_or(1),
                held_generation: words.number("held").unwrap_or(0),
                expected_revision: words.number("expect"),
            });
            words.end();
        }
        let actor = actor.unwrap();
        self.send(Command::Register(Register { items, actor, request_id, address_limit }))
    }

    /// `fill SERVICE COUNT ip=10.0.0.1`: so many instances at one address, told in one line.
    fn fill(&mut self, words: &mut Words<'_>) -> String {
        let (service, count) = (words.take(), words.take().parse().unwrap());
        let ip = words.value("ip").unwrap_or("10.0.0.1");
        let item = |i: u32| format!("{service}/{i} at={ip}:{}", 1000 + i % 50_000);
        let items: Vec<String> = (0..count).map(item).collect();
        let out = match items.len() {
            0 => self.send(Command::Register(Register {
                items: vec![],
                actor: words.actor("owner"),
                request_id: None,
                address_limit: true,
            })),
            _ => self.register(&items.join(", ")),
        };
        if out.starts_with("refused") { out } else { format!("{count} registered\n") }
    }

    /// `deregister NAME [generation=G] [expect=R] [missing-ok], NAME .. [request=R] [by=A]`
    fn deregister(&mut self, rest: &str) -> String {
        let mut items = Vec::new();
        let (mut request_id, mut actor) = (None, None);
        for item in rest.split(", ") {
            let mut words = Words::of(item);
            request_id = words.request_id().or(request_id);
            actor = actor.or_else(|| words.value("by").map(|by| by.to_owned()));
            items.push(Deregistration {
                name: name(words.take()),
                generation: words.number("generation").unwrap_or(0),
                allow_missing: words.flag("missing-ok"),
                expected_revision: words.number("expect"),
            });
            words.end();
        }
        let by = format!("by={}", actor.unwrap_or_else(|| "owner".into()));
        let actor = Words::of(&by).actor("owner");
        let evidence = "".into();
        self.send(Command::Deregister(Deregister { items, actor, request_id, evidence }))
    }

    /// `drain|maintenance|enable NAME [by=A] [for=10m] [reason=R] [generation=G] [expect=R] [request=R]`
    fn admin(&mut self, words: &mut Words<'_>, state: AdminState) -> String {
        let set = SetAdminState {
            name: name(words.take()),
            generation: words.number("generation").unwrap_or(0),
            state,
            actor: words.actor("owner"),
            reason: words.value("reason").unwrap_or_default().into(),
            expire_after: words.duration("for"),
            request_id: words.request_id(),
            expected_revision: words.number("expect"),
        };
        self.send(Command::SetAdminState(set))
    }

    /// `expire NAME|GENERATION [epoch=E] [overdue], ..`: the lease that the leader saw run out; by name: the one that
    /// stands; `overdue`: its checks have had their time.
    fn expire(&mut self, rest: &str) -> String {
        let mut items = Vec::new();
        for item in rest.split(", ") {
            let mut words = Words::of(item);
            let (generation, lease_epoch) = self.lease(&mut words);
            let overdue = words.flag("overdue");
            items.push(Expiry { generation, lease_epoch, overdue, evidence: "no beat".into() });
            words.end();
        }
        let actor = Words::of("").actor("registry:n1");
        self.send(Command::ExpireLeases(ExpireLeases { items, actor }))
    }

    /// `evict NAME|GENERATION [epoch=E] [unhealthy=REVISION]`
    fn evict(&mut self, words: &mut Words<'_>) -> String {
        let (generation, lease_epoch) = self.lease(words);
        let unhealthy_since = words.number("unhealthy");
        let evidence = "".into();
        let items = vec![Eviction { generation, lease_epoch, unhealthy_since, evidence }];
        let actor = words.actor("registry:n1");
        self.send(Command::EvictInstances(EvictInstances { items, actor }))
    }

    /// `checkers 1+2 [epoch=E]`: the nodes that probe, as the successors of those that stand.
    fn checkers(&mut self, words: &mut Words<'_>) -> String {
        let nodes = words.take().split('+').map(|node| node.parse().unwrap()).collect();
        let epoch = words.number("epoch").unwrap_or_else(|| self.state.checkers().epoch() + 1);
        let actor = words.actor("registry:n1");
        self.send(Command::SetCheckers(SetCheckers { epoch, nodes, actor }))
    }

    /// `verdict NAME|GENERATION CHECK passes|fails|starts [flapping] [hasty|quick] [node=N] [epoch=E] [basis=R]`
    fn verdict(&mut self, words: &mut Words<'_>) -> String {
        let which = words.take();
        let record = match which.parse() {
            Ok(generation) => self.state.by_generation(generation),
            Err(_) => self.state.instance(&name(which)),
        };
        let basis = record.map_or(0, |record| self.state.basis(record));
        let owner = record.and_then(|record| self.state.checkers().of(&record.name));
        let generation = record.map_or_else(|| which.parse().unwrap(), |it| it.generation);
        let check = Label::parse("check_id", words.take()).unwrap();
        let verdict = match words.take() {
            "passes" => Verdict::Passing,
            "fails" => Verdict::Failing,
            "starts" => Verdict::Starting,
            word => panic!("`{word}`: passes, fails or starts"),
        };
        let (flapping, hasty) = (words.flag("flapping"), words.flag("hasty"));
        let opinion = Opinion { verdict, flapping, hasty };
        let source = match words.flag("quick") {
            true => Source::Quick,
            false => Source::Checker {
                node: words.number("node").or(owner).unwrap_or(1),
                epoch: words.number("epoch").unwrap_or_else(|| self.state.checkers().epoch()),
            },
        };
        let basis = words.number("basis").unwrap_or(basis);
        let evidence = "probed".into();
        let items = vec![Finding { generation, basis, check, opinion, evidence }];
        let actor = words.actor("registry:n1");
        self.send(Command::ReportHealth(ReportHealth { source, items, actor }))
    }

    /// `says NAME|GENERATION [degraded=WHY] [busy=PERCENT]`
    fn says(&mut self, words: &mut Words<'_>) -> String {
        let (generation, _) = self.lease(words);
        let degraded = words.value("degraded").map(Into::into);
        let items = vec![SelfReport { generation, degraded }];
        let figures = match words.number("busy") {
            Some(percent) => vec![Figure { generation, utilization: Utilization::new(percent) }],
            None => Vec::new(),
        };
        let actor = words.actor("registry:n1");
        self.send(Command::ReportSelf(ReportSelf { items, figures, actor }))
    }

    /// `missed NAME remaining=3s`, `cleared NAME`
    fn checkpoint(&mut self, words: &mut Words<'_>, missed: bool) -> String {
        let (generation, lease_epoch) = self.lease(words);
        let remaining = words.duration("remaining").map(|it| millis(it).try_into().unwrap());
        let item =
            LeaseCheckpoint { generation, lease_epoch, remaining_ms: remaining.filter(|_| missed) };
        self.send(Command::CheckpointLeases(vec![item]))
    }

    fn lease(&self, words: &mut Words<'_>) -> (u64, u32) {
        let which = words.take();
        let epoch: Option<u32> = words.number("epoch");
        if let Ok(generation) = which.parse() {
            return (generation, epoch.unwrap_or(1));
        }
        let record = self.state.instance(&name(which));
        let record = record.unwrap_or_else(|| panic!("{which} is not registered"));
        (record.generation, epoch.unwrap_or(record.lease_epoch))
    }

    /// `protect cluster|SERVICE [restore=NAME+NAME@EPOCH]`
    fn protect(&mut self, words: &mut Words<'_>) -> String {
        let names = words.value("restore").unwrap_or_default().split('+');
        let lease = |name: &str| match name.split_once('@') {
            Some((name, epoch)) => self.lease(&mut Words::of(&format!("{name} epoch={epoch}"))),
            None => self.lease(&mut Words::of(name)),
        };
        let restore = names.filter(|name| !name.is_empty()).map(lease).collect();
        self.set_protection(words, ProtectionChange::Enter { restore }, "registry:n1")
    }

    /// `release cluster|SERVICE` by an operator, `recover cluster|SERVICE` by the registry.
    fn unprotect(&mut self, words: &mut Words<'_>, reason: Reason, by: &str) -> String {
        self.set_protection(words, ProtectionChange::Leave(reason), by)
    }

    fn set_protection(
        &mut self,
        words: &mut Words<'_>,
        change: ProtectionChange,
        by: &str,
    ) -> String {
        let scope = match words.take() {
            "cluster" => Scope::Cluster,
            text => Scope::Service(service(text)),
        };
        let (actor, request_id) = (words.actor(by), words.request_id());
        let evidence = "".into();
        let set = SetProtection { scope, change, actor, evidence, request_id };
        self.send(Command::SetProtection(set))
    }

    /// `policy SERVICE evict_after=5s dns_ttl=1s checks=c [request=R]`, `policy SERVICE delete`
    fn policy(&mut self, words: &mut Words<'_>) -> String {
        let service = service(words.take());
        let (actor, request_id) = (words.actor("operator:ann"), words.request_id());
        if words.flag("delete") {
            let delete = DeleteServicePolicy { service, actor, request_id };
            return self.send(Command::DeleteServicePolicy(delete));
        }
        let policy = Policy {
            dns_ttl: words.duration("dns_ttl"),
            fail_open_below: words.number("fail_open_below"),
            evict_after: words.duration("evict_after"),
            evict_unhealthy_after: words.duration("evict_unhealthy_after"),
            checks: words.checks(),
            ..Policy::default()
        }
        .checked()
        .unwrap();
        let put = PutServicePolicy { service, policy, actor, request_id };
        self.send(Command::PutServicePolicy(put))
    }

    fn send(&mut self, command: Command) -> String {
        self.send_after(0, command)
    }

    fn send_after(&mut self, advance_ms: u64, command: Command) -> String {
        self.wall_ms += advance_ms;
        let applied = self.state.apply(&Stamped {
            wall_ms: self.wall_ms,
            advance_ms,
            command: command.clone(),
        });
        let mut out = told(&command, &applied.outcome);
        for event in &applied.events {
            let _ = writeln!(out, "  {}", line(event));
        }
        out
    }

    /// The state as another node gets it; the script goes on with that.
    fn snapshot(&mut self) -> String {
        let mut loader = Loader::new(JOURNAL);
        let parts: Vec<_> = self.state.parts().collect();
        for part in parts.clone() {
            loader.add(part).unwrap();
        }
        self.state = loader.finish().unwrap();
        assert_eq!(self.state.parts().collect::<Vec<_>>(), parts);
        "installed\n".into()
    }

    // === Commands that only look ===

    /// `show SERVICE`, `show SERVICE/ID`
    fn show(&self, what: &str) -> String {
        if what.contains('/') {
            return match self.state.instance(&name(what)) {
                Some(record) => self.detail(record),
                None => "absent\n".into(),
            };
        }
        let service = service(what);
        let mut out = format!("revision {}", self.state.service_revision(&service));
        if self.state.is_protected(&service) {
            out.push_str(", protected");
        }
        let Some(service) = self.state.service(&service) else { return out + ", unknown\n" };
        if service.policy.is_some() {
            out.push_str(", with a policy");
        }
        out.push('\n');
        for record in service.instances.values() {
            let at = record.spec.endpoints[0].address;
            let _ = writeln!(out, "  {}: {} at {at}", record.name, record.status());
        }
        out
    }

    fn detail(&self, record: &Record) -> String {
        let mut out = format!(
            "{} since {} ms, because {}\n",
            record.status(),
            record.status_ms,
            record.reason.as_str()
        );
        let _ = write!(out, "  generation {}, revision {}", record.generation, record.revision);
        let _ = writeln!(out, ", first at revision {}", record.create_revision);
        let state = match record.lease {
            None => "  persistent".to_owned(),
            Some(lease) => {
                let state = match lease.state {
                    LeaseState::Current => "current",
                    LeaseState::Held => "held",
                    LeaseState::Expired => "expired",
                    LeaseState::Lost => "lost",
                };
                format!("  lease {state}, epoch {}", lease.epoch)
            }
        };
        out.push_str(&state);
        if let Some(remaining) = self.state.checkpoint(record.generation) {
            let _ = write!(out, ", missed a beat with {remaining} ms left");
        }
        out.push('\n');
        out.push_str(&self.told_signals(record));
        if let Some(admin) = &record.admin {
            let _ = write!(out, "  {} by {}", admin.state.as_str(), admin.actor);
            if let Some(until) = admin.until {
                let _ = write!(out, ", {} ms more", until - self.state.cluster_ms());
            }
            out.push('\n');
        }
        out
    }

    /// Checks and the instance's own word; nothing where there are none.
    fn told_signals(&self, record: &Record) -> String {
        let mut out = String::new();
        for check in self.state.checks(record) {
            let standing = record.signals.standing(&check.id);
            let opinion = record.signals.opinion(&check.id);
            let _ = write!(out, "  check {} {}", check.id, opinion.verdict.as_str());
            for (is, word) in [
                (check.advisory, "advisory"),
                (opinion.flapping, "flapping"),
                (opinion.hasty, "by quick probes"),
                (standing.is_none(), "set later"),
            ] {
                out.push_str(&if is { format!(", {word}") } else { String::new() });
            }
            out.push('\n');
        }
        let heard = record.signals.heard();
        if let Some(why) = heard.and_then(|heard| heard.self_report.as_ref()) {
            let _ = writeln!(out, "  says of itself: {why}");
        }
        if let Some(busy) = self.state.utilization(record) {
            let _ = writeln!(out, "  says it is {} % busy", busy.percent());
        }
        if let Some(since) = heard.and_then(|heard| heard.unhealthy_since) {
            let _ = writeln!(out, "  unhealthy since revision {since}");
        }
        if let Some(since) = heard.and_then(|heard| heard.lost_ms) {
            let _ = writeln!(out, "  lost for {} ms", self.state.cluster_ms() - since);
        }
        out
    }

    fn events(&self, name: &InstanceName) -> String {
        let live = self.state.instance(name).map(|record| &record.history);
        let history =
            live.or_else(|| self.state.tombstone(name).map(|tombstone| &tombstone.history));
        let Some(history) = history else { return "nothing is known\n".into() };
        history.events().iter().map(|event| line(event) + "\n").collect()
    }

    /// What a beat for this lease handle is answered.
    fn beat(&self, handle: &str) -> String {
        let handle = handle.parse().unwrap();
        let current = |record: &Arc<Record>| {
            record.lease.is_some_and(|lease| lease.state == LeaseState::Current)
        };
        if self.state.by_generation(handle).is_some_and(current) {
            return "renewed\n".into();
        }
        match self.state.retired(handle) {
            Some(Retired::Superseded(name)) => format!("fenced: {name} has a newer owner\n"),
            Some(Retired::Deregistered(name)) => format!("fenced: {name} was deregistered\n"),
            None => "register again\n".into(),
        }
    }

    fn journal(&self, after: Option<u64>) -> String {
        let after = after.unwrap_or_else(|| self.state.journal_floor());
        match self.state.events_after(after) {
            Some(events) => events.map(|event| line(event) + "\n").collect(),
            None => format!("compacted: it begins after revision {}\n", self.state.journal_floor()),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis().try_into().unwrap()
}

fn line(event: &Event) -> String {
    let subject = match &event.subject {
        Subject::Instance(name) => {
            let status = |status: Option<rollcall_core::record::Status>| {
                status.map_or_else(|| "absent".to_owned(), |status| status.to_string())
            };
            format!("{name}: {} -> {}", status(event.from), status(event.to))
        }
        Subject::Policy(name) => format!("policy of {name}"),
        Subject::Protection(scope) => format!("protection of {scope}"),
    };
    let mut line = format!("{} {subject}, {}", event.revision, event.reason.as_str());
    let _ = write!(line, " by {}", event.actor);
    if !event.evidence.is_empty() {
        let _ = write!(line, " ({})", event.evidence);
    }
    line
}

fn told(command: &Command, outcome: &Outcome) -> String {
    let done = match &outcome.result {
        Err(refusal) => return format!("refused: {refusal}\n"),
        Ok(done) => done,
    };
    let mut out = String::new();
    match (done, command) {
        (Done::Registered(done), Command::Register(register)) => {
            for (done, item) in done.iter().zip(&register.items) {
                let _ = write!(out, "{}: generation {}", item.name, done.generation);
                let _ = match done.lease_epoch {
                    0 => write!(out, ", persistent"),
                    epoch => write!(out, ", epoch {epoch}"),
                };
                let unchanged = if done.changed { "" } else { ", unchanged" };
                let _ = writeln!(out, ", revision {}{unchanged}", done.revision);
            }
        }
        (Done::Deregistered(done), Command::Deregister(deregister)) => {
            for (removed, item) in done.iter().zip(&deregister.items) {
                let what = if *removed { "removed" } else { "ignored" };
                let _ = writeln!(out, "{}: {what}", item.name);
            }
        }
        (Done::Expired(done), _) => {
            for done in done {
                out.push_str(match done {
                    Expired::Expired => "expired\n",
                    Expired::Held => "held by protection\n",
                    Expired::Lost => "its checks decide\n",
                    Expired::Suspended => "suspended by maintenance\n",
                    Expired::Superseded => "superseded, no effect\n",
                });
            }
        }
        (Done::Reported(done), _) => {
            for done in done {
                out.push_str(match done {
                    Reported::Taken => "taken\n",
                    Reported::Unchanged => "known\n",
                    Reported::Superseded => "superseded, no effect\n",
                });
            }
        }
        (Done::Evicted(count), _) => {
            let _ = writeln!(out, "{count} evicted");
        }
        (Done::Applied, Command::AdvanceTime) => {}
        (Done::Applied, _) => out.push_str("done\n"),
        (other, command) => panic!("{command:?} came to {other:?}"),
    }
    out
}
