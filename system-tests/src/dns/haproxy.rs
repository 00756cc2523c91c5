//! HAProxy: `server-template` over SRV. Measured before: it reads weights as (weight + 255) / 256, refuses address
//! answers with TC, and lets every server go that is missing from an answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::backend::{Backend, get};
use crate::case::{Checked, Need, check};
use crate::program::{Program, free_port, until};
use crate::registry::{DOMAIN, Registry};
use crate::stage::{Stage, installed};

/// What these cases need.
pub(super) const NEEDS: &[Need] = &[Need::Program("haproxy")];
/// Longest wait for a change to show.
const SOON: Duration = Duration::from_secs(15);

/// A running HAProxy.
struct HaProxy {
    _program: Program,
    front: SocketAddr,
    socket: std::path::PathBuf,
}

impl HaProxy {
    fn start(stage: &Stage, dns: SocketAddr, slots: u32, resolvers: &str) -> Checked<Self> {
        let front = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let socket = stage.path("haproxy.sock");
        let config = format!(
            "global
  stats socket {} mode 600 level admin
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
resolvers rollcall
  nameserver n1 {dns}
  timeout resolve 200ms
  timeout retry 500ms
  hold valid 1s
  hold nx 1s
  hold other 1s
  hold refused 1s
  hold timeout 5s
{resolvers}
frontend in
  bind {front}
  default_backend web
backend web
  balance roundrobin
  server-template web {slots} _web._tcp.service.{DOMAIN} resolvers rollcall resolve-prefer ipv4 init-addr none
",
            socket.display()
        );
        let path = stage.write("haproxy.cfg", &config)?;
        let program = stage.start("haproxy", installed("haproxy").args(["-db", "-f"]).arg(path))?;
        let haproxy = Self { _program: program, front, socket };
        until("HAProxy answers on its socket", SOON, || haproxy.servers().map(drop))?;
        Ok(haproxy)
    }

    fn say(&self, words: &str) -> Checked<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(words.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The filled slots: address and port, and their weight.
    fn servers(&self) -> Checked<BTreeMap<String, u32>> {
        let text = self.say("show servers state web\n")?;
        let mut filled = BTreeMap::new();
        // be_id be_name srv_id srv_name srv_addr op_state admin_state uweight ... srv_port is the 19th.
        for fields in text.lines().skip(2).map(|line| line.split(' ').collect::<Vec<_>>()) {
            let (Some(address), Some(weight), Some(port)) =
                (fields.get(4), fields.get(7), fields.get(18))
            else {
                continue;
            };
            // Bit 0x20 of the administrative state: in maintenance for lack of an address.
            let admin: u32 = fields[6].parse()?;
            if admin & 0x20 == 0 && *address != "-" {
                filled.insert(format!("{address}:{port}"), weight.parse()?);
            }
        }
        Ok(filled)
    }

    fn has(&self, expected: &[(&str, u32)]) -> Checked {
        let expected = expected.iter().map(|(address, weight)| ((*address).to_owned(), *weight));
        let (expected, got) = (expected.collect::<BTreeMap<_, _>>(), self.servers()?);
        check(got == expected, || format!("{got:?}, not {expected:?}"))
    }
}

/// Slots, weights, a crash, draining, and back.
pub(super) fn follows(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s")])?;
    let one = Backend::start("127.0.0.11:0", "one")?;
    let two = Backend::start("127.0.0.12:0", "two")?;
    let three = Backend::start("127.0.0.13:0", "three")?;
    let [a, b, c] = [&one, &two, &three].map(|backend| backend.address.to_string());
    registry.register("web", "one", &format!("http={a}"), &["--weight", "1"])?;
    registry.register("web", "two", &format!("http={b}"), &["--weight", "3"])?;
    let haproxy = HaProxy::start(stage, registry.dns(), 10, "")?;
    until("both slots", SOON, || haproxy.has(&[(&a, 1), (&b, 3)]))?;
    for _ in 0..400 {
        get(haproxy.front, "/")?;
    }
    let (first, second) = (one.answered(), two.answered());
    stage.note(&format!("weights 1:3 gave {first}:{second} of 400 requests"));
    check((90..=110).contains(&first), || format!("{first}:{second}"))?;

    let mut beating = registry.beat(stage, "web", "three", &format!("http={c}"), "1s")?;
    until("the third slot", SOON, || haproxy.has(&[(&a, 1), (&b, 3), (&c, 100)]))?;
    let killed = Instant::now();
    beating.kill()?;
    until("the crashed one leaves", SOON, || haproxy.has(&[(&a, 1), (&b, 3)]))?;
    let took = killed.elapsed().as_secs_f64();
    stage.note(&format!("a crashed instance (TTL 1 s) had left HAProxy after {took:.1} s"));

    registry.run(&["drain", "web/two"])?;
    until("the drained one leaves", SOON, || haproxy.has(&[(&a, 1)]))?;
    let before = two.answered();
    for _ in 0..50 {
        let said = get(haproxy.front, "/")?;
        check(said == "one", || format!("{said:?} answered"))?;
    }
    check(two.answered() == before, || "a drained instance got a new request".to_owned())?;
    registry.run(&["enable", "web/two"])?;
    until("it is back", SOON, || haproxy.has(&[(&a, 1), (&b, 3)]))
}

/// None left: the servers go after `hold`; one is back: so is the service.
pub(super) fn empties(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s")])?;
    let one = Backend::start("127.0.0.11:0", "one")?;
    let a = one.address.to_string();
    registry.register("web", "one", &format!("http={a}"), &[])?;
    let haproxy = HaProxy::start(stage, registry.dns(), 4, "")?;
    until("the slot", SOON, || haproxy.has(&[(&a, 100)]))?;
    registry.run(&["maintenance", "web/one"])?;
    until("no server is left", SOON, || haproxy.has(&[]))?;
    check(get(haproxy.front, "/").is_err(), || "it answers without a server".to_owned())?;
    registry.run(&["enable", "web/one"])?;
    until("it is back", SOON, || haproxy.has(&[(&a, 100)]))?;
    let said = until("it answers again", SOON, || get(haproxy.front, "/"))?;
    check(said == "one", || format!("{said:?} answered"))
}

/// Forty instances where eight fit into 512 bytes: whatever it has, it keeps.
pub(super) fn subset(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 1, &[("dns.ttl", "1s")])?;
    for number in 1..=40 {
        let endpoint = format!("http=127.0.2.{number}:80");
        registry.register("web", &format!("web-{number}"), &endpoint, &[])?;
    }
    let haproxy = HaProxy::start(stage, registry.dns(), 64, "")?;
    until("some slots", SOON, || {
        let filled = haproxy.servers()?.len();
        check(filled >= 5, || format!("{filled} are filled"))
    })?;
    sleep(Duration::from_secs(3));
    let first = haproxy.servers()?;
    for _ in 0..40 {
        sleep(Duration::from_millis(250));
        let now = haproxy.servers()?;
        check(now == first, || format!("{now:?} after {first:?}"))?;
    }
    stage.note(&format!("512 bytes: the same {} of 40 for 10 s", first.len()));
    let large = "  accepted_payload_size 8192\n";
    drop(haproxy);
    let haproxy = HaProxy::start(stage, registry.dns(), 64, large)?;
    until("more slots", SOON, || {
        let filled = haproxy.servers()?.len();
        check(filled > first.len(), || format!("{filled} are filled"))
    })?;
    stage.note(&format!("8,192 bytes offered: {} of 40", haproxy.servers()?.len()));
    Ok(())
}
