//! The words of the command line: text in, a value or a message that names the field out.
//!
//! Only what can be judged without the registry is refused here. The registry checks again.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;

const DEFAULT_API_PORT: u16 = 8502;
const LABEL_CHARS_MAX: usize = 63;
const INSTANCE_ID_CHARS_MAX: usize = 128;
const TAG_CHARS_MAX: usize = 128;
const METADATA_KEY_BYTES_MAX: usize = 128;
const METADATA_VALUE_BYTES_MAX: usize = 512;
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

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
    namespace: Option<String>,
    /// Name of the service, lower-cased.
    pub service: String,
}

impl ServiceArg {
    /// The namespace: the one written before the name, else `flag`, else `""`, the default one.
    pub fn namespace<'a>(&'a self, flag: Option<&'a str>) -> &'a str {
        self.namespace.as_deref().or(flag).unwrap_or("")
    }
}

pub(super) fn service(text: &str) -> Result<ServiceArg, String> {
    match text.split_once('/') {
        Some((namespace, service)) => Ok(ServiceArg {
            namespace: Some(label("namespace", namespace)?),
            service: label("service", service)?,
        }),
        None => Ok(ServiceArg { namespace: None, service: label("service", text)? }),
    }
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    label("namespace", text)
}

pub(super) fn prefix(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if !lower.is_empty() && lower.len() <= LABEL_CHARS_MAX && lower.chars().all(in_label) {
        Ok(lower)
    } else {
        Err(format!("prefix {text:?} must be 1 to {LABEL_CHARS_MAX} characters of [a-z0-9-]"))
    }
}

fn in_label(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// A DNS label, lower-cased.
fn label(field: &str, text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let hyphen_outside = lower.starts_with('-') || lower.ends_with('-');
    let sized = (1..=LABEL_CHARS_MAX).contains(&lower.len());
    if sized && lower.chars().all(in_label) && !hyphen_outside {
        Ok(lower)
    } else {
        Err(format!(
            "{field} {text:?} must be 1 to {LABEL_CHARS_MAX} characters of [a-z0-9-], without a \
             hyphen at either end"
        ))
    }
}

/// An instance: by its full name, or by an id that only one instance has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceArg {
    /// `[NAMESPACE/]SERVICE/ID`; the namespace `""` is the default one.
    Full {
        /// Namespace; empty for the default one.
        namespace: String,
        /// Service.
        service: String,
        /// Instance id.
        id: String,
    },
    /// `ID` alone, to be looked up.
    Id(String),
}

pub(super) fn instance(text: &str) -> Result<InstanceArg, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let full = |namespace: String, service: &str, id: &str| {
        let service = label("service", service)?;
        Ok(InstanceArg::Full { namespace, service, id: instance_id(id)? })
    };
    match parts[..] {
        [id] => Ok(InstanceArg::Id(instance_id(id)?)),
        [service, id] => full(String::new(), service, id),
        [namespace, service, id] => full(label("namespace", namespace)?, service, id),
        _ => Err(format!("instance {text:?} must be [NAMESPACE/]SERVICE/ID, or an ID alone")),
    }
}

pub(super) fn instance_id(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if (1..=INSTANCE_ID_CHARS_MAX).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "instance id {text:?} must be 1 to {INSTANCE_ID_CHARS_MAX} characters of \
             [A-Za-z0-9._:-]"
        ))
    }
}

/// `NAME=IP:PORT`: where an instance can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointArg {
    /// Name of the endpoint: `grpc`, `http`, ...
    pub name: String,
    /// IP literal and port; the port is never 0.
    pub address: SocketAddr,
}

pub(super) fn endpoint(text: &str) -> Result<EndpointArg, String> {
    let Some((name, address)) = text.split_once('=') else {
        return Err(format!("endpoint {text:?} must be NAME=IP:PORT, such as http=192.0.2.7:8080"));
    };
    let name = label("endpoint name", name)?;
    match address.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(EndpointArg { name, address }),
        _ => Err(format!(
            "endpoint address {address:?} must be an IP literal and a port from 1 to 65535, such \
             as 192.0.2.7:8080 or [2001:db8::7]:8080"
        )),
    }
}

pub(super) fn endpoint_name(text: &str) -> Result<String, String> {
    label("endpoint name", text)
}

pub(super) fn tag(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_graphic();
    if (1..=TAG_CHARS_MAX).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("tag {text:?} must be 1 to {TAG_CHARS_MAX} printable characters, no space"))
    }
}

pub(super) fn zone(text: &str) -> Result<String, String> {
    label("zone", text)
}

/// `KEY=VALUE`; the value may be empty and may hold further `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataPair {
    /// Key, never empty.
    pub key: String,
    /// Value.
    pub value: String,
}

pub(super) fn metadata(text: &str) -> Result<MetadataPair, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("metadata {text:?} must be KEY=VALUE"));
    };
    if !(1..=METADATA_KEY_BYTES_MAX).contains(&key.len()) {
        return Err(format!("metadata key {key:?} must have 1 to {METADATA_KEY_BYTES_MAX} bytes"));
    }
    if value.len() > METADATA_VALUE_BYTES_MAX {
        return Err(format!(
            "metadata value of {key:?} has {} bytes, at most {METADATA_VALUE_BYTES_MAX} are allowed",
            value.len()
        ));
    }
    Ok(MetadataPair { key: key.to_owned(), value: value.to_owned() })
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
    All,
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
    if (1..=INSTANCE_ID_CHARS_MAX).contains(&text.len()) && text.chars().all(legal) {
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

pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err(format!("ttl {text:?} must be from 1s to 24h"))
    }
}

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(format!("fraction {text:?} must be from 0 to 1, such as 0.5")),
    }
}
