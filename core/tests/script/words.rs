//! The words of a command line: `register web/a nonce=1 ttl=10s at=10.0.0.1:80`.

use rollcall_core::{
    check::{Check, Checks, Probe},
    command::RequestId,
    instance::{Endpoint, Spec, Transport, Ttl},
    name::{InstanceName, Label, ServiceName},
    record::Actor,
};
use std::{collections::BTreeMap, time::Duration};

/// What stands behind the command: plain words in order, and `key=value` pairs.
pub(crate) struct Words<'a> {
    line: &'a str,
    plain: Vec<&'a str>,
    pairs: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        let (pairs, plain) = line.split_whitespace().partition(|word| word.contains('='));
        let pairs: Vec<&str> = pairs;
        let pairs = pairs.into_iter().map(|pair| pair.split_once('=').unwrap()).collect();
        Self { line, plain, pairs }
    }

    /// The next plain word.
    pub(crate) fn take(&mut self) -> &'a str {
        assert!(!self.plain.is_empty(), "`{}`: a word is missing", self.line);
        self.plain.remove(0)
    }

    pub(crate) fn value(&mut self, key: &str) -> Option<&'a str> {
        self.pairs.remove(key)
    }

    pub(crate) fn number<T: std::str::FromStr>(&mut self, key: &str) -> Option<T> {
        let text = self.value(key)?;
        Some(text.parse().ok().unwrap_or_else(|| panic!("`{}`: {key}=NUMBER", self.line)))
    }

    pub(crate) fn flag(&mut self, word: &str) -> bool {
        let found = self.plain.iter().position(|it| *it == word);
        found.map(|at| self.plain.remove(at)).is_some()
    }

    pub(crate) fn duration(&mut self, key: &str) -> Option<Duration> {
        self.value(key).map(duration)
    }

    pub(crate) fn request_id(&mut self) -> Option<RequestId> {
        self.value("request").map(|text| RequestId::parse(text).unwrap())
    }

    /// `by=owner`, `by=operator:ann`, `by=registry:n1`.
    pub(crate) fn actor(&mut self, default: &str) -> Actor {
        let text = self.value("by").unwrap_or(default);
        let (role, who) = text.split_once(':').unwrap_or((text, ""));
        match role {
            "owner" => Actor::Owner(who.into()),
            "operator" => Actor::Operator(who.into()),
            "registry" => Actor::Registry(who.into()),
            _ => panic!("`{}`: by=owner, operator or registry", self.line),
        }
    }

    /// `checks=web+db~+admin@p1+slow*`: critical TCP checks of these ids, advisory with `~`, of the first endpoint or
    /// another, every 10 s or with `*` every 20 s.
    pub(crate) fn checks(&mut self) -> Checks {
        let texts = self.value("checks").unwrap_or_default().split('+');
        let check = |text: &str| {
            let (text, endpoint) = match text.split_once('@') {
                Some((text, endpoint)) => (text, Some(Label::parse("endpoint", endpoint).unwrap())),
                None => (text, None),
            };
            let id = Label::parse("check_id", text.trim_end_matches(['~', '*'])).unwrap();
            let advisory = text.contains('~');
            let interval = Check::DEFAULT_INTERVAL * if text.contains('*') { 2 } else { 1 };
            Check { advisory, interval, endpoint, ..Check::new(id, Probe::Tcp { tls: false }) }
        };
        Checks::parse(texts.filter(|text| !text.is_empty()).map(check).collect()).unwrap()
    }

    /// `at=10.0.0.1:80+10.0.0.2:80 ttl=10s weight=5 tags=a+b checks=c`, or the word `persistent`.
    pub(crate) fn spec(&mut self) -> Spec {
        let addresses = self.value("at").unwrap_or("10.0.0.1:80").split('+');
        let endpoint = |(i, address): (usize, &str)| Endpoint {
            name: Label::parse("name", &format!("p{i}")).unwrap(),
            address: address.parse().unwrap(),
            transport: Transport::Tcp,
            app_protocol: "".into(),
        };
        let mut spec = Spec::new(addresses.enumerate().map(endpoint).collect()).unwrap();
        let ttl = self.duration("ttl").unwrap_or(Spec::DEFAULT_TTL);
        spec.ttl = (!self.flag("persistent")).then(|| Ttl::parse(ttl).unwrap());
        spec.weight = self.number("weight").unwrap_or(Spec::DEFAULT_WEIGHT);
        let tags = self.value("tags").unwrap_or_default().split('+');
        spec.tags = tags.filter(|tag| !tag.is_empty()).map(Into::into).collect();
        spec.checks = self.checks();
        spec.checked().unwrap()
    }

    /// Nothing may be left over: a word that is misspelt must not be passed over in silence.
    pub(crate) fn end(self) {
        let rest: Vec<&str> = self.plain.into_iter().chain(self.pairs.into_keys()).collect();
        assert!(rest.is_empty(), "`{}`: what is {rest:?}?", self.line);
    }
}

/// `[namespace:]service/id`.
pub(crate) fn name(text: &str) -> InstanceName {
    let (service, id) = text.split_once('/').unwrap_or_else(|| panic!("`{text}`: SERVICE/ID"));
    InstanceName { service: self::service(service), id: parsed_id(id) }
}

fn parsed_id(id: &str) -> rollcall_core::name::InstanceId {
    rollcall_core::name::InstanceId::parse(id).unwrap()
}

/// `[namespace:]service`.
pub(crate) fn service(text: &str) -> ServiceName {
    let (namespace, service) = text.split_once(':').unwrap_or(("", text));
    ServiceName::parse(namespace, service).unwrap()
}

/// `500ms`, `10s`, `10m`, `1h`, `10y`.
pub(crate) fn duration(text: &str) -> Duration {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().unwrap_or_else(|_| panic!("`{text}`: a duration"));
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "y" => 365 * 24 * 3_600_000,
        unit => panic!("`{text}`: what is {unit:?}?"),
    };
    Duration::from_millis(number * ms)
}
