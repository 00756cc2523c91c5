//! Targets good and hostile, on loopback. A hostile one counts its connections: there is never a second one.

use super::{Prober, Report};
use crate::{check::egress::Egress, host::Host};
use rollcall_core::check::{Failure, HttpProbe, Probe};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

const TIMEOUT: Duration = Duration::from_millis(400);
/// A probe ends within its timeout; the rest is room for a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// A listener that treats every connection alike and counts them.
struct Target {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Target {
    async fn new<F: Future<Output = ()> + Send>(
        treat: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections) =
            (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let treat = treat.clone();
                tokio::spawn(async move { treat(stream).await });
            }
        });
        Self { address, connections }
    }

    /// Answers every request with these bytes and closes.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::new(move |mut stream| {
            let answer = answer.clone();
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    /// Sends `first` once, then `again` for ever, with a pause between.
    async fn endless(first: &'static [u8], again: &'static [u8], pause: Duration) -> Self {
        // A flood comes in large pieces, a trickle in small ones.
        let again: Arc<[u8]> = again.repeat(if pause.is_zero() { 1_000 } else { 1 }).into();
        Self::new(move |mut stream| {
            let again = again.clone();
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(first).await;
                while stream.write_all(&again).await.is_ok() {
                    sleep(pause).await;
                }
            }
        })
        .await
    }

    async fn probe(&self, probe: &Probe) -> Report {
        let egress = Egress::new(true, Vec::new());
        let prober = Prober::new(&Host::system(7), egress);
        let began = Instant::now();
        let report = prober.probe(self.address, probe, TIMEOUT).await;
        let took = began.elapsed();
        assert!(took < TIMEOUT + SLACK, "{took:?}: {report:?}");
        let connections = || self.connections.load(Ordering::SeqCst);
        while connections() == 0 {
            assert!(began.elapsed() < TIMEOUT + SLACK, "never accepted: {report:?}");
            tokio::task::yield_now().await;
        }
        assert_eq!(connections(), 1, "{report:?}");
        assert!(report.output.len() <= super::OUTPUT_BYTES_MAX);
        assert!(!report.output.chars().any(char::is_control), "{report:?}");
        report
    }

    async fn fails(&self, probe: &Probe, kind: Failure, says: &str) {
        let report = self.probe(probe).await;
        assert_eq!(report.probed.failure, Some(kind), "{report:?}");
        assert!(report.output.contains(says), "{says:?} in {report:?}");
    }

    async fn passes(&self, probe: &Probe, says: &str) {
        let report = self.probe(probe).await;
        assert_eq!(report.probed.failure, None, "{report:?}");
        assert!(report.output.contains(says), "{says:?} in {report:?}");
    }
}

/// Reads the head of a request, or what comes of it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap_or(0) == 1 {
        read.push(byte[0]);
    }
    read
}

fn get() -> Probe {
    Probe::Http(HttpProbe::default())
}

fn containing(text: &str) -> Probe {
    Probe::Http(HttpProbe { body_contains: text.into(), ..HttpProbe::default() })
}

const TCP: Probe = Probe::Tcp { tls: false };

fn grpc(service: &str) -> Probe {
    Probe::Grpc { service: service.into(), tls: false }
}

#[tokio::test]
async fn a_connection_is_all_that_a_tcp_probe_wants() {
    let target = Target::answering("").await;
    target.passes(&TCP, &format!("connected to {}", target.address)).await;
}

#[tokio::test]
async fn a_closed_port_fails_at_once_and_says_so() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let prober = Prober::new(&Host::system(7), Egress::new(true, Vec::new()));
    let report = prober.probe(address, &TCP, TIMEOUT).await;
    assert_eq!(report.probed.failure, Some(Failure::Refused));
    assert!(report.output.contains(&address.to_string()), "{report:?}");
}

#[tokio::test]
async fn an_http_answer_is_judged_by_its_code_and_its_text() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfine!";
    Target::answering(ok).await.passes(&get(), "HTTP 200 OK: fine!").await;
    Target::answering(ok).await.passes(&containing("ine"), "fine!").await;
    let target = Target::answering(ok).await;
    target.fails(&containing("good"), Failure::Body, "does not contain \"good\"").await;
    let ill = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nno\ndisk!";
    let target = Target::answering(ill).await;
    target.fails(&get(), Failure::Code, "HTTP 503 Service Unavailable: no disk!").await;
    let old = "HTTP/1.0 200 OK\r\n\r\nuntil the end";
    Target::answering(old).await.passes(&get(), "until the end").await;
    let chunks =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    Target::answering(chunks).await.passes(&containing("abc"), "abc").await;
}

#[tokio::test]
async fn a_request_is_what_the_check_says_and_one_connection_long() {
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let target = Target::new(move |mut stream| {
        let heads = heads.clone();
        async move {
            heads.send(String::from_utf8(head(&mut stream).await).unwrap()).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let probe = HttpProbe {
        path: "/health?deep=1".into(),
        headers: vec![("host".into(), "shop".into()), ("x-from".into(), "a b".into())],
        ..HttpProbe::default()
    };
    target.passes(&Probe::Http(probe), "HTTP 204 No Content").await;
    let head = seen.recv().await.unwrap();
    assert!(head.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{head}");
    let wanted = ["host: shop", "x-from: a b", "accept-encoding: identity", "connection: close"];
    for line in wanted {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
    }
}

#[tokio::test]
async fn a_long_body_with_an_end_is_judged_by_its_beginning() {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 100_000).into_bytes();
    answer.resize(answer.len() + 100_000, b'x');
    Target::answering(answer.clone()).await.passes(&get(), "xxx").await;
    answer.extend_from_slice(b"end");
    let target = Target::answering(answer).await;
    target.fails(&containing("end"), Failure::Body, "does not contain").await;
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = Target::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let places = [
        format!("http://{}/", elsewhere.address),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1:70/".to_owned(),
        "//[::ffff:169.254.169.254]/".to_owned(),
    ];
    for place in places {
        for code in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
            let answer =
                format!("HTTP/1.1 {code}\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n");
            let target = Target::answering(answer).await;
            target.fails(&get(), Failure::Redirect, "not followed").await;
        }
    }
    let refresh = format!(
        "HTTP/1.1 200 OK\r\nrefresh: 0; url=http://{0}/\r\nlink: <http://{0}/>; rel=preload\r\nalt-svc: \
         h2=\"{0}\"\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    );
    Target::answering(refresh).await.passes(&get(), "HTTP 200").await;
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_target_that_never_ends_fails_within_the_timeout() {
    let slow = Duration::from_millis(100);
    let drip = Target::endless(b"", b"H", slow).await;
    drip.fails(&get(), Failure::Timeout, "no answer in time").await;
    let drip =
        Target::endless(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", b"x", slow).await;
    drip.fails(&get(), Failure::Timeout, "the body did not end in time").await;
    let early = Target::endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", slow).await;
    early.fails(&get(), Failure::Timeout, "").await;
    let silent = Target::new(|stream| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    let silent = silent.await;
    silent.fails(&get(), Failure::Timeout, "400ms").await;
}

#[tokio::test]
async fn a_target_that_sends_too_much_is_left() {
    let now = Duration::ZERO;
    let big = b"xxxxxxxxxxxxxxxx";
    let body = Target::endless(b"HTTP/1.1 200 OK\r\n\r\n", big, now).await;
    body.fails(&get(), Failure::Body, "does not say where it ends").await;
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = Target::endless(chunked, b"400\r\n", now).await;
    chunks.fails(&get(), Failure::Protocol, "").await;
    let lying = b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n";
    let lying = Target::endless(lying, big, now).await;
    lying.fails(&get(), Failure::Body, "does not say where it ends").await;
    let header = Target::endless(b"HTTP/1.1 200 OK\r\nx-long: ", big, now).await;
    header.fails(&get(), Failure::Protocol, "HTTP").await;
    let headers = Target::endless(b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n", now).await;
    headers.fails(&get(), Failure::Protocol, "HTTP").await;
    let trailers = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    let trailers = Target::endless(trailers, b"x-more: 1\r\n", now).await;
    trailers.fails(&get(), Failure::Protocol, "").await;
}

#[tokio::test]
async fn what_is_not_http_fails() {
    let wrong: [&[u8]; 7] = [
        b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
    ];
    for answer in wrong {
        Target::answering(answer).await.fails(&get(), Failure::Protocol, "").await;
    }
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    Target::answering(short).await.fails(&get(), Failure::Closed, "HTTP 200 OK: half").await;
    Target::answering("").await.fails(&get(), Failure::Closed, "closed").await;
}

#[tokio::test]
async fn a_packed_body_is_not_unpacked() {
    let mut bomb =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 64\r\n\r\n".to_vec();
    bomb.extend_from_slice(&[0x1f; 64]);
    let target = Target::answering(bomb).await;
    target.fails(&get(), Failure::Body, "packed as gzip").await;
}

#[tokio::test]
async fn hostile_targets_fail_every_kind_of_probe() {
    let garbage: &[u8] = &[0x16, 0x03, 0x01, 0xff, 0xff, 0xde, 0xad, 0xbe, 0xef];
    let kinds = [
        (Probe::Tcp { tls: true }, Failure::Tls),
        (Probe::Http(HttpProbe { tls: true, ..HttpProbe::default() }), Failure::Tls),
        (Probe::Grpc { service: "".into(), tls: true }, Failure::Tls),
        (grpc(""), Failure::Protocol),
    ];
    for (probe, kind) in kinds {
        let flood = move |mut stream: TcpStream| async move {
            while stream.write_all(&[0x16; 4 << 10]).await.is_ok() {}
        };
        Target::new(flood).await.fails(&probe, kind, "").await;
        let once = move |mut stream: TcpStream| async move {
            let _ = stream.write_all(garbage).await;
        };
        Target::new(once).await.fails(&probe, kind, "").await;
        let silent = |stream: TcpStream| async move {
            sleep(Duration::from_secs(60)).await;
            drop(stream);
        };
        Target::new(silent).await.fails(&probe, Failure::Timeout, "").await;
    }
}

#[tokio::test]
async fn a_target_that_keeps_an_http2_stream_open_fails_within_the_timeout() {
    // Settings and their acknowledgement, then pings for ever, but no answer.
    let target = Target::new(|mut stream| async move {
        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        let _ = stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await;
        let mut rest = [0; 1024];
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        while stream.write_all(&ping).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(10), stream.read(&mut rest)).await;
        }
    });
    target.await.fails(&grpc(""), Failure::Timeout, "").await;
}

/// A gRPC health service as tonic makes it, in which `shop` is well and `cart` is not.
async fn serve_health(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("cart", tonic_health::ServingStatus::NotServing).await;
    let connection = crate::net::Connection::new(stream, None, None);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(connection));
    let _ = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await;
}

#[tokio::test]
async fn a_grpc_health_service_is_asked() {
    let target = || Target::new(serve_health);
    target().await.passes(&grpc("shop"), "SERVING").await;
    target().await.passes(&grpc(""), "SERVING").await;
    target().await.fails(&grpc("cart"), Failure::NotServing, "NOT_SERVING").await;
    target().await.fails(&grpc("toys"), Failure::NotServing, "does not know").await;
}

fn acceptor(alpn: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["somewhere.else".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

#[tokio::test]
async fn tls_is_spoken_with_any_certificate() {
    let serving = |alpn: &[&[u8]]| {
        let acceptor = acceptor(alpn);
        Target::new(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return serve_health(stream).await;
                }
                head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsecret").await;
                let _ = stream.shutdown().await;
            }
        })
    };
    serving(&[]).await.passes(&Probe::Tcp { tls: true }, "TLS handshake done").await;
    let https = Probe::Http(HttpProbe { tls: true, ..HttpProbe::default() });
    serving(&[b"http/1.1"]).await.passes(&https, "secret").await;
    let grpcs = Probe::Grpc { service: "shop".into(), tls: true };
    serving(&[b"h2"]).await.passes(&grpcs, "SERVING").await;
    serving(&[b"http/1.1"]).await.fails(&grpcs, Failure::Tls, "").await;
    serving(&[]).await.fails(&grpcs, Failure::Tls, "does not offer h2").await;
}
