//! Targets that misbehave: what they do costs the probe that met them, and at most 64 KiB; instances that are in order
//! beside them stay so. That a probe ends in time is proved where the clock is simulated; here it is told.

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
/// Instances that are in order all the time.
const HONEST: u32 = 20;
const HONEST_SERVICE: &str = "honest";
const HONEST_PORT: u16 = 7_002;
/// What a probe of a hostile target may cost while it runs.
const ALLOWED_KIB: f64 = 64.0;
/// What the server itself may grow by over all phases, whatever its probes meet: 400 verdicts with their reasons and
/// events, and memory that its allocator does not give back: mimalloc keeps pages for what comes next, and 460 to 2,450
/// KiB were seen. A body or a bomb that is held as a whole takes a hundred megabytes.
const OWN_KIB: f64 = 4096.0;
/// Share of the probes of a phase that may be late: the targets share the machine with the server.
const LATE_SHARE: f64 = 0.01;
/// For each way: every instance is probed this often.
const PHASE: Duration = Duration::from_secs(6);
const SAMPLE: Duration = Duration::from_millis(50);
/// A target gives up then; no probe holds on for so long.
const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST_BYTES: usize = 4 << 10;
/// Between two pages: the targets share the machine with the server.
const PAGE: Duration = Duration::from_millis(1);

/// What the targets do; the first one is in order. The last one holds most probes at a time: what those cost must not
/// hide what the others do.
const WAYS: [&str; 7] = [
    "in order",
    "redirects",
    "sends a body without end",
    "sends a header without end",
    "sends garbage",
    "sends a packed bomb",
    "drips a byte a second",
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
    let target = |n: u32| SocketAddr::from((Ipv4Addr::from(0x7f02_0000 + n), HONEST_PORT));
    let honest: Vec<SocketAddr> = (0..HONEST).map(target).collect();
    let service = HONEST_SERVICE.to_owned();
    let plan = Plan { service, targets: honest.clone(), listen: honest, ..plan };
    let _honest = plan.start(stage, "honest", None)?;
    until("all pass", LISTED, || {
        let passing = [healthy(&registry, SERVICE)?, healthy(&registry, HONEST_SERVICE)?];
        check(passing == [INSTANCES, HONEST], || format!("{passing:?} pass"))
    })?;
    let base = phase(&registry, &targets, 0)?;
    stage.note(&format!("{INSTANCES} targets {}: at most {} KiB", WAYS[0], base.memory));
    for (way, name) in WAYS.iter().enumerate().skip(1) {
        let seen = phase(&registry, &targets, way)?;
        let more = seen.memory.saturating_sub(base.memory);
        let allowed = OWN_KIB + ALLOWED_KIB * seen.running.max(1.0);
        stage.note(&format!(
            "{name}: {} probes at a time, {more} KiB more of {allowed} allowed, {} of {} late, at most {:.0} ms: {}",
            seen.running,
            seen.late,
            seen.probes,
            seen.slowest.as_secs_f64() * 1e3,
            seen.failure,
        ));
        check(f64::from(u32::try_from(more)?) <= allowed, || format!("{name}: {more} KiB"))?;
        check(!seen.failure.is_empty(), || format!("{name}: the probe passed"))?;
        check(seen.late <= seen.probes * LATE_SHARE, || format!("{name}: {} late", seen.late))?;
        let passing = healthy(&registry, HONEST_SERVICE)?;
        check(passing == HONEST, || format!("{name}: {passing} of {HONEST} honest ones pass"))?;
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
    /// Probes, and how many of them began late.
    probes: f64,
    late: f64,
    /// Why the last probe of one instance failed; empty: it passed.
    failure: String,
    /// The longest of its last probes.
    slowest: Duration,
}

/// How many instances of a service are healthy.
fn healthy(registry: &Registry, service: &str) -> Checked<u32> {
    let text = registry.run(&["ls", service, "-o", "json"])?;
    Ok(u32::try_from(text.matches("\"HEALTHY\"").count())?)
}

fn phase(registry: &Registry, targets: &Targets, way: usize) -> Checked<Seen> {
    targets.way.store(way, Ordering::SeqCst);
    // The probes that met the way before are over then.
    thread::sleep(INTERVAL + TIMEOUT);
    let before = Metrics::of(registry.nodes[0].http)?;
    let end = Instant::now() + PHASE;
    let (mut memory, mut running) = (0, 0.0_f64);
    while Instant::now() < end {
        memory = memory.max(registry.program.memory()?);
        running =
            running.max(Metrics::of(registry.nodes[0].http)?.sum("rollcall_probes_running", ""));
        thread::sleep(SAMPLE);
    }
    let after = Metrics::of(registry.nodes[0].http)?;
    let more = |name| after.sum(name, "") - before.sum(name, "");
    let (probes, late) = (more("rollcall_probes_total"), more("rollcall_probes_late_total"));
    let id = format!("{SERVICE}/127.1.0.7-{PORT}");
    let shown: Value = serde_json::from_str(&registry.run(&["check", "show", &id, "-o", "json"])?)?;
    let outputs = shown["checks"][0]["outputs"].as_array().cloned().unwrap_or_default();
    let last = outputs.last().ok_or_else(|| format!("{id} has no outputs: {shown}"))?;
    let failure = last["failure"].as_str().unwrap_or_default().to_owned();
    let seconds = outputs
        .iter()
        .filter_map(|output| output["latency"].as_str()?.strip_suffix('s')?.parse::<f64>().ok());
    let slowest = seconds.fold(0.0, f64::max);
    Ok(Seen { memory, running, probes, late, failure, slowest: Duration::from_secs_f64(slowest) })
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
            way @ (2 | 3) => {
                let head: &[u8] = match way {
                    2 => b"HTTP/1.1 200 OK\r\n\r\n",
                    _ => b"HTTP/1.1 200 OK\r\nX-Long: ",
                };
                let mut there = send(head);
                while there && going() {
                    there = send(&page);
                    thread::sleep(PAGE);
                }
                there
            }
            4 => send(&[0xf5; 8 << 10]),
            5 => {
                let length = self.bomb.len();
                let packed = "Content-Encoding: gzip\r\nContent-Length:";
                let head = format!("HTTP/1.1 200 OK\r\n{packed} {length}\r\n\r\n");
                send(head.as_bytes()) && send(&self.bomb)
            }
            _ => {
                while going() && send(b"H") {
                    thread::sleep(Duration::from_secs(1));
                }
                false
            }
        };
    }
}
