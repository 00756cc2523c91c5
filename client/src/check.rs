//! What the registry shall test about an instance: given to [`crate::Registration::check`]. It is checked when it is
//! registered, by the registry.

use crate::registration::to_proto;
use rollcall_proto::v1::{self, health_check::Probe};
use std::time::Duration;

/// A check of an instance, run by the registry. Limits and defaults are those of `rollcall.v1.HealthCheck`.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a check does nothing until it is given to Registration::check"]
pub struct Check(v1::HealthCheck);

impl Check {
    /// Passes when a connection opens.
    pub fn tcp() -> Self {
        Self::of(Probe::Tcp(v1::health_check::TcpProbe::default()))
    }

    /// Passes when a GET of `path` (which may hold a query) is answered with 200-299.
    pub fn http(path: impl Into<String>) -> Self {
        let http = v1::health_check::HttpProbe { path: path.into(), ..Default::default() };
        Self::of(Probe::Http(http))
    }

    /// Passes when `grpc.health.v1.Health/Check` answers SERVING for `service`; the empty name is the whole server.
    pub fn grpc(service: impl Into<String>) -> Self {
        let grpc = v1::health_check::GrpcProbe { service: service.into(), ..Default::default() };
        Self::of(Probe::Grpc(grpc))
    }

    fn of(probe: Probe) -> Self {
        Self(v1::HealthCheck { probe: Some(probe), ..v1::HealthCheck::default() })
    }

    /// Its id, a DNS label, unique within the instance; default: its kind, with a number from the second one on.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.check_id = id.into();
        self
    }

    /// Time between probes; default 10 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.0.interval = Some(to_proto(interval));
        self
    }

    /// Longest wait for an answer; default 2 s, or the interval where that is shorter.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(to_proto(timeout));
        self
    }

    /// Successes in a row that make it pass; default 2.
    pub fn rise(mut self, rise: u32) -> Self {
        self.0.rise = rise;
        self
    }

    /// Failures in a row that make it fail; default 3.
    pub fn fall(mut self, fall: u32) -> Self {
        self.0.fall = fall;
        self
    }

    /// The endpoint to probe, by name; default: the first one.
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        self.0.endpoint_name = name.into();
        self
    }

    /// Over TLS. Any certificate is taken.
    pub fn tls(mut self) -> Self {
        match &mut self.0.probe {
            Some(Probe::Tcp(tcp)) => tcp.tls = true,
            Some(Probe::Http(http)) => http.tls = true,
            Some(Probe::Grpc(grpc)) => grpc.tls = true,
            None => {}
        }
        self
    }

    /// Failing, it only degrades the instance.
    pub fn advisory(mut self) -> Self {
        self.0.advisory = true;
        self
    }

    /// The message, with an id that none of `others` has where it has none of its own.
    pub(crate) fn message(mut self, others: &[v1::HealthCheck]) -> v1::HealthCheck {
        if self.0.check_id.is_empty() {
            let kind = match &self.0.probe {
                Some(Probe::Http(_)) => "http",
                Some(Probe::Grpc(_)) => "grpc",
                Some(Probe::Tcp(_)) | None => "tcp",
            };
            let numbered = (2..).map(|number| format!("{kind}-{number}"));
            let mut names = std::iter::once(kind.to_owned()).chain(numbered);
            let free = |name: &String| others.iter().all(|other| other.check_id != *name);
            self.0.check_id = names.find(free).unwrap_or_default();
        }
        self.0
    }
}

/// What no builder method is there for (headers, codes, text) is set in the message itself.
impl From<v1::HealthCheck> for Check {
    fn from(message: v1::HealthCheck) -> Self {
        Self(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_of_one_kind_get_different_ids() {
        let mut all = Vec::new();
        for check in [Check::tcp(), Check::tcp().id("tcp-2"), Check::tcp(), Check::grpc("")] {
            let message = check.message(&all);
            all.push(message);
        }
        let ids: Vec<&str> = all.iter().map(|check| check.check_id.as_str()).collect();
        assert_eq!(ids, ["tcp", "tcp-2", "tcp-3", "grpc"]);
    }

    #[test]
    fn what_is_not_said_is_left_to_the_registry() {
        let plain = Check::http("/health").message(&[]);
        assert_eq!((plain.interval, plain.timeout, plain.rise, plain.fall), (None, None, 0, 0));
        let check = Check::http("/").tls().advisory().interval(Duration::from_millis(1_500));
        let said = check.endpoint("admin").message(&[]);
        let seconds = said.interval.as_ref().map(|interval| (interval.seconds, interval.nanos));
        assert_eq!(seconds, Some((1, 500_000_000)));
        assert!(said.advisory && matches!(said.probe, Some(Probe::Http(http)) if http.tls));
    }
}
