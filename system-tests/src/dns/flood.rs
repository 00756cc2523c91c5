//! Floods: names that nobody has, and one name from one prefix, many more than the client that
//! is watched asks. What a server does above its capacity is for benchmarks: there the network's queue decides.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::ask::{A, PATIENCE, metric, question, read};
use crate::case::{Checked, check};
use crate::registry::{DOMAIN, Registry};
use crate::stage::Stage;

/// Questions of the client that is watched.
const QUESTIONS: usize = 2_000;
/// Between two of them.
const PACE: Duration = Duration::from_millis(1);
/// The flood comes in bursts: so many, and so long between two.
const BURST: u32 = 20;
const BURST_PACE: Duration = Duration::from_millis(2);

/// p50 and p99 of one client's questions, and how many went unanswered.
fn client(registry: &Registry) -> Checked<(Duration, Duration, usize)> {
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
    Ok((times[times.len() / 2], times[times.len() * 99 / 100], lost))
}

/// One flooding program, which asks `names` from 127.0.0.2, beside one client with a service that exists.
fn beside(stage: &Stage, registry: &Registry, names: fn(u64) -> String) -> Checked {
    registry.register("web", "web-1", "http=127.0.0.11:80", &[])?;
    let alone = client(registry)?;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flood = {
        let (stop, sent, dns) = (stop.clone(), sent.clone(), registry.dns());
        let socket = UdpSocket::bind("127.0.0.2:0")?;
        thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..BURST {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let _ = socket.send_to(&question(1, &names(number), A), dns);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(BURST_PACE);
            }
        })
    };
    let begin = Instant::now();
    let flooded = client(registry);
    stop.store(true, Ordering::Relaxed);
    let _ = flood.join();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let pace = sent.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let flooded = flooded?;
    stage.note(&format!(
        "p50 {:?} p99 {:?} alone; {:?} {:?} beside {pace:.0} a second; {} of {QUESTIONS} lost",
        alone.0, alone.1, flooded.0, flooded.1, flooded.2
    ));
    check(flooded.2 * 100 <= QUESTIONS, || format!("{} of {QUESTIONS} are lost", flooded.2))
}

/// Names that nobody has, each only once.
pub(super) fn random_names(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[])?;
    beside(stage, &registry, |number| format!("x{number:016x}.service.{DOMAIN}"))
}

/// The same name again and again from a prefix that is not exempt: nearly all of it is dropped or cut short.
pub(super) fn one_prefix(stage: &mut Stage) -> Checked {
    // Room for the client itself, a thousand a second at most.
    let settings = [("dns.rate_exempt", ""), ("dns.rate_answers", "2000")];
    let registry = Registry::start(stage, 1, &settings)?;
    beside(stage, &registry, |_| format!("web.service.{DOMAIN}"))?;
    let dropped = metric(&registry, "rollcall_dns_drops_total{reason=\"limited\"}")?;
    let slipped = metric(&registry, "rollcall_dns_slipped_total")?;
    stage.note(&format!("{dropped} dropped, {slipped} sent to TCP"));
    check(dropped > 1_000 && slipped > 1_000, || format!("{dropped} dropped, {slipped} cut short"))
}
