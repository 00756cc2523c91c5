//! Checks as callers declare them, and as readers see them.

use super::{answer::duration, problems::Problems};
use crate::v1::{self, health_check as wire};
use rollcall_core::{
    check::{Check, Checks, CodeRange, HttpProbe, Method, Opinion, Probe, Verdict},
    instance::limit,
    name::Label,
    signals::{Signals, Standing},
};
use std::sync::Arc;

/// The checks of a spec or a policy, in its field `health_checks`.
pub(super) fn read_checks(checks: Vec<v1::HealthCheck>, problems: &mut Problems) -> Option<Checks> {
    problems.count("health_checks", checks.len(), 0, limit::CHECKS)?;
    let checks = problems.each("health_checks", checks, read_check)?;
    problems.take(Checks::parse(checks))
}

fn read_check(problems: &mut Problems, check: v1::HealthCheck) -> Option<Check> {
    let id = problems.take(Label::parse("check_id", &check.check_id));
    let interval = problems.duration("interval", check.interval);
    let timeout = problems.duration("timeout", check.timeout);
    let grace = problems.duration("startup_grace", check.startup_grace);
    let rise = count("rise", check.rise, Check::DEFAULT_RISE, problems);
    let fall = count("fall", check.fall, Check::DEFAULT_FALL, problems);
    let endpoint = match check.endpoint_name.is_empty() {
        true => Some(None),
        false => problems.take(Label::parse("endpoint_name", &check.endpoint_name)).map(Some),
    };
    let probe = match check.probe {
        None => {
            problems.add("probe", "one of tcp, http and grpc is required");
            None
        }
        Some(wire::Probe::Tcp(tcp)) => Some(Probe::Tcp { tls: tcp.tls }),
        Some(wire::Probe::Http(http)) => {
            problems.within(|| "http".into(), |p| read_http(http, p)).map(Probe::Http)
        }
        Some(wire::Probe::Grpc(grpc)) => {
            Some(Probe::Grpc { service: grpc.service.into(), tls: grpc.tls })
        }
    };
    let interval = interval?.unwrap_or(Check::DEFAULT_INTERVAL);
    let check = Check {
        id: id?,
        interval,
        timeout: timeout?.unwrap_or_else(|| Check::default_timeout(interval)),
        rise: rise?,
        fall: fall?,
        endpoint: endpoint?,
        advisory: check.advisory,
        startup_grace: grace?.unwrap_or(Check::DEFAULT_STARTUP_GRACE),
        probe: probe?,
    };
    problems.take(check.checked())
}

fn read_http(http: wire::HttpProbe, problems: &mut Problems) -> Option<HttpProbe> {
    let method = problems.take(Method::parse(&http.method));
    let path = if http.path.is_empty() { "/".into() } else { http.path.into() };
    problems.count("headers", http.headers.len(), 0, limit::PROBE_HEADERS)?;
    problems.count("expected", http.expected.len(), 0, limit::PROBE_RANGES)?;
    let accepted = problems.each("expected", http.expected, |problems, range| {
        let first = problems.u16("first", range.first);
        let last = problems.u16("last", range.last);
        Some(CodeRange { first: first?, last: last? })
    });
    let headers = http.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
    Some(HttpProbe {
        method: method?,
        path,
        headers: headers.collect(),
        accepted: accepted?,
        body_contains: http.body_contains.into(),
        tls: http.tls,
    })
}

/// 0 = the default.
fn count(field: &str, value: u32, default: u8, problems: &mut Problems) -> Option<u8> {
    if value == 0 {
        return Some(default);
    }
    let small = u8::try_from(value).ok().filter(|count| *count <= limit::CHECK_COUNT);
    if small.is_none() {
        problems.add(field, format!("{value}: 1 to {} are allowed", limit::CHECK_COUNT));
    }
    small
}

/// Checks; also what a client sends.
pub fn health_checks(checks: &Checks) -> Vec<v1::HealthCheck> {
    checks.iter().map(health_check).collect()
}

fn health_check(check: &Check) -> v1::HealthCheck {
    let probe = match &check.probe {
        Probe::Tcp { tls } => wire::Probe::Tcp(wire::TcpProbe { tls: *tls }),
        Probe::Http(http) => wire::Probe::Http(http_probe(http)),
        Probe::Grpc { service, tls } => {
            let service = service.as_ref().to_owned();
            wire::Probe::Grpc(wire::GrpcProbe { service, tls: *tls })
        }
    };
    v1::HealthCheck {
        check_id: check.id.to_string(),
        interval: Some(duration(check.interval)),
        timeout: Some(duration(check.timeout)),
        rise: u32::from(check.rise),
        fall: u32::from(check.fall),
        endpoint_name: check.endpoint.as_ref().map(ToString::to_string).unwrap_or_default(),
        advisory: check.advisory,
        startup_grace: Some(duration(check.startup_grace)),
        probe: Some(probe),
    }
}

fn http_probe(http: &HttpProbe) -> wire::HttpProbe {
    let text = |text: &Arc<str>| text.as_ref().to_owned();
    let range = |range: &CodeRange| wire::StatusRange {
        first: u32::from(range.first),
        last: u32::from(range.last),
    };
    wire::HttpProbe {
        path: text(&http.path),
        method: http.method.as_str().to_owned(),
        headers: http.headers.iter().map(|(name, value)| (text(name), text(value))).collect(),
        expected: http.accepted.iter().map(range).collect(),
        tls: http.tls,
        body_contains: text(&http.body_contains),
    }
}

/// What the checks of an instance came to.
pub(super) fn check_statuses(signals: &Signals) -> Vec<v1::CheckStatus> {
    let standings = signals.heard().map_or(&[][..], |heard| &heard.standings);
    let status = |standing: &Standing| check_status(&standing.check, &standing.opinion);
    standings.iter().map(status).collect()
}

/// What one check came to.
pub fn check_status(check: &Label, opinion: &Opinion) -> v1::CheckStatus {
    v1::CheckStatus {
        check_id: check.to_string(),
        verdict: check_verdict(opinion.verdict).into(),
        flapping: opinion.flapping,
        hasty: opinion.hasty,
    }
}

/// A verdict.
pub fn check_verdict(verdict: Verdict) -> v1::CheckVerdict {
    match verdict {
        Verdict::Starting => v1::CheckVerdict::Starting,
        Verdict::Passing => v1::CheckVerdict::Passing,
        Verdict::Failing => v1::CheckVerdict::Failing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::problems::Refused;

    fn read(check: v1::HealthCheck) -> Result<Checks, Refused> {
        let mut problems = Problems::default();
        let checks = read_checks(vec![check], &mut problems);
        problems.finish(checks)
    }

    fn good() -> v1::HealthCheck {
        v1::HealthCheck {
            check_id: "web".into(),
            probe: Some(wire::Probe::Tcp(wire::TcpProbe { tls: false })),
            ..Default::default()
        }
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn spoilt(spoil: impl FnOnce(&mut v1::HealthCheck)) -> Vec<String> {
        let mut check = good();
        spoil(&mut check);
        let Refused(found) = read(check).expect_err("spoilt");
        found.into_iter().map(|invalid| invalid.field).collect()
    }

    fn http(spoil: impl FnOnce(&mut wire::HttpProbe)) -> Vec<String> {
        let mut http = wire::HttpProbe::default();
        spoil(&mut http);
        spoilt(|check| check.probe = Some(wire::Probe::Http(http)))
    }

    #[test]
    fn what_is_unset_has_its_default() {
        let check = read(good()).unwrap()[0].clone();
        assert_eq!(check, Check::new(check.id.clone(), Probe::Tcp { tls: false }));
        let fast = v1::HealthCheck { interval: seconds(1), ..good() };
        assert_eq!(read(fast).unwrap()[0].timeout, std::time::Duration::from_secs(1));
        let plain = wire::HttpProbe::default();
        let http = v1::HealthCheck { probe: Some(wire::Probe::Http(plain)), ..good() };
        assert_eq!(read(http).unwrap()[0].probe, Probe::Http(HttpProbe::default()));
    }

    #[test]
    fn every_field_of_a_check_comes_back_equal() {
        let full = |probe| v1::HealthCheck {
            check_id: "web".into(),
            interval: Some(prost_types::Duration { seconds: 7, nanos: 5_000_000 }),
            timeout: Some(prost_types::Duration { seconds: 3, nanos: 1_000_000 }),
            rise: 4,
            fall: 5,
            endpoint_name: "admin".into(),
            advisory: true,
            startup_grace: Some(prost_types::Duration { seconds: 6, nanos: 2_000_000 }),
            probe: Some(probe),
        };
        let http = wire::HttpProbe {
            path: "/health?full=1".into(),
            method: "GET".into(),
            headers: [("x-a".to_owned(), "1".to_owned()), ("x-b".to_owned(), "2".to_owned())]
                .into(),
            expected: vec![
                wire::StatusRange { first: 200, last: 204 },
                wire::StatusRange { first: 503, last: 503 },
            ],
            tls: true,
            body_contains: "up".into(),
        };
        for probe in [
            wire::Probe::Tcp(wire::TcpProbe { tls: true }),
            wire::Probe::Http(http),
            wire::Probe::Grpc(wire::GrpcProbe { service: "shop.Cart".into(), tls: true }),
        ] {
            let sent = full(probe);
            let read = read(sent.clone()).unwrap();
            let check = &read[0];
            assert_eq!((check.rise, check.fall, check.advisory), (4, 5, true));
            assert_eq!(check.endpoint.as_ref().map(Label::as_str), Some("admin"));
            assert_eq!(health_checks(&read), [sent]);
        }
    }

    #[test]
    fn every_wrong_part_names_its_path() {
        let at = |field: &str| vec![format!("health_checks[0].{field}")];
        assert_eq!(spoilt(|c| c.check_id = "a.b".into()), at("check_id"));
        assert_eq!(spoilt(|c| c.interval = seconds(0)), at("interval"));
        assert_eq!(spoilt(|c| c.interval = seconds(-1)), at("interval"));
        assert_eq!(spoilt(|c| c.timeout = seconds(11)), at("timeout"));
        assert_eq!(spoilt(|c| c.startup_grace = seconds(3_601)), at("startup_grace"));
        assert_eq!(spoilt(|c| c.rise = 101), at("rise"));
        assert_eq!(spoilt(|c| c.fall = u32::MAX), at("fall"));
        assert_eq!(spoilt(|c| c.endpoint_name = "a b".into()), at("endpoint_name"));
        assert_eq!(spoilt(|c| c.probe = None), at("probe"));
        assert_eq!(http(|h| h.path = "x".into()), at("http.path"));
        assert_eq!(http(|h| h.method = "POST".into()), at("http.method"));
        assert_eq!(http(|h| h.body_contains = "a\0".into()), at("http.body_contains"));
        let range = |first, last| wire::StatusRange { first, last };
        assert_eq!(http(|h| h.expected = vec![range(204, 200)]), at("http.expected[0]"));
        assert_eq!(http(|h| h.expected = vec![range(70_000, 0)]), at("http.expected[0].first"));
        assert_eq!(http(|h| h.expected = vec![range(200, 200); 9]), at("http.expected"));
        let cookie = [("Cookie".to_owned(), "secret".to_owned())];
        assert_eq!(http(|h| h.headers = cookie.into()), at("http.headers"));
    }

    fn fields<T>(result: Result<T, Refused>) -> Vec<String> {
        match result {
            Err(Refused(found)) => found.into_iter().map(|it| it.field).collect(),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn a_spec_and_a_policy_name_the_path_of_a_wrong_check() {
        let spec = |health_checks| {
            let endpoint = v1::Endpoint {
                name: "http".into(),
                host: "10.0.0.1".into(),
                port: 80,
                ..Default::default()
            };
            let endpoints = vec![endpoint];
            let spec = v1::InstanceSpec { endpoints, health_checks, ..Default::default() };
            fields(crate::convert::spec(spec, std::time::Duration::from_secs(10)))
        };
        let nothing = spec(vec![v1::HealthCheck::default()]);
        assert_eq!(nothing, ["health_checks[0].check_id", "health_checks[0].probe"]);
        let elsewhere = v1::HealthCheck { endpoint_name: "missing".into(), ..good() };
        assert_eq!(spec(vec![elsewhere.clone()]), ["health_checks[0].endpoint_name"]);
        assert_eq!(spec(vec![good(); 9]), ["health_checks"]);
        let put = |health_checks| {
            let service = v1::ServiceName { namespace: String::new(), service: "web".into() };
            let policy = v1::ServicePolicy { health_checks, ..Default::default() };
            fields(crate::convert::put_policy(
                v1::PutServicePolicyRequest {
                    service: Some(service),
                    policy: Some(policy),
                    request_id: String::new(),
                },
                "x",
            ))
        };
        assert_eq!(put(vec![good(); 2]), ["policy.health_checks[1].check_id"]);
        assert_eq!(put(vec![elsewhere]), [""; 0], "an instance may have that endpoint");
    }
}
