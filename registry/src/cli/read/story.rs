//! The story of an instance in sentences: how it stands, what happened, what to do. Pure.

use rollcall_client::v1::{self, AdminState, EventReason, HealthStatus};
use rollcall_core::name::InstanceName;

use super::super::words;
use super::check;

/// What the registry knows of an instance.
pub(super) struct Story<'a> {
    pub(super) name: &'a InstanceName,
    pub(super) answer: &'a v1::GetInstanceResponse,
}

impl Story<'_> {
    /// The whole story.
    pub(super) fn tell(&self) -> String {
        let mut lines = vec![self.standing()];
        lines.extend(self.particulars());
        lines.extend(check::lines(self.answer));
        lines.push(String::new());
        lines.push("What happened, oldest first:".to_owned());
        lines.extend(self.answer.events.iter().map(|event| format!("  {}", sentence(event))));
        lines.push(String::new());
        lines.push(format!("What to do: {}", self.advice()));
        lines.join("\n")
    }

    fn last_reason(&self) -> EventReason {
        self.answer.events.last().map_or(EventReason::Unspecified, v1::Event::reason)
    }

    /// The first line: how it stands and why.
    fn standing(&self) -> String {
        let Some(instance) = &self.answer.instance else {
            let last = self.answer.events.last();
            let when = words::ago(last.and_then(|event| event.time.as_ref()));
            let how = removal(self.last_reason());
            return format!("{} is not registered any more: {how}, {when}.", self.name);
        };
        let status = words::status(instance.health_status, instance.admin_state);
        let since = words::ago(instance.status_time.as_ref());
        let why = match instance.admin_state() {
            AdminState::Draining | AdminState::Maintenance => {
                let detail = instance.admin_detail.clone().unwrap_or_default();
                let by = words::actor(detail.actor.as_ref());
                let said = if detail.reason.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", detail.reason)
                };
                format!("set by {by}{said}, {since}")
            }
            AdminState::Enabled | AdminState::Unspecified => {
                format!("{}, {since}", because(instance.status_reason()))
            }
        };
        format!("{} is {status}: {why}.", self.name)
    }

    fn particulars(&self) -> Vec<String> {
        let Some(instance) = &self.answer.instance else { return Vec::new() };
        let spec = instance.spec.as_ref();
        let lease = match spec {
            Some(spec) if spec.persistent => "no lease (persistent)".to_owned(),
            Some(spec) => match spec.ttl.as_ref() {
                Some(ttl) => format!("lease of {}", words::length(Some(ttl))),
                None => "lease of 10s".to_owned(),
            },
            None => String::new(),
        };
        let mut lines = vec![format!(
            "It listens on {}, has {lease}, generation {}, revision {}.",
            words::endpoints(spec),
            words::id(instance.generation),
            instance.revision
        )];
        if let Some(left) = &self.answer.admin_expires_in {
            lines.push(format!("Its admin state ends by itself in {}.", words::length(Some(left))));
        }
        if let Some(percent) = self.answer.utilization_percent {
            lines.push(format!("By its own word it is {percent} % busy."));
        }
        lines
    }

    fn advice(&self) -> String {
        let name = self.name;
        let Some(instance) = &self.answer.instance else {
            return match self.last_reason() {
                EventReason::Removed => "an operator removed it, and its process was told to stop \
                                         registering; start that process anew to bring it back."
                    .to_owned(),
                EventReason::Evicted => "look whether its process lives and reaches the registry; \
                                         it registers again as soon as it does."
                    .to_owned(),
                _ => "nothing, if it was meant to stop; otherwise start its process again."
                    .to_owned(),
            };
        };
        match (instance.admin_state(), instance.health_status()) {
            (AdminState::Draining | AdminState::Maintenance, _) => {
                format!("`rollcall enable {name}` gives it traffic again.")
            }
            (_, HealthStatus::Expired) => {
                "its process is dead, paused or cut off from the registry: look at it. Its next \
                 heartbeat brings it back; without one it is removed when its time is over."
                    .to_owned()
            }
            (_, HealthStatus::Degraded) => {
                "it missed its heartbeats but is held in the list; `rollcall protection show` \
                 tells whether many did at once."
                    .to_owned()
            }
            (_, HealthStatus::Unhealthy) => {
                "it fails its checks: look at the evidence above and at its process.".to_owned()
            }
            (_, HealthStatus::Starting) => "wait for its first check.".to_owned(),
            _ if instance.spec.as_ref().is_some_and(|spec| spec.weight == Some(0)) => {
                "it is routable, but its weight of 0 gives it no traffic.".to_owned()
            }
            _ => "nothing, it is routable.".to_owned(),
        }
    }
}

/// Why an instance has its health status.
fn because(reason: EventReason) -> &'static str {
    match reason {
        EventReason::Registered => "it registered and its lease is kept",
        EventReason::Updated => "its owner changed its registration",
        EventReason::TakenOver => "a new owner registered it and keeps its lease",
        EventReason::Restored => "it registered again after its lease had run out",
        EventReason::LeaseExpired => "its lease ran out, no heartbeat came in time",
        EventReason::HeartbeatLost => "its heartbeats stopped, and something holds it in the list",
        EventReason::AdminSet | EventReason::AdminExpired => "its admin state changed",
        _ => "the registry decided so",
    }
}

/// How an instance left.
fn removal(reason: EventReason) -> &'static str {
    match reason {
        EventReason::Deregistered => "its owner deregistered it",
        EventReason::Removed => "an operator removed it",
        EventReason::Evicted => "the registry removed it, after it had been dead for long enough",
        _ => "it was removed",
    }
}

/// What an event was.
fn happening(event: &v1::Event) -> &'static str {
    match event.reason() {
        EventReason::Registered => "It registered",
        EventReason::Updated => "Its owner changed its registration",
        EventReason::TakenOver => "A new owner took its id over",
        EventReason::Restored => "It came back after its lease had run out",
        EventReason::LeaseExpired => "Its lease ran out without a heartbeat",
        EventReason::HeartbeatLost => "Its heartbeats stopped, but it was held in the list",
        EventReason::Deregistered => "Its owner deregistered it",
        EventReason::Removed => "An operator removed it",
        EventReason::Evicted => "The registry removed it",
        EventReason::AdminSet => "Its admin state was set",
        EventReason::AdminExpired => "Its admin state ended by itself",
        EventReason::ProtectionEntered => "Mass expiry began to be held back",
        EventReason::ProtectionEnded
        | EventReason::ProtectionReleased
        | EventReason::ProtectionTimedOut => "Mass expiry was no longer held back",
        EventReason::CheckPassed => "A check passed",
        EventReason::CheckFailed => "A check failed",
        EventReason::CheckFlaps => "The verdict of a check began to change again and again",
        EventReason::CheckSteady => "The verdict of a check stopped changing",
        EventReason::ChecksChanged => "The policy of its service named other checks",
        EventReason::StreamBroken => "Its heartbeat stream broke, and its checks failed at once",
        EventReason::SelfDegraded => "It said itself that it served badly",
        EventReason::SelfRecovered => "It said itself that it served well again",
        EventReason::PolicyPut | EventReason::PolicyDeleted | EventReason::Unspecified => {
            "It changed"
        }
    }
}

/// One event: time, what, from and to, reason, actor, evidence.
fn sentence(event: &v1::Event) -> String {
    let (from, to) = (event.from_status.as_ref(), event.to_status.as_ref());
    let by = words::actor(event.actor.as_ref());
    let mut text = format!(
        "{}  {}: {} -> {} ({}",
        words::time(event.time.as_ref()),
        happening(event),
        words::end(from),
        words::end(to),
        words::reason(event.reason),
    );
    if !by.is_empty() {
        text.push_str(&format!(", by {by}"));
    }
    text.push_str(").");
    if !event.evidence.is_empty() {
        text.push_str(&format!(" Evidence: {}.", event.evidence));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(
        reason: EventReason,
        from: Option<HealthStatus>,
        to: Option<HealthStatus>,
    ) -> v1::Event {
        let status = |health: HealthStatus| v1::InstanceStatus {
            health_status: health.into(),
            admin_state: AdminState::Enabled.into(),
        };
        v1::Event {
            reason: reason.into(),
            from_status: from.map(status),
            to_status: to.map(status),
            evidence: "no beat for 3s".into(),
            actor: Some(v1::Actor {
                kind: v1::actor::Kind::Registry.into(),
                detail: "node 7".into(),
            }),
            ..v1::Event::default()
        }
    }

    #[test]
    fn an_expired_instance_is_told_with_its_cause_and_the_way_back() {
        let name = InstanceName::parse("", "web", "web-1").unwrap();
        let answer = v1::GetInstanceResponse {
            instance: Some(v1::Instance {
                health_status: HealthStatus::Expired.into(),
                admin_state: AdminState::Enabled.into(),
                status_reason: EventReason::LeaseExpired.into(),
                ..v1::Instance::default()
            }),
            events: vec![
                event(EventReason::Registered, None, Some(HealthStatus::Healthy)),
                event(
                    EventReason::LeaseExpired,
                    Some(HealthStatus::Healthy),
                    Some(HealthStatus::Expired),
                ),
            ],
            utilization_percent: Some(70),
            ..v1::GetInstanceResponse::default()
        };
        let story = Story { name: &name, answer: &answer }.tell();
        assert!(story.contains("\nBy its own word it is 70 % busy.\n"), "{story}");
        assert!(story.starts_with("web/web-1 is EXPIRED: its lease ran out"), "{story}");
        assert!(story.contains("It registered: absent -> HEALTHY (REGISTERED"), "{story}");
        let told =
            "HEALTHY -> EXPIRED (LEASE_EXPIRED, by registry node 7). Evidence: no beat for 3s.";
        assert!(story.contains(told), "{story}");
        assert!(story.contains("Its next heartbeat brings it back"), "{story}");
    }

    #[test]
    fn a_removed_instance_is_told_by_its_removal() {
        let name = InstanceName::parse("", "web", "web-1").unwrap();
        let removed = event(EventReason::Removed, Some(HealthStatus::Healthy), None);
        let answer =
            v1::GetInstanceResponse { events: vec![removed], ..v1::GetInstanceResponse::default() };
        let story = Story { name: &name, answer: &answer }.tell();
        assert!(story.contains("is not registered any more: an operator removed it"), "{story}");
        assert!(story.contains("HEALTHY -> absent") && story.contains("start that process anew"));
    }
}
