//! How bytes reach a registry node: an [`Address`] and a [`Connector`] that opens connections to it.
//!
//! The connector is a value, so that a simulation, a proxy or a test can own the sockets.

use hyper_util::rt::TokioIo;
use rollcall_core::name::{Invalid, shown};
use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::codegen::{Service, http::Uri};

/// A future that can be named.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a registry node listens: `host:port`. The host is a name, an IPv4 literal or an IPv6 literal in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
}

/// What a connection runs over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// An open connection to a registry node.
pub struct Connection {
    transport: Box<dyn Transport>,
    local: Option<SocketAddr>,
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(Address) -> BoxFuture<io::Result<Connection>> + Send + Sync>);

/// Dials one node for tonic: adds the deadline, and remembers the local address.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) connector: Connector,
    pub(crate) address: Address,
    pub(crate) deadline: Duration,
    pub(crate) local: Arc<Mutex<Option<SocketAddr>>>,
}

impl Address {
    /// Port of the gRPC API where none is given.
    pub const DEFAULT_PORT: u16 = 8502;

    /// Reads `host:port`, `host` or either with `http://` before it. Errors name the field `address`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = |problem: &str| {
            Invalid::new("address", format!("{}: {problem}; give host:port", shown(text)))
        };
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains("://") {
            return Err(wrong("only http:// is spoken"));
        }
        if let Ok(ip) = rest.parse::<Ipv6Addr>() {
            return Ok(Self { host: format!("[{ip}]").into(), port: Self::DEFAULT_PORT });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| wrong("the port is not 1 to 65535"))?)
            }
            _ => (rest, Self::DEFAULT_PORT),
        };
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let valid = match literal {
            Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed),
        };
        if valid { Ok(Self { host: host.into(), port }) } else { Err(wrong("that is no host")) }
    }

    /// Host; an IPv6 literal without brackets.
    pub fn host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        Self { host: host.into(), port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Connection {
    /// A connection over `transport`; `local` is this side's address, where there is one.
    pub fn new(transport: impl Transport, local: Option<SocketAddr>) -> Self {
        Self { transport: Box::new(transport), local }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that calls `open`. The client adds the deadline.
    pub fn new(
        open: impl Fn(Address) -> BoxFuture<io::Result<Connection>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    /// Opens a connection.
    pub fn connect(&self, address: Address) -> BoxFuture<io::Result<Connection>> {
        (self.0)(address)
    }

    /// TCP of the machine, with TCP_NODELAY: without it an alternating stream crawls at 40 ms a step.
    pub fn tcp() -> Self {
        Self::new(|address| {
            Box::pin(async move {
                let stream = TcpStream::connect((address.host(), address.port())).await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr().ok();
                Ok(Connection::new(stream, local))
            })
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Transport>>;
    type Error = io::Error;
    type Future = BoxFuture<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let open = dialer.connector.connect(dialer.address);
            let connection =
                tokio::time::timeout(dialer.deadline, open).await.map_err(|_| {
                    let waited = dialer.deadline;
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no connection within {waited:?}"),
                    )
                })??;
            if connection.local.is_some() {
                *dialer.local.lock().unwrap_or_else(PoisonError::into_inner) = connection.local;
            }
            Ok(TokioIo::new(connection.transport))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_the_forms_that_people_write() {
        for (text, shown, host) in [
            ("127.0.0.1:8502", "127.0.0.1:8502", "127.0.0.1"),
            ("http://127.0.0.1:9/", "127.0.0.1:9", "127.0.0.1"),
            ("registry-1.example.net", "registry-1.example.net:8502", "registry-1.example.net"),
            ("[::1]:8502", "[::1]:8502", "::1"),
            ("::1", "[::1]:8502", "::1"),
            ("[fe80::1]", "[fe80::1]:8502", "fe80::1"),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.host(), host);
        }
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused_with_its_text() {
        for text in ["", ":1", "a:0", "a:b", "a:65536", "https://a:1", "a b:1", "[zz]:1", "a/b"] {
            let error = Address::parse(text).expect_err(text);
            assert_eq!(error.field, "address");
            assert!(error.problem.contains(text), "{error}");
        }
    }
}
