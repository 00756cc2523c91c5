//! Names, parsed once into types that cannot be wrong.
//!
//! What arrives as text becomes one of these at the edge; nothing behind the edge checks a name again.
//! Services and namespaces are DNS labels, so that every name that can be registered can also be asked for by DNS.

use std::{fmt, sync::Arc};

/// A value that was refused, with the field it was meant for and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field in the request, such as `spec.endpoints[1].port`.
    pub field: String,
    /// What was given, why it is refused and what is allowed.
    pub problem: String,
}

impl Invalid {
    /// A refusal of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same refusal seen from outside: `endpoints[1]` becomes `spec.endpoints[1]`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

/// Shortens and escapes what a caller sent, so that it can stand in a message or a log line.
pub fn shown(text: &str) -> String {
    const LIMIT: usize = 64;
    let escaped: String = text.chars().take(LIMIT).flat_map(char::escape_debug).collect();
    if text.chars().count() > LIMIT {
        format!("\"{escaped}…\"")
    } else {
        format!("\"{escaped}\"")
    }
}

/// A DNS label: 1-63 of `[a-z0-9-]`, neither first nor last a hyphen; stored in lower case (RFC 1123 section 2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Longest label in bytes (RFC 1035 section 2.3.4).
    pub const MAX: usize = 63;

    /// Reads a label; upper case is folded. `field` names the field in the error.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if text.is_empty() || text.len() > Self::MAX {
            return Err(Invalid::new(
                field,
                format!("{} has {} bytes, a name has 1 to {}", shown(text), text.len(), Self::MAX),
            ));
        }
        if !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
            return Err(Invalid::new(
                field,
                format!(
                    "{} is not a DNS label: letters, digits and inner hyphens are allowed",
                    shown(text)
                ),
            ));
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Ok(Self(text.into()))
    }

    /// The namespace that the empty name means.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Name of a service: `(namespace, service)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace; the empty text parses as `default`.
    pub namespace: Label,
    /// Name within the namespace.
    pub service: Label,
}

impl ServiceName {
    /// Reads a service name. Errors name the fields `namespace` and `service`.
    pub fn parse(namespace: &str, service: &str) -> Result<Self, Invalid> {
        let namespace = parse_namespace(namespace)?;
        Ok(Self { namespace, service: Label::parse("service", service)? })
    }
}

/// Reads a namespace; the empty text means `default`.
pub fn parse_namespace(text: &str) -> Result<Label, Invalid> {
    if text.is_empty() { Ok(Label::default_namespace()) } else { Label::parse("namespace", text) }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == Label::default_namespace() {
            write!(f, "{}", self.service)
        } else {
            write!(f, "{}/{}", self.namespace, self.service)
        }
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// Id of an instance within its service: 1-128 of `[A-Za-z0-9._:-]`, kept as given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Longest id in bytes.
    pub const MAX: usize = 128;

    /// Reads an instance id. Errors name the field `instance_id`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > Self::MAX {
            return Err(Invalid::new(
                "instance_id",
                format!("{} has {} bytes, an id has 1 to {}", shown(text), text.len(), Self::MAX),
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b)) {
            return Err(Invalid::new(
                "instance_id",
                format!("{}: letters, digits and . _ : - are allowed", shown(text)),
            ));
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Full name of an instance: `[namespace/]service/id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    /// The service that it runs.
    pub service: ServiceName,
    /// Its id within the service.
    pub id: InstanceId,
}

impl InstanceName {
    /// Reads the three parts. Errors name the part.
    pub fn parse(namespace: &str, service: &str, id: &str) -> Result<Self, Invalid> {
        Ok(Self { service: ServiceName::parse(namespace, service)?, id: InstanceId::parse(id)? })
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.service, self.id)
    }
}

/// Text of at most `max` bytes without control characters, as tags, metadata and reasons are.
pub fn parse_text(field: &str, text: &str, min: usize, max: usize) -> Result<Arc<str>, Invalid> {
    if text.len() < min || text.len() > max {
        return Err(Invalid::new(
            field,
            format!("{} has {} bytes, {min} to {max} are allowed", shown(text), text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, format!("{} holds a control character", shown(text))));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_folded_to_lower_case() {
        assert_eq!(Label::parse("service", "Web-1").unwrap().as_str(), "web-1");
    }

    #[test]
    fn a_label_refuses_what_dns_refuses_and_names_the_field() {
        let long = "a".repeat(64);
        for text in ["", "-a", "a-", "a.b", "a_b", "é", "a b", "a\0", "*", "..", long.as_str()] {
            let error = Label::parse("service", text).expect_err(text);
            assert_eq!(error.field, "service");
        }
        assert!(Label::parse("service", &"a".repeat(63)).is_ok());
    }

    #[test]
    fn the_empty_namespace_is_default() {
        let name = ServiceName::parse("", "web").unwrap();
        assert_eq!(name, ServiceName::parse("default", "web").unwrap());
        assert_eq!(name.to_string(), "web");
    }

    #[test]
    fn an_instance_id_allows_an_address_and_refuses_a_slash() {
        assert!(InstanceId::parse("web-1.eu:8080").is_ok());
        for text in ["", "a/b", "a b", "a\n"] {
            assert_eq!(InstanceId::parse(text).expect_err(text).field, "instance_id");
        }
        assert!(InstanceId::parse(&"a".repeat(129)).is_err());
    }

    #[test]
    fn what_a_caller_sent_is_escaped_in_the_message() {
        let error = parse_text("tag", "a\u{1b}[31m", 1, 128).expect_err("control character");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}
