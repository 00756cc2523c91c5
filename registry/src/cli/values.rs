//! The words of the command line: text in, a value or a message that names the field out.
//!
//! Names and limits are core's own, so what passes here passes at the registry; only what needs
//! its state is left for it to refuse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rollcall_core::check::{Check, HttpProbe, Probe};
use rollcall_core::instance::{Endpoint, Ttl, limit};
use rollcall_core::name::{InstanceId, InstanceName, Invalid, Label, ServiceName, parse_text};
use rollcall_core::query::HealthFilter;

const DEFAULT_API_PORT: u16 = 8502;
const NODE_NAME_CHARS_MAX: usize = 128;

/// `HOST[:PORT]` of a registry node; the port is 8502 unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAddress(String);

impl RegistryAddress {
    /// `host:port`, with an IPv6 host in brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address as a URI, for a gRPC channel.
    pub fn uri(&self) -> String {
        format!("http://{}", self.0)
    }
}

pub(super) fn registry_address(text: &str) -> Result<RegistryAddress, String> {
    let refuse = || format!("address {text:?} must be HOST or HOST:PORT, such as 127.0.0.1:8502");
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let full = match bare.rsplit_once(':') {
        _ if bare.ends_with(']') => format!("{bare}:{DEFAULT_API_PORT}"),
        Some(_) => bare.to_owned(),
        None => format!("{bare}:{DEFAULT_API_PORT}"),
    };
    let (host, port) = full.rsplit_once(':').ok_or_else(refuse)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !host.is_empty() && host.chars().all(legal)
        }
    };
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host_is_good && port_is_good { Ok(RegistryAddress(full)) } else { Err(refuse()) }
}

/// `[NAMESPACE/]SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceArg {
    namespace: Option<Label>,
    service: Label,
}

impl ServiceArg {
    /// The full name: the namespace written before the service counts, else `flag`, else `default`.
    pub fn name(&self, flag: Option<&Label>) -> ServiceName {
        let namespace = self.namespace.as_ref().or(flag).cloned();
        ServiceName {
            namespace: namespace.unwrap_or_else(Label::default_namespace),
            service: self.service.clone(),
        }
    }
}

pub(super) fn service(text: &str) -> Result<ServiceArg, Invalid> {
    match text.split_once('/') {
        Some((namespace, service)) => Ok(ServiceArg {
            namespace: Some(self::namespace(namespace)?),
            service: Label::parse("service", service)?,
        }),
        None => Ok(ServiceArg { namespace: None, service: Label::parse("service", text)? }),
    }
}

pub(super) fn namespace(text: &str) -> Result<Label, Invalid> {
    Label::parse("namespace", text)
}

/// The beginning of a service name, which need not be a whole label: `pay-`.
pub(super) fn prefix(text: &str) -> Result<String, Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=Label::MAX).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(text.to_ascii_lowercase());
    }
    let problem = format!("{text:?}: 1 to {} letters, digits and hyphens are allowed", Label::MAX);
    Err(Invalid::new("prefix", problem))
}

/// An instance: by its full name, or by an id that only one instance has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceArg {
    /// `[NAMESPACE/]SERVICE/ID`.
    Full(InstanceName),
    /// `ID` alone, to be looked up.
    Id(InstanceId),
}

pub(super) fn instance(text: &str) -> Result<InstanceArg, Invalid> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [id] => Ok(InstanceArg::Id(InstanceId::parse(id)?)),
        [service, id] => Ok(InstanceArg::Full(InstanceName::parse("", service, id)?)),
        [namespace, service, id] => {
            Ok(InstanceArg::Full(InstanceName::parse(namespace, service, id)?))
        }
        _ => Err(Invalid::new(
            "instance",
            format!("{text:?} must be [NAMESPACE/]SERVICE/ID, or an ID alone"),
        )),
    }
}

pub(super) fn instance_id(text: &str) -> Result<InstanceId, Invalid> {
    InstanceId::parse(text)
}

/// `NAME=IP:PORT`: where an instance can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointArg {
    /// Name of the endpoint: `grpc`, `http`, ...
    pub name: Label,
    /// IP literal and port that callers can be sent to.
    pub address: SocketAddr,
}

pub(super) fn endpoint(text: &str) -> Result<EndpointArg, Invalid> {
    let Some((name, address)) = text.split_once('=') else {
        let problem = format!("{text:?} must be NAME=IP:PORT, such as http=192.0.2.7:8080");
        return Err(Invalid::new("endpoint", problem));
    };
    let name = endpoint_name(name)?;
    let field = "endpoint address";
    let address = address.parse().map_err(|_| {
        let problem = "must be an IP literal and a port, such as 192.0.2.7:80 or [2001:db8::7]:80";
        Invalid::new(field, format!("{address:?} {problem}"))
    })?;
    Ok(EndpointArg { name, address: Endpoint::check_address(field, address)? })
}

pub(super) fn endpoint_name(text: &str) -> Result<Label, Invalid> {
    Label::parse("endpoint name", text)
}

/// What `--check` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckArg(pub(super) Check);

/// `tcp`, `http:PATH` or `grpc[:SERVICE]`, then options behind commas.
pub(super) fn check(text: &str) -> Result<CheckArg, Invalid> {
    let (kind, options) = text.split_once(',').unwrap_or((text, ""));
    let (kind, of) = kind.split_once(':').unwrap_or((kind, ""));
    let unknown = || {
        let problem = format!("{text:?} must begin with tcp, http:PATH or grpc[:SERVICE]");
        Err(Invalid::new("check", problem))
    };
    let probe = match kind {
        "tcp" if of.is_empty() => Probe::Tcp { tls: false },
        "http" if of.is_empty() => Probe::Http(HttpProbe::default()),
        "http" => Probe::Http(HttpProbe { path: of.into(), ..HttpProbe::default() }),
        "grpc" => Probe::Grpc { service: of.into(), tls: false },
        _ => return unknown(),
    };
    let id = Label::parse("check", kind)?;
    let mut check = Check::new(id, probe);
    let mut timeout = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        check_option(&mut check, &mut timeout, option)?;
    }
    check.timeout = timeout.unwrap_or_else(|| Check::default_timeout(check.interval));
    check.checked().map(CheckArg).map_err(|refused| refused.within("check"))
}

fn check_option(
    check: &mut Check,
    timeout: &mut Option<Duration>,
    option: &str,
) -> Result<(), Invalid> {
    let (key, value) = option.split_once('=').unwrap_or((option, ""));
    let time = || duration(value).map_err(|problem| Invalid::new(format!("check {key}"), problem));
    let count = || {
        let problem = format!("{value:?} is not a number from 1 to 100");
        value.parse::<u8>().map_err(|_| Invalid::new(format!("check {key}"), problem))
    };
    match (key, value) {
        ("interval", _) => check.interval = time()?,
        ("timeout", _) => *timeout = Some(time()?),
        ("rise", _) => check.rise = count()?,
        ("fall", _) => check.fall = count()?,
        ("endpoint", _) => check.endpoint = Some(endpoint_name(value)?),
        ("id", _) => check.id = Label::parse("check id", value)?,
        ("advisory", "") => check.advisory = true,
        ("tls", "") => match &mut check.probe {
            Probe::Tcp { tls } | Probe::Grpc { tls, .. } => *tls = true,
            Probe::Http(http) => http.tls = true,
        },
        _ => {
            let problem = format!(
                "{option:?} is no option of a check: interval=, timeout=, rise=, fall=, endpoint=, \
                 id=, tls and advisory are"
            );
            return Err(Invalid::new("check", problem));
        }
    }
    Ok(())
}

pub(super) fn tag(text: &str) -> Result<Arc<str>, Invalid> {
    parse_text("tag", text, 1, limit::TAG_BYTES)
}

pub(super) fn reason(text: &str) -> Result<Arc<str>, Invalid> {
    parse_text("reason", text, 1, limit::TEXT_BYTES)
}

pub(super) fn zone(text: &str) -> Result<Label, Invalid> {
    Label::parse("zone", text)
}

/// `KEY=VALUE`; the value may be empty and may hold further `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataPair {
    /// Key, never empty.
    pub key: Arc<str>,
    /// Value.
    pub value: Arc<str>,
}

pub(super) fn metadata(text: &str) -> Result<MetadataPair, Invalid> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(Invalid::new("metadata", format!("{text:?} must be KEY=VALUE")));
    };
    Ok(MetadataPair {
        key: parse_text("metadata key", key, 1, limit::METADATA_KEY_BYTES)?,
        value: parse_text("metadata value", value, 0, limit::METADATA_VALUE_BYTES)?,
    })
}

/// `KEY=VALUE` of `--set`; the configuration judges key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingArg {
    /// The setting, such as `raft.heartbeat`.
    pub key: String,
    /// Its value as it was written.
    pub text: String,
}

pub(super) fn setting(text: &str) -> Result<SettingArg, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok(SettingArg { key: key.trim().to_owned(), text: value.trim().to_owned() })
        }
        _ => {
            Err(format!("setting {text:?} must be SECTION.KEY=VALUE, such as raft.heartbeat=50ms"))
        }
    }
}

pub(super) fn peer_address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse().is_ok_and(|port: u16| port != 0) => {
            Ok(text.to_owned())
        }
        _ => Err(format!("peer address {text:?} must be HOST:PORT, such as 10.0.0.1:8300")),
    }
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Whatever the asked node has; it says how old that is.
    Stale,
    /// At most this old.
    Bounded(Duration),
    /// Confirmed by the leader.
    Linearizable,
}

pub(super) fn consistency(text: &str) -> Result<Consistency, String> {
    match text {
        "stale" => Ok(Consistency::Stale),
        "linearizable" => Ok(Consistency::Linearizable),
        _ => match text.strip_prefix("bounded=") {
            Some(bound) => Ok(Consistency::Bounded(duration(bound)?)),
            None => {
                Err(format!("consistency {text:?} must be stale, bounded=DURATION or linearizable"))
            }
        },
    }
}

/// Which instances to show, by their health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HealthArg {
    /// Enabled, and healthy or degraded.
    #[default]
    Routable,
    /// Enabled and healthy.
    Healthy,
    /// Everything that is registered.
    Any,
}

impl From<HealthArg> for HealthFilter {
    fn from(health: HealthArg) -> Self {
        match health {
            HealthArg::Routable => Self::Routable,
            HealthArg::Healthy => Self::Healthy,
            HealthArg::Any => Self::Any,
        }
    }
}

/// A member: by its node id of 16 hexadecimal digits, as `rollcall status` shows it, or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeArg {
    /// Node id.
    Id(u64),
    /// Node name, to be looked up.
    Name(String),
}

pub(super) fn node(text: &str) -> Result<NodeArg, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() == 16 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        let id = u64::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        return Ok(NodeArg::Id(id));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=NODE_NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(legal) {
        Ok(NodeArg::Name(text.to_owned()))
    } else {
        Err(format!("node {text:?} must be a name or an id of 16 hexadecimal digits"))
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("duration {text:?} must be written like 500ms, 10s or 5m: {error}")
    })
}

pub(super) fn ttl(text: &str) -> Result<Ttl, String> {
    Ttl::parse(duration(text)?).map_err(|error| error.to_string())
}

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(format!("fraction {text:?} must be from 0 to 1, such as 0.5")),
    }
}
