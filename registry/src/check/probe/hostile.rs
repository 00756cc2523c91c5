//! Hostile targets over connections in memory: each fails at its timeout or before, and nothing is connected to but the
//! registered address. `tests` has more of them, on real sockets.

use super::{Prober, Report};
use crate::{
    check::egress::Egress,
    host::Host,
    net::{BoxFuture, Connection, Datagrams, Listener, Net},
};
use rollcall_core::check::{Failure, HttpProbe, Probe};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, sleep},
};

const TIMEOUT: Duration = Duration::from_millis(300);
/// Room for a busy machine.
const ROOM: Duration = Duration::from_secs(2);
const TARGET: &str = "10.0.0.1:80";

/// What a target does with a connection.
type Treat = fn(DuplexStream) -> BoxFuture<'static, ()>;

/// A network of one target, which notes every address that is connected to.
#[derive(Debug, Clone)]
struct One {
    treat: Treat,
    tried: Arc<Mutex<Vec<SocketAddr>>>,
}

impl One {
    fn new(treat: Treat) -> Self {
        Self { treat, tried: Arc::default() }
    }

    fn tried(&self) -> Vec<String> {
        self.tried.lock().unwrap().iter().map(SocketAddr::to_string).collect()
    }

    /// Probes an address; returns what came of it, and how long it took.
    async fn probe(&self, address: SocketAddr, probe: &Probe) -> (Report, Duration) {
        let host = Host { net: Arc::new(self.clone()), ..Host::system(7) };
        let members = vec!["10.0.0.9:8502".parse().unwrap(), "10.0.0.9:8300".parse().unwrap()];
        let prober = Prober::new(&host, Egress::new(false, members));
        let began = Instant::now();
        let report = prober.probe(address, probe, TIMEOUT).await;
        (report, began.elapsed())
    }
}

impl Net for One {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        panic!("nobody listens on {address}")
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Connection>> {
        self.tried.lock().unwrap().push(address);
        let (near, far) = duplex(16 << 10);
        tokio::spawn((self.treat)(far));
        Box::pin(std::future::ready(Ok(Connection::new(near, None, Some(address)))))
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        panic!("nobody binds {address}")
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

/// Writes `first`, then `again` for ever with a pause between.
async fn for_ever(mut stream: DuplexStream, first: &[u8], again: &[u8], pause: Duration) {
    let mut head = [0; 256];
    let _ = stream.read(&mut head).await;
    let _ = stream.write_all(first).await;
    while stream.write_all(again).await.is_ok() {
        // A pause of nothing would be one of a millisecond.
        match pause.is_zero() {
            true => tokio::task::yield_now().await,
            false => sleep(pause).await,
        }
    }
}

/// A flood comes in pieces of 4 KiB, as fast as it is read.
fn flood(
    stream: DuplexStream,
    first: &'static [u8],
    again: &'static [u8],
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let again = again.repeat((4 << 10) / again.len());
        for_ever(stream, first, &again, Duration::ZERO).await;
    })
}

/// A trickle of a few bytes before the timeout.
fn drip(stream: DuplexStream, first: &'static [u8]) -> BoxFuture<'static, ()> {
    Box::pin(for_ever(stream, first, b"x", TIMEOUT / 4))
}

fn once(mut stream: DuplexStream, answer: &'static [u8]) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut head = [0; 256];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(answer).await;
    })
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const LONG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const HEADER: &[u8] = b"HTTP/1.1 200 OK\r\nx-long: ";
const GZIP: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const REDIRECT: &[u8] = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\r\n";
const LOOPBACK: &[u8] =
    b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:8300/\r\ncontent-length: 0\r\n\r\n";
const FILE: &[u8] = b"HTTP/1.1 301 X\r\nlocation: file:///etc/passwd\r\n\r\n";
const GOPHER: &[u8] = b"HTTP/1.1 308 X\r\nlocation: gopher://127.0.0.1:70/\r\n\r\n";

fn http() -> Probe {
    Probe::Http(HttpProbe::default())
}

fn grpc() -> Probe {
    Probe::Grpc { service: "".into(), tls: false }
}

/// Every hostile target, and how its probe fails at once. `None`: it is slow, and fails somehow by its timeout.
fn hostile() -> [(&'static str, Probe, Treat, Option<Failure>); 19] {
    use Failure::{Body, Closed, Protocol, Redirect};
    [
        ("a line that drips", http(), |s| drip(s, b""), None),
        ("a body that drips", http(), |s| drip(s, LONG), None),
        ("a header that drips", http(), |s| drip(s, HEADER), None),
        ("chunks that drip", http(), |s| drip(s, CHUNKED), None),
        ("an endless body", http(), |s| flood(s, OK, b"x"), Some(Body)),
        ("an endless packed body", http(), |s| flood(s, GZIP, b"\x1f\x8b"), Some(Body)),
        ("an endless header", http(), |s| flood(s, HEADER, b"x"), Some(Protocol)),
        (
            "endless headers",
            http(),
            |s| flood(s, b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
            Some(Protocol),
        ),
        ("bad chunks", http(), |s| flood(s, CHUNKED, b"zz\r\n"), Some(Protocol)),
        ("garbage", http(), |s| flood(s, b"\x00\x01\xff\xfe", b"\xde\xad\xbe\xef"), Some(Protocol)),
        ("HTTP/2", http(), |s| once(s, PREFACE), Some(Protocol)),
        ("nothing", http(), |s| once(s, b""), Some(Closed)),
        ("a redirect to metadata", http(), |s| once(s, REDIRECT), Some(Redirect)),
        ("a redirect to loopback", http(), |s| once(s, LOOPBACK), Some(Redirect)),
        ("a redirect to a file", http(), |s| once(s, FILE), Some(Redirect)),
        ("a redirect to gopher", http(), |s| once(s, GOPHER), Some(Redirect)),
        ("gRPC that drips", grpc(), |s| drip(s, b""), None),
        ("gRPC garbage", grpc(), |s| flood(s, b"", b"\xde\xad\xbe\xef"), Some(Protocol)),
        ("gRPC over HTTP/1", grpc(), |s| once(s, OK), Some(Protocol)),
    ]
}

#[tokio::test]
async fn every_hostile_target_fails_within_its_timeout_and_is_left_alone() {
    for (what, probe, treat, expected) in hostile() {
        let net = One::new(treat);
        let (report, took) = net.probe(TARGET.parse().unwrap(), &probe).await;
        let failure = report.probed.failure.expect(what);
        // One that is left at once does not run into the timeout, which would be a failure of another kind.
        let expected = expected.unwrap_or(failure);
        assert_eq!(failure, expected, "{what}: {report:?}");
        assert!(took < TIMEOUT + ROOM, "{what}: {took:?}: {report:?}");
        assert_eq!(net.tried(), [TARGET], "{what}");
    }
}

#[tokio::test]
async fn what_no_instance_can_have_is_not_connected_to() {
    let net = One::new(|stream| once(stream, OK));
    for address in [
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:a9fe:a9fe::1]:80",
        "[fd00:ec2::254]:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "[fe80::1]:80",
        // Where members listen.
        "10.0.0.9:8502",
        "10.0.0.9:8300",
        "[::ffff:10.0.0.9]:8300",
    ] {
        for probe in [Probe::Tcp { tls: false }, Probe::Tcp { tls: true }, http(), grpc()] {
            let (report, _) = net.probe(address.parse().unwrap(), &probe).await;
            assert_eq!(report.probed.failure, Some(Failure::Forbidden), "{address}: {report:?}");
        }
    }
    assert_eq!(net.tried(), [""; 0]);
}
