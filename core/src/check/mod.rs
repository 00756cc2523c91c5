//! What the registry is to test about an instance, and how often: a check, as its owner or a policy declares it.
//!
//! [`Judge`] turns results into verdicts; [`crate::signals::Signals`] is what the catalogue keeps of them. The probes
//! themselves, which need sockets and a clock, are not here.

mod judge;
mod probe;

pub use judge::{Failure, Judge, Opinion, Probed};
pub use probe::{CodeRange, HttpProbe, Method, Probe};

use crate::{
    instance::{Spec, Transport, limit},
    name::{Invalid, Label},
};
use std::{collections::BTreeSet, fmt, net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

/// One test of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Check {
    /// Unique within the instance.
    pub id: Label,
    /// Time between two probes, 100 ms to 1 h, in whole ms.
    pub interval: Duration,
    /// Longest wait for an answer, 10 ms to 60 s and not above the interval, in whole ms.
    pub timeout: Duration,
    /// Successes in a row that make it pass, 1-100. In STARTING one is enough.
    pub rise: u8,
    /// Failures in a row that make it fail, 1-100.
    pub fall: u8,
    /// Endpoint to probe, by name; `None` = the first one.
    pub endpoint: Option<Label>,
    /// A failing advisory check only degrades.
    pub advisory: bool,
    /// Failures do not count for so long after the registration while nothing has succeeded yet; at most 1 h.
    pub startup_grace: Duration,
    /// What to test.
    pub probe: Probe,
}

impl Check {
    /// Interval of a check that does not say.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
    /// Timeout of a check that does not say, where its interval is not shorter.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
    /// Rise of a check that does not say.
    pub const DEFAULT_RISE: u8 = 2;
    /// Fall of a check that does not say.
    pub const DEFAULT_FALL: u8 = 3;
    /// Grace of a check that does not say.
    pub const DEFAULT_STARTUP_GRACE: Duration = Duration::from_secs(30);
    /// While no probe has succeeded yet the next one follows after this, or after the interval if that is shorter.
    pub const STARTING_INTERVAL: Duration = Duration::from_secs(1);

    /// A critical check with every default.
    pub fn new(id: Label, probe: Probe) -> Self {
        Self {
            id,
            interval: Self::DEFAULT_INTERVAL,
            timeout: Self::DEFAULT_TIMEOUT,
            rise: Self::DEFAULT_RISE,
            fall: Self::DEFAULT_FALL,
            endpoint: None,
            advisory: false,
            startup_grace: Self::DEFAULT_STARTUP_GRACE,
            probe,
        }
    }

    /// The timeout where the owner gives only an interval: the default, or the interval if that is shorter.
    pub fn default_timeout(interval: Duration) -> Duration {
        Self::DEFAULT_TIMEOUT.min(interval)
    }

    /// Checks every bound and cuts times to whole milliseconds. Errors name the field within the check.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        let bounds = [
            ("interval", &mut self.interval, limit::CHECK_INTERVAL),
            ("timeout", &mut self.timeout, limit::CHECK_TIMEOUT),
            ("startup_grace", &mut self.startup_grace, limit::STARTUP_GRACE),
        ];
        for (field, value, (least, most)) in bounds {
            if *value < least || *value > most {
                let problem = format!("{value:?}: {least:?} to {most:?} are allowed");
                return Err(Invalid::new(field, problem));
            }
            let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
            *value = Duration::from_millis(millis);
        }
        if self.timeout > self.interval {
            let problem = format!(
                "{:?} is longer than the interval of {:?}: a probe must end before the next begins",
                self.timeout, self.interval
            );
            return Err(Invalid::new("timeout", problem));
        }
        for (field, count) in [("rise", self.rise), ("fall", self.fall)] {
            if count == 0 || count > limit::CHECK_COUNT {
                let problem = format!("{count}: 1 to {} are allowed", limit::CHECK_COUNT);
                return Err(Invalid::new(field, problem));
            }
        }
        self.probe = self.probe.checked()?;
        Ok(self)
    }

    /// Where to probe an instance with this spec; `None` where it has no such endpoint over TCP, as may be with a
    /// check that a policy sets for every instance of a service.
    pub fn address(&self, spec: &Spec) -> Option<SocketAddr> {
        let name = self.endpoint.as_ref().map_or("", Label::as_str);
        let endpoint = spec.endpoint(name)?;
        (endpoint.transport == Transport::Tcp).then_some(endpoint.address)
    }

    /// Whether this check tests what `other` does, at whatever pace and with whatever weight.
    pub(crate) fn tests_as(&self, other: &Self) -> bool {
        (&self.id, &self.probe, &self.endpoint) == (&other.id, &other.probe, &other.endpoint)
    }

    /// Size in bytes for the limit of a spec: all texts, and 32 bytes for the rest.
    pub fn size(&self) -> usize {
        let endpoint = self.endpoint.as_ref().map_or(0, |name| name.as_str().len());
        self.id.as_str().len() + endpoint + self.probe.size() + 32
    }
}

/// The checks of an instance or of a policy, at most 8. None cost one word of memory and nothing in the state hash.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Checks(Option<Arc<Vec<Check>>>);

impl Checks {
    /// Checks each one, their number and that no id is used twice. Errors name the field as `health_checks[i]...`.
    pub fn parse(checks: Vec<Check>) -> Result<Self, Invalid> {
        if checks.len() > limit::CHECKS {
            let problem = format!("{} given, 0 to {} are allowed", checks.len(), limit::CHECKS);
            return Err(Invalid::new("health_checks", problem));
        }
        let mut ids = BTreeSet::new();
        let mut parsed = Vec::with_capacity(checks.len());
        for (i, check) in checks.into_iter().enumerate() {
            let within = |refused: Invalid| refused.within(&format!("health_checks[{i}]"));
            if !ids.insert(check.id.clone()) {
                let problem = format!("{} is used twice", check.id);
                return Err(within(Invalid::new("check_id", problem)));
            }
            parsed.push(check.checked().map_err(within)?);
        }
        Ok(Self::accepted(parsed))
    }

    /// The checks as they were accepted once, as a log or snapshot holds them: nothing is judged again.
    pub fn accepted(checks: Vec<Check>) -> Self {
        Self((!checks.is_empty()).then(|| Arc::new(checks)))
    }

    /// Whether each one has an endpoint of `spec` to probe. Errors name the field as `health_checks[i]...`.
    pub(crate) fn check_endpoints(&self, spec: &Spec) -> Result<(), Invalid> {
        for (i, check) in self.iter().enumerate() {
            if check.address(spec).is_none() {
                let problem = match &check.endpoint {
                    Some(name) => format!("the instance has no endpoint {name} over TCP"),
                    None => "the first endpoint is not TCP; name one that is".to_owned(),
                };
                return Err(Invalid::new(format!("health_checks[{i}].endpoint_name"), problem));
            }
        }
        Ok(())
    }

    /// The same checks, holding memory in common with `other` where they are equal.
    pub(crate) fn sharing_with(&self, other: &Self) -> Self {
        if self == other { other.clone() } else { self.clone() }
    }

    /// Whether [`Checks::sharing_with`] would save nothing.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other) || mine != other,
            (None, _) | (_, None) => true,
        }
    }
}

impl Deref for Checks {
    type Target = [Check];

    fn deref(&self) -> &[Check] {
        self.0.as_ref().map_or(&[], |checks| checks)
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl std::hash::Hash for Checks {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Without checks a record has the hash that it had before there were any.
        if let Some(checks) = &self.0 {
            checks.hash(state);
        }
    }
}

/// What the probes of one check came to, by rise and fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// No probe has succeeded since the registration.
    Starting,
    /// Passes.
    Passing,
    /// Fails.
    Failing,
}

impl Verdict {
    /// The word of the API and of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Passing => "PASSING",
            Self::Failing => "FAILING",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Endpoint;

    fn check(id: &str) -> Check {
        Check::new(Label::parse("check_id", id).unwrap(), Probe::Tcp { tls: false })
    }

    #[test]
    fn every_bound_of_a_check_names_its_field() {
        type Spoil = fn(&mut Check);
        let cases: [(&str, Spoil); 9] = [
            ("interval", |c| c.interval = Duration::from_millis(99)),
            ("interval", |c| c.interval = Duration::from_secs(3601)),
            ("timeout", |c| c.timeout = Duration::from_millis(9)),
            ("timeout", |c| c.timeout = Duration::from_secs(61)),
            ("timeout", |c| c.timeout = c.interval + Duration::from_millis(1)),
            ("rise", |c| c.rise = 0),
            ("fall", |c| c.fall = 101),
            ("startup_grace", |c| c.startup_grace = Duration::from_secs(3601)),
            ("http.path", |c| {
                c.probe = Probe::Http(HttpProbe { path: "x".into(), ..HttpProbe::default() })
            }),
        ];
        for (field, spoil) in cases {
            let mut spoilt = check("c");
            spoil(&mut spoilt);
            assert_eq!(spoilt.checked().expect_err(field).field, field);
        }
    }

    #[test]
    fn times_are_cut_to_whole_milliseconds() {
        let mut fine = check("c");
        fine.timeout = Duration::from_micros(500_900);
        assert_eq!(fine.checked().unwrap().timeout, Duration::from_millis(500));
    }

    #[test]
    fn a_list_of_checks_has_a_length_and_no_id_twice() {
        let many = (0..9).map(|i| check(&format!("c{i}"))).collect();
        assert_eq!(Checks::parse(many).expect_err("nine").field, "health_checks");
        let twice = Checks::parse(vec![check("a"), check("a")]).expect_err("twice");
        assert_eq!(twice.field, "health_checks[1].check_id");
        let mut wrong = check("b");
        wrong.fall = 0;
        let wrong = Checks::parse(vec![check("a"), wrong]).expect_err("fall");
        assert_eq!(wrong.field, "health_checks[1].fall");
        assert_eq!(Checks::parse(Vec::new()).unwrap(), Checks::default());
    }

    #[test]
    fn a_check_finds_its_endpoint_only_over_tcp() {
        let endpoint = |name: &str, port: u16, transport| Endpoint {
            name: Label::parse("name", name).unwrap(),
            address: SocketAddr::from(([10, 0, 0, 1], port)),
            transport,
            app_protocol: "".into(),
        };
        let spec = Spec::new(vec![
            endpoint("dns", 53, Transport::Udp),
            endpoint("http", 80, Transport::Tcp),
        ])
        .unwrap();
        let mut named = check("c");
        assert_eq!(named.address(&spec), None);
        named.endpoint = Some(Label::parse("endpoint", "http").unwrap());
        assert_eq!(named.address(&spec), Some(SocketAddr::from(([10, 0, 0, 1], 80))));
        named.endpoint = Some(Label::parse("endpoint", "admin").unwrap());
        let checks = Checks::parse(vec![named]).unwrap();
        let refused = checks.check_endpoints(&spec).expect_err("endpoint");
        assert_eq!(refused.field, "health_checks[0].endpoint_name");
    }

    #[test]
    fn an_instance_without_checks_pays_one_word_for_them() {
        assert_eq!(size_of::<Checks>(), size_of::<usize>());
    }
}
