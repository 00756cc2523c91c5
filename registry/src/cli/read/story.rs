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
                let because = because(instance.health_status(), instance.status_reason());
                format!("{because}, {since}")
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
        if let Some(why) = &instance.self_report {
            lines.push(format!("It says of itself that it serves badly: {why}."));
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
            (_, HealthStatus::Degraded) => half_weight(instance.status_reason()).to_owned(),
            (_, HealthStatus::Unhealthy) => match instance.status_reason() {
                EventReason::StreamBroken => "its process has probably crashed: look at it. If it \
                                              lives, the first success of its checks brings it back."
                    .to_owned(),
                _ => "it fails its checks: look at the evidence above and at its process.".to_owned(),
            },
            (_, HealthStatus::Starting) => "wait for its first check.".to_owned(),
            _ if instance.spec.as_ref().is_some_and(|spec| spec.weight == Some(0)) => {
                "it is routable, but its weight of 0 gives it no traffic.".to_owned()
            }
            _ => "nothing, it is routable.".to_owned(),
        }
    }
}

/// What to do about an instance that is DEGRADED.
fn half_weight(reason: EventReason) -> &'static str {
    match reason {
        EventReason::HeartbeatLost => {
            "it missed its heartbeats but is held in the list; `rollcall protection show` tells \
             whether many did at once."
        }
        EventReason::CheckFailed => {
            "it gets traffic at half its weight, because an advisory check fails: look at the \
             evidence above."
        }
        EventReason::SelfDegraded => {
            "it gets traffic at half its weight, until it says that it serves well again: look at \
             its process."
        }
        _ => "it gets traffic at half its weight: look at the events above.",
    }
}

/// Why an instance has its health status.
fn because(health: HealthStatus, reason: EventReason) -> &'static str {
    match reason {
        EventReason::CheckFailed if health == HealthStatus::Degraded => {
            "an advisory check fails, which can only degrade it"
        }
        EventReason::CheckFailed => "a check fails",
        EventReason::CheckPassed => "its checks pass",
        EventReason::StreamBroken => "its heartbeat stream broke, and its checks failed at once",
        EventReason::SelfDegraded => "it says itself that it serves badly",
        EventReason::SelfRecovered => "it says itself that it serves well again",
        EventReason::ChecksChanged => "the policy of its service names other checks",
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

    /// The story of an instance that has this health for this reason.
    fn told(health: HealthStatus, reason: EventReason) -> String {
        let name = InstanceName::parse("", "web", "web-1").unwrap();
        let answer = v1::GetInstanceResponse {
            instance: Some(v1::Instance {
                health_status: health.into(),
                admin_state: AdminState::Enabled.into(),
                status_reason: reason.into(),
                self_report: (reason == EventReason::SelfDegraded).then(|| "queue full".into()),
                ..v1::Instance::default()
            }),
            events: vec![event(reason, Some(HealthStatus::Healthy), Some(health))],
            ..v1::GetInstanceResponse::default()
        };
        Story { name: &name, answer: &answer }.tell()
    }

    #[test]
    fn a_passed_check_is_told_as_such() {
        let story = told(HealthStatus::Healthy, EventReason::CheckPassed);
        assert!(story.starts_with("web/web-1 is HEALTHY: its checks pass"), "{story}");
        assert!(story.ends_with("nothing, it is routable."), "{story}");
    }

    #[test]
    fn a_failed_critical_check_is_told_as_such() {
        let story = told(HealthStatus::Unhealthy, EventReason::CheckFailed);
        assert!(story.starts_with("web/web-1 is UNHEALTHY: a check fails"), "{story}");
        assert!(story.contains("What to do: it fails its checks"), "{story}");
    }

    #[test]
    fn a_failed_advisory_check_is_not_told_as_lost_heartbeats() {
        let story = told(HealthStatus::Degraded, EventReason::CheckFailed);
        assert!(story.starts_with("web/web-1 is DEGRADED: an advisory check fails"), "{story}");
        assert!(story.contains("half its weight, because an advisory check fails"), "{story}");
        assert!(!story.contains("heartbeat"), "{story}");
    }

    #[test]
    fn a_broken_stream_is_told_as_a_probable_crash() {
        let story = told(HealthStatus::Unhealthy, EventReason::StreamBroken);
        assert!(story.starts_with("web/web-1 is UNHEALTHY: its heartbeat stream broke"), "{story}");
        assert!(story.contains("What to do: its process has probably crashed"), "{story}");
    }

    #[test]
    fn a_self_report_is_told_with_its_text_and_not_as_lost_heartbeats() {
        let story = told(HealthStatus::Degraded, EventReason::SelfDegraded);
        assert!(story.starts_with("web/web-1 is DEGRADED: it says itself"), "{story}");
        assert!(
            story.contains("\nIt says of itself that it serves badly: queue full.\n"),
            "{story}"
        );
        assert!(story.contains("until it says that it serves well again"), "{story}");
        assert!(!story.contains("heartbeat"), "{story}");
        let well = told(HealthStatus::Healthy, EventReason::SelfRecovered);
        assert!(well.contains("HEALTHY: it says itself that it serves well again"), "{well}");
    }

    #[test]
    fn lost_heartbeats_and_changed_checks_are_told_as_such() {
        let lost = told(HealthStatus::Degraded, EventReason::HeartbeatLost);
        assert!(lost.contains("What to do: it missed its heartbeats but is held"), "{lost}");
        let changed = told(HealthStatus::Healthy, EventReason::ChecksChanged);
        assert!(changed.contains("HEALTHY: the policy of its service names other checks"));
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
