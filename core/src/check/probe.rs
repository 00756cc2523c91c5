//! What one probe asks, and what it accepts as an answer.
//!
//! Everything here is text that the registry will send to an address of somebody's choice: it is bounded, it cannot
//! break out of its line, and it carries no credentials, which every reader of the catalogue would see.

use crate::{
    instance::limit,
    name::{Invalid, parse_text, shown},
};
use std::sync::Arc;

/// What to test.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Passes when a connection opens.
    Tcp {
        /// Also wants a TLS handshake.
        tls: bool,
    },
    /// Passes when the answer has an accepted code, and the text if one is asked for.
    Http(HttpProbe),
    /// Passes when `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// Service argument of the call; empty = the whole server.
        service: Arc<str>,
        /// Over TLS.
        tls: bool,
    },
}

/// An HTTP request and what makes it a success. Redirects are never followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    /// The method.
    pub method: Method,
    /// Path and query, from the first `/`; at most 256 bytes.
    pub path: Arc<str>,
    /// Sent along, in order of name; names in lower case.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// Accepted codes; none = 200-299.
    pub accepted: Vec<CodeRange>,
    /// Text that must stand in the first 4 KiB of the body; empty = none, at most 256 bytes.
    pub body_contains: Arc<str>,
    /// https instead of http.
    pub tls: bool,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            method: Method::Get,
            path: "/".into(),
            headers: Vec::new(),
            accepted: Vec::new(),
            body_contains: "".into(),
            tls: false,
        }
    }
}

/// Methods that change nothing at the target (RFC 9110 section 9.2.1): the registry asks, it does not act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Method {
    /// GET.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Get, Self::Head, Self::Options];

    /// Reads a method; the empty text means GET. Errors name the field `method`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self::Get);
        }
        let known = Self::ALL.into_iter().find(|method| method.as_str() == text);
        known.ok_or_else(|| {
            let problem = format!("{}: GET, HEAD and OPTIONS are allowed", shown(text));
            Invalid::new("method", problem)
        })
    }

    /// The method as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }
}

/// Codes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeRange {
    /// First code, 200 at least.
    pub first: u16,
    /// Last code, 599 at most.
    pub last: u16,
}

impl HttpProbe {
    /// Codes accepted where the owner names none.
    pub const DEFAULT_ACCEPTED: CodeRange = CodeRange { first: 200, last: 299 };

    /// Whether an answer with this code is a success as far as the code is concerned.
    pub fn accepts(&self, code: u16) -> bool {
        let within = |range: &CodeRange| (range.first..=range.last).contains(&code);
        if self.accepted.is_empty() {
            within(&Self::DEFAULT_ACCEPTED)
        } else {
            self.accepted.iter().any(within)
        }
    }

    fn checked(mut self) -> Result<Self, Invalid> {
        check_path(&self.path)?;
        for (name, _) in &mut self.headers {
            if name.bytes().any(|b| b.is_ascii_uppercase()) {
                *name = name.to_ascii_lowercase().into();
            }
        }
        self.headers.sort();
        if self.headers.len() > limit::PROBE_HEADERS {
            let problem =
                format!("{} given, 0 to {} are allowed", self.headers.len(), limit::PROBE_HEADERS);
            return Err(Invalid::new("http.headers", problem));
        }
        for (name, value) in &self.headers {
            check_header(name, value)?;
        }
        for pair in self.headers.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(Invalid::new("http.headers", format!("{} twice", pair[0].0)));
            }
        }
        if self.accepted.len() > limit::PROBE_RANGES {
            let problem =
                format!("{} given, 0 to {} are allowed", self.accepted.len(), limit::PROBE_RANGES);
            return Err(Invalid::new("http.expected", problem));
        }
        for (i, CodeRange { first, last }) in self.accepted.iter().enumerate() {
            // A code below 200 is never the answer.
            if first > last || *first < 200 || *last > 599 {
                let problem = format!("{first} to {last}: codes from 200 to 599 are allowed");
                return Err(Invalid::new(format!("http.expected[{i}]"), problem));
            }
        }
        parse_text("http.body_contains", &self.body_contains, 0, limit::TEXT_BYTES)?;
        if self.method == Method::Head && !self.body_contains.is_empty() {
            let problem = "the answer to HEAD has no body to look into; use GET";
            return Err(Invalid::new("http.body_contains", problem));
        }
        Ok(self)
    }
}

impl Probe {
    /// The word of the API and of the command line.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http(_) => "http",
            Self::Grpc { .. } => "grpc",
        }
    }

    /// Whether it speaks TLS.
    pub fn tls(&self) -> bool {
        match self {
            Self::Tcp { tls } | Self::Grpc { tls, .. } => *tls,
            Self::Http(http) => http.tls,
        }
    }

    pub(super) fn checked(self) -> Result<Self, Invalid> {
        match self {
            Self::Tcp { .. } => Ok(self),
            Self::Http(http) => Ok(Self::Http(http.checked()?)),
            Self::Grpc { service, tls } => {
                let service = parse_text("grpc.service", &service, 0, limit::TEXT_BYTES)?;
                Ok(Self::Grpc { service, tls })
            }
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Tcp { .. } => 0,
            Self::Http(http) => {
                let headers: usize = http.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
                http.path.len() + headers + http.accepted.len() * 4 + http.body_contains.len()
            }
            Self::Grpc { service, .. } => service.len(),
        }
    }
}

/// Path and query in the characters of RFC 3986 section 3.3 and 3.4, which cannot end the request line.
fn check_path(path: &str) -> Result<(), Invalid> {
    let field = "http.path";
    if !path.starts_with('/') || path.len() > limit::TEXT_BYTES {
        let problem = format!(
            "{} must begin with / and have at most {} bytes",
            shown(path),
            limit::TEXT_BYTES
        );
        return Err(Invalid::new(field, problem));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(&b);
    if !path.bytes().all(allowed) {
        let problem = format!(
            "{}: write anything but letters, digits and -._~!$&'()*+,;=:@/? as %XX",
            shown(path)
        );
        return Err(Invalid::new(field, problem));
    }
    Ok(())
}

/// A name in the characters of RFC 9110 section 5.6.2 and a value of visible characters and spaces.
fn check_header(name: &str, value: &str) -> Result<(), Invalid> {
    let refuse = |problem: String| Err(Invalid::new("http.headers", problem));
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
        return refuse(format!(
            "{} is not the name of a header, which has 1 to 64 bytes",
            shown(name)
        ));
    }
    if FRAMING.contains(&name) || name.starts_with("proxy-") {
        return refuse(format!("{name} belongs to the connection, not to the request"));
    }
    if CREDENTIALS.contains(&name) {
        return refuse(format!(
            "{name} would show a secret to everybody who can read the instance; let the path of the check need none"
        ));
    }
    if value.len() > limit::TEXT_BYTES || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return refuse(format!(
            "{name}: {} must have at most {} visible ASCII characters",
            shown(value),
            limit::TEXT_BYTES
        ));
    }
    Ok(())
}

/// Headers that say where a message ends or what the connection becomes.
const FRAMING: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

#[cfg(test)]
mod tests {
    use super::*;

    fn spoilt(spoil: impl Fn(&mut HttpProbe)) -> String {
        let mut probe = HttpProbe::default();
        spoil(&mut probe);
        Probe::Http(probe).checked().expect_err("spoilt").field
    }

    fn header(name: &str, value: &str) -> impl Fn(&mut HttpProbe) {
        let pair = (Arc::from(name), Arc::from(value));
        move |probe| probe.headers = vec![pair.clone()]
    }

    #[test]
    fn what_could_break_out_of_its_line_is_refused() {
        for path in ["", "x", "/a b", "/a\r\nHost: x", "/a#b", "/\u{e9}", "http://x/"] {
            assert_eq!(spoilt(|probe| probe.path = path.into()), "http.path");
        }
        assert_eq!(
            spoilt(|probe| probe.path = format!("/{}", "a".repeat(256)).into()),
            "http.path"
        );
        for (name, value) in
            [("", "v"), ("a b", "v"), ("a:", "v"), ("a", "v\r\nb: c"), ("a", "\u{7f}")]
        {
            assert_eq!(spoilt(header(name, value)), "http.headers");
        }
        assert_eq!(spoilt(|probe| probe.body_contains = "a\0".into()), "http.body_contains");
        let grpc = Probe::Grpc { service: "a\n".into(), tls: false };
        assert_eq!(grpc.checked().expect_err("service").field, "grpc.service");
    }

    #[test]
    fn headers_of_the_connection_and_credentials_are_refused_in_any_case() {
        for name in ["Connection", "Content-Length", "transfer-encoding", "Proxy-Authorization"] {
            assert_eq!(spoilt(header(name, "x")), "http.headers");
        }
        for name in ["Authorization", "cookie"] {
            assert_eq!(spoilt(header(name, "x")), "http.headers");
        }
    }

    #[test]
    fn lists_have_their_bounds() {
        assert_eq!(
            spoilt(|probe| {
                let pairs = (0..17).map(|i| (format!("x-{i}").into(), "".into()));
                probe.headers = pairs.collect();
            }),
            "http.headers"
        );
        assert_eq!(
            spoilt(|probe| probe.headers = vec![("A".into(), "".into()), ("a".into(), "".into())]),
            "http.headers"
        );
        let range = CodeRange { first: 200, last: 204 };
        assert_eq!(spoilt(|probe| probe.accepted = vec![range; 9]), "http.expected");
        for (first, last) in [(100, 200), (204, 200), (500, 600)] {
            assert_eq!(
                spoilt(|probe| probe.accepted = vec![CodeRange { first, last }]),
                "http.expected[0]"
            );
        }
    }

    #[test]
    fn a_redirect_is_no_success_unless_it_is_asked_for() {
        let mut probe = HttpProbe::default();
        assert!(probe.accepts(204) && !probe.accepts(302) && !probe.accepts(404));
        probe.accepted = vec![CodeRange { first: 302, last: 302 }];
        assert!(probe.accepts(302) && !probe.accepts(200));
    }

    #[test]
    fn a_body_cannot_be_asked_of_head() {
        let head = |probe: &mut HttpProbe| {
            probe.method = Method::Head;
            probe.body_contains = "ok".into();
        };
        assert_eq!(spoilt(head), "http.body_contains");
        assert_eq!(Method::parse("POST").expect_err("acts").field, "method");
        assert_eq!(Method::parse("").unwrap(), Method::Get);
    }
}
