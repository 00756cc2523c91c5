//! Many TCP connections that do nothing, or next to nothing: what they cost is bounded, and others are served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::ask::{A, framed, metric, question, tcp, udp};
use crate::case::{Checked, Need, check};
use crate::program::output;
use crate::registry::{DOMAIN, Registry};
use crate::stage::{Stage, installed};

/// What the case with many connections needs.
pub(super) const NEEDS: &[Need] = &[Need::Files(12_000), Need::Python("socket")];
/// Connections at a time that the server allows by default.
const ALLOWED: i64 = 1_000;
const CROWD: usize = 10_000;

/// Opens connections from many addresses of 127/8 and holds them. Python, because std has no way to choose the address
/// that a connection comes from.
const HOLD: &str = "import socket, sys, time, threading
server, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
held = []
for i in range(count):
    s = socket.socket()
    s.bind((f'127.{1 + i // 60000}.{i // 250 % 250}.{1 + i % 250}', 0))
    s.settimeout(5)
    s.connect(server)
    held.append(s)
print('held', flush=True)
time.sleep(600)";

/// p50 and p99 of so many questions by `ask`, each on its own.
fn measure(count: usize, mut ask: impl FnMut() -> Checked) -> Checked<(Duration, Duration)> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        ask()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok((times[count / 2], times[count * 99 / 100]))
}

/// Ten thousand from many addresses.
pub(super) fn idle(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.tcp_idle", "10m")])?;
    registry.register("web", "web-1", "http=127.0.0.11:80", &[])?;
    let (server, name) = (registry.dns(), format!("web.service.{DOMAIN}"));
    let served = || -> Checked {
        let reply = tcp(server, &name, A)?;
        check(reply.addresses.len() == 1, || format!("{reply:?}"))
    };
    let before = measure(200, served)?;
    let memory = registry.program.memory()?;
    let script = stage.write("hold.py", HOLD)?;
    let mut crowd = installed("python3");
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    crowd.arg(script).args([&ip, &port, &CROWD.to_string()]);
    let mut crowd = stage.start("crowd", &mut crowd)?;
    let log = stage.path("crowd.log");
    // Connecting waits for nobody's promise: where the queue of the listener overflows, the system tries again after
    // seconds, and the whole has taken from 30 s to more than 60.
    crate::program::until("the crowd stands", Duration::from_secs(180), || {
        crowd.check_alive()?;
        check(std::fs::read_to_string(&log)?.contains("held"), || "not all yet".to_owned())
    })?;
    let open = metric(&registry, "rollcall_dns_tcp_connections")?;
    check(open <= ALLOWED, || format!("{open} connections are open"))?;
    let during = measure(200, served)?;
    let over_udp = measure(200, || udp(server, &name, A).map(drop))?;
    let more = registry.program.memory()?.saturating_sub(memory);
    stage.note(&format!(
        "{CROWD} idle: {open} kept, {} made room, {more} KiB more; over TCP p50 {:?} p99 {:?} (alone {:?} {:?}), over UDP p99 {:?}",
        metric(&registry, "rollcall_dns_tcp_evicted_total")?,
        during.0, during.1, before.0, before.1, over_udp.1
    ));
    check(more < 64 << 10, || format!("{more} KiB more for {CROWD} idle connections"))?;
    crowd.kill()?;
    Ok(())
}

fn send_slowly(stream: &mut TcpStream, bytes: &[u8]) -> Checked<bool> {
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut length = [0; 2];
    Ok(stream.read_exact(&mut length).is_ok())
}

/// A slow sender within the idle time is served; one that never comes to an end is cut, and nobody waits for either.
pub(super) fn byte_wise(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.tcp_idle", "2s")])?;
    registry.register("web", "web-1", "http=127.0.0.11:80", &[])?;
    let (server, name): (SocketAddr, String) = (registry.dns(), format!("web.service.{DOMAIN}"));
    let query = framed(&question(7, &name, A));
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    check(send_slowly(&mut stream, &query)?, || "a slow sender was not served".to_owned())?;
    let mut slow = Vec::new();
    for _ in 0..90 {
        let mut stream = TcpStream::connect(server)?;
        // A promise of 200 bytes that is kept a byte at a time.
        stream.write_all(&[0, 200])?;
        slow.push(stream);
    }
    let begin = Instant::now();
    let mut served = 0;
    while begin.elapsed() < Duration::from_secs(6) {
        for stream in &mut slow {
            let _ = stream.write_all(&[0]);
        }
        let reply = tcp(server, &name, A)?;
        check(reply.addresses.len() == 1, || format!("{reply:?}"))?;
        served += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut open = 0;
    for stream in &mut slow {
        stream.set_nonblocking(true)?;
        let mut byte = [0];
        let alive = matches!(stream.read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        open += usize::from(alive);
    }
    stage.note(&format!(
        "90 byte-wise senders, {served} others served, {open} still open after 6 s"
    ));
    check(open == 0, || format!("{open} of 90 byte-wise senders are still connected"))?;
    output(&mut registry.command(&["resolve", "web"])).map(drop)
}
