//! Targets that misbehave: what they do costs the probe that met them, and at most 64 KiB. That it ends in time is
//! proved where the clock is simulated; here it is told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fleet::{Check, Plan};
use super::{INTERVAL, LISTED, SERVICE, TIMEOUT, TTL};
use crate::case::{Checked, check};
use crate::metrics::Metrics;
use crate::netns::network;
use crate::program::until;
use crate::registry::Registry;
use crate::stage::Stage;

const INSTANCES: u32 = 400;
const PORT: u16 = 7_000;
/// Where the redirects lead.
const ELSEWHERE: u16 = 7_001;
/// What a hostile target may cost, DESIGN.md 7.
const ALLOWED_KIB: u64 = 64;
/// For each way: every instance is probed this often.
const PHASE: Duration = Duration::from_secs(6);
const SAMPLE: Duration = Duration::from_millis(50);
/// A target gives up then; no probe holds on for so long.
const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST_BYTES: usize = 4 << 10;
/// Between two pages: the targets share the machine with the server.
const PAGE: Duration = Duration::from_millis(1);

/// What the targets do; the first one is in order.
const WAYS: [&str; 7] = [
    "in order",
    "redirects",
    "drips a byte a second",
    "sends a body without end",
    "sends a header without end",
    "sends garbage",
    "sends a packed bomb",
];

/// Makes a tenth of a megabyte that unpacks to a thousand times as much.
const BOMB: &str = "head -c 104857600 /dev/zero | gzip -9";

/// All targets: every address of 127/8 leads to the one listener.
struct Targets {
    way: AtomicUsize,
    bomb: Vec<u8>,
    /// Connections to where the redirects lead.
    followed: AtomicU32,
}

/// Every way in turn, beside what the same instances cost when they are in order.
pub(super) fn play(stage: &mut Stage) -> Checked {
    network(stage, 1)?[0].enter()?;
    let bomb = Command::new("sh").args(["-c", BOMB]).output()?.stdout;
    check(bomb.len() > 10_000, || format!("a bomb of {} bytes", bomb.len()))?;
    let targets = Targets { way: AtomicUsize::new(0), bomb, followed: AtomicU32::new(0) };
    let targets = Arc::new(targets);
    targets.listen()?;
    let registry = Registry::start(stage, 1, &[])?;
    let target = |n: u32| SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + n), PORT));
    let plan = Plan {
        registry: vec![registry.nodes[0].grpc],
        service: SERVICE.to_owned(),
        targets: (0..INSTANCES).map(target).collect(),
        listen: Vec::new(),
        ttl: TTL,
        check: Check::Http,
        interval: INTERVAL,
    };
    let _fleet = plan.start(stage, "fleet", None)?;
    until("all pass", LISTED, || {
        let text = registry.run(&["ls", SERVICE, "-o", "json"])?;
        let passing = text.matches("\"HEALTHY\"").count();
        check(passing >= INSTANCES as usize, || format!("{passing} pass"))
    })?;
    let base = phase(&registry, &targets, 0)?;
    stage.note(&format!("{INSTANCES} targets {}: at most {} KiB", WAYS[0], base.memory));
    for (way, name) in WAYS.iter().enumerate().skip(1) {
        let seen = phase(&registry, &targets, way)?;
        let more = seen.memory.saturating_sub(base.memory);
        stage.note(&format!(
            "{name}: {} probes at a time, {more} KiB more, at most {:.0} ms: {}",
            seen.running,
            seen.slowest.as_secs_f64() * 1e3,
            seen.failure,
        ));
        check(more <= ALLOWED_KIB * u64::from(INSTANCES), || format!("{name}: {more} KiB"))?;
        check(!seen.failure.is_empty(), || format!("{name}: the probe passed"))?;
    }
    let followed = targets.followed.load(Ordering::SeqCst);
    check(followed == 0, || format!("{followed} redirects were followed"))
}

/// What one way came to.
struct Seen {
    /// Most memory of the server, KiB.
    memory: u64,
    /// Most probes at a time.
    running: f64,
    /// Why the last probe of one instance failed; empty: it passed.
    failure: String,
    /// The longest of its last probes.
    slowest: Duration,
}

fn phase(registry: &Registry, targets: &Targets, way: usize) -> Checked<Seen> {
    targets.way.store(way, Ordering::SeqCst);
    // The probes that met the way before are over then.
    thread::sleep(INTERVAL + TIMEOUT);
    let end = Instant::now() + PHASE;
    let (mut memory, mut running) = (0, 0.0_f64);
    while Instant::now() < end {
        memory = memory.max(registry.program.memory()?);
        running =
            running.max(Metrics::of(registry.nodes[0].http)?.sum("rollcall_probes_running", ""));
        thread::sleep(SAMPLE);
    }
    let id = format!("{SERVICE}/127.1.0.7-{PORT}");
    let shown: Value = serde_json::from_str(&registry.run(&["check", "show", &id, "-o", "json"])?)?;
    let outputs = shown["checks"][0]["outputs"].as_array().cloned().unwrap_or_default();
    let last = outputs.last().ok_or_else(|| format!("{id} has no outputs: {shown}"))?;
    let failure = last["failure"].as_str().unwrap_or_default().to_owned();
    let seconds = outputs
        .iter()
        .filter_map(|output| output["latency"].as_str()?.strip_suffix('s')?.parse::<f64>().ok());
    let slowest = seconds.fold(0.0, f64::max);
    Ok(Seen { memory, running, failure, slowest: Duration::from_secs_f64(slowest) })
}

impl Targets {
    fn listen(self: &Arc<Self>) -> Checked {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        let targets = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let targets = targets.clone();
                thread::spawn(move || targets.answer(stream));
            }
        });
        let elsewhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ELSEWHERE))?;
        let targets = self.clone();
        thread::spawn(move || {
            for _ in elsewhere.incoming() {
                targets.followed.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(())
    }

    /// One request. A prober that goes away is its own matter.
    fn answer(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let mut request = [0; REQUEST_BYTES];
        if !matches!(stream.read(&mut request), Ok(1..)) {
            return;
        }
        let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
        let page = [b'x'; 16 << 10];
        let end = Instant::now() + PATIENCE;
        let going = || Instant::now() < end;
        // Whether the prober was there to the end is its own matter.
        let _heard = match self.way.load(Ordering::SeqCst) {
            0 => send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            1 => {
                let to = format!("Location: http://127.0.0.1:{ELSEWHERE}/");
                let text = format!("HTTP/1.1 302 Found\r\n{to}\r\nContent-Length: 0\r\n\r\n");
                send(text.as_bytes())
            }
            2 => {
                while going() && send(b"H") {
                    thread::sleep(Duration::from_secs(1));
                }
                false
            }
            way @ (3 | 4) => {
                let head: &[u8] = match way {
                    3 => b"HTTP/1.1 200 OK\r\n\r\n",
                    _ => b"HTTP/1.1 200 OK\r\nX-Long: ",
                };
                let mut there = send(head);
                while there && going() {
                    there = send(&page);
                    thread::sleep(PAGE);
                }
                there
            }
            5 => send(&[0xf5; 8 << 10]),
            _ => {
                let length = self.bomb.len();
                let packed = "Content-Encoding: gzip\r\nContent-Length:";
                let head = format!("HTTP/1.1 200 OK\r\n{packed} {length}\r\n\r\n");
                send(head.as_bytes()) && send(&self.bomb)
            }
        };
    }
}
