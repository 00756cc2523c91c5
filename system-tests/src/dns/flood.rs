//! Floods: names that nobody has, tags that nobody has on a large service, and one name from one prefix, many more than
//! the client that is watched asks. What a server does above its capacity is for benchmarks: there the network's queue
//! decides.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ask::{A, PATIENCE, metric, question, read};
use super::listing::register;
use crate::case::{Checked, check};
use crate::registry::{DOMAIN, Registry};
use crate::stage::Stage;

/// Questions of the client that is watched.
const QUESTIONS: usize = 2_000;
/// Between two of them.
const PACE: Duration = Duration::from_millis(1);
/// Questions a second of the flood, and how long it rests where it is ahead.
const FLOOD: f64 = 10_000.0;
const REST: Duration = Duration::from_millis(1);
/// A p99 below this says more about the machine than about the server, and counts as this.
const SMALL: Duration = Duration::from_millis(1);
/// Other programs disturb a measurement, and never improve it.
const TRIES: usize = 3;
/// Type TXT.
const TXT: u16 = 16;
/// As many instances as a service can have.
const LARGE: usize = 20_000;

/// Times of one client's questions, and how many went unanswered.
#[derive(Clone, Copy, Debug)]
struct Served {
    half: Duration,
    most: Duration,
    lost: usize,
}

fn client(registry: &Registry) -> Checked<Served> {
    // In another /24 than the flood.
    let socket = UdpSocket::bind("127.9.9.9:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(registry.dns())?;
    let query = question(9, &format!("web.service.{DOMAIN}"), A);
    let (mut times, mut lost, mut reply) = (Vec::new(), 0, [0; 1500]);
    for _ in 0..QUESTIONS {
        let begin = Instant::now();
        socket.send(&query)?;
        match socket.recv(&mut reply) {
            Ok(length) => {
                let reply = read(&reply[..length], query.len())?;
                check(reply.addresses.len() == 1, || format!("{reply:?}"))?;
                times.push(begin.elapsed());
            }
            Err(_) => lost += 1,
        }
        thread::sleep(PACE);
    }
    times.sort_unstable();
    check(!times.is_empty(), || "nothing was answered".to_owned())?;
    Ok(Served { half: times[times.len() / 2], most: times[times.len() * 99 / 100], lost })
}

/// A program that asks without waiting for answers, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// The n-th question: a name and a type.
type Names = fn(u64) -> (String, u16);

impl Flood {
    fn start(dns: SocketAddr, names: Names) -> Checked<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let socket = UdpSocket::bind("127.0.0.2:0")?;
        let (stopped, counter, begin) = (stop.clone(), sent.clone(), Instant::now());
        let thread = thread::spawn(move || {
            let (mut number, mut count) = (0_u64, 0.0);
            while !stopped.load(Ordering::Relaxed) {
                while count < begin.elapsed().as_secs_f64() * FLOOD {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (name, kind) = names(number);
                    let _ = socket.send_to(&question(1, &name, kind), dns);
                    counter.fetch_add(1, Ordering::Relaxed);
                    count += 1.0;
                }
                thread::sleep(REST);
            }
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One flooding program, which asks `names` from 127.0.0.2, beside one client with a service that exists: its p99 stays
/// within twice the one that it has alone, or within 2 ms where that is below 1 ms, and next to nothing of it is lost.
fn beside(stage: &Stage, registry: &Registry, names: Names) -> Checked {
    registry.register("web", "web-1", "http=127.0.0.11:80", &[])?;
    let mut tries = 0;
    loop {
        tries += 1;
        let alone = client(registry)?;
        let flood = Flood::start(registry.dns(), names)?;
        let flooded = client(registry)?;
        let allowed = 2 * alone.most.max(SMALL);
        stage.note(&format!(
            "p50 {:?} p99 {:?} alone; {:?} {:?} beside {} questions, p99 {allowed:?} allowed; {} of {QUESTIONS} lost",
            alone.half,
            alone.most,
            flooded.half,
            flooded.most,
            flood.sent(),
            flooded.lost
        ));
        drop(flood);
        let lost = check(flooded.lost * 100 <= QUESTIONS, || format!("{} are lost", flooded.lost));
        let slow = check(flooded.most <= allowed, || {
            format!("p99 {:?} beside the flood, allowed {allowed:?}", flooded.most)
        });
        match lost.and(slow) {
            Err(_) if tries < TRIES => {}
            done => return done,
        }
    }
}

/// Names that nobody has, each only once.
pub(super) fn random_names(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[])?;
    beside(stage, &registry, |number| (format!("x{number:016x}.service.{DOMAIN}"), A))?;
    let unknown = "rollcall_dns_queries_total{type=\"A\",code=\"NXDOMAIN\",transport=\"udp\"";
    let answered = metric(&registry, unknown)?;
    stage.note(&format!("{answered} times NXDOMAIN"));
    check(answered > 1_000, || format!("the flood has not arrived: {answered} times NXDOMAIN"))
}

/// Tags that nobody has, and texts, of the largest service that there can be: each costs a look at all instances.
pub(super) fn costly_names(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[])?;
    register(&registry, "large", LARGE)?;
    beside(stage, &registry, |number| match number % 4 {
        0 => (format!("large.service.{DOMAIN}"), TXT),
        _ => (format!("x{number:016x}.large.service.{DOMAIN}"), A),
    })?;
    let busy = metric(&registry, "rollcall_dns_drops_total{reason=\"busy\"}")?;
    let texts = "rollcall_dns_queries_total{type=\"TXT\",code=\"NOERROR\",transport=\"udp\"";
    let texts = metric(&registry, texts)?;
    stage.note(&format!("{busy} dropped, {texts} texts answered"));
    check(busy > 1_000 && texts > 10, || format!("{busy} dropped, {texts} texts answered"))
}

/// The same name again and again from a prefix that is not exempt: nearly all of it is dropped or cut short.
pub(super) fn one_prefix(stage: &mut Stage) -> Checked {
    // Room for the client itself, a thousand a second at most.
    let settings =
        [("dns.rate_exempt", ""), ("dns.rate_answers", "2000"), ("dns.rate_window", "1s")];
    let registry = Registry::start(stage, 1, &settings)?;
    beside(stage, &registry, |_| (format!("web.service.{DOMAIN}"), A))?;
    let dropped = metric(&registry, "rollcall_dns_drops_total{reason=\"limited\"}")?;
    let slipped = metric(&registry, "rollcall_dns_slipped_total")?;
    stage.note(&format!("{dropped} dropped, {slipped} sent to TCP"));
    check(dropped > 1_000 && slipped > 1_000, || format!("{dropped} dropped, {slipped} cut short"))
}
