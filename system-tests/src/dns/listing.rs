//! From a registration to the first answer that lists it, on the node that took it and on the others.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rollcall_client::{Client, v1};
use tokio::runtime::Runtime;

use super::ask::{A, udp};
use crate::case::{Checked, check};
use crate::registry::{DOMAIN, Registry};
use crate::stage::Stage;

/// Most registrations of one call.
const BATCH: usize = 1_000;
/// Registrations that are timed.
const TIMED: usize = 200;
/// Where 99 of 100 must be listed by then: many times what it takes, as other programs share the machine.
const WITHIN: Duration = Duration::from_millis(500);
/// Longest wait until one is listed.
const PATIENCE: Duration = Duration::from_secs(5);

fn registration(service: &str, number: usize) -> v1::Registration {
    let byte = |value: usize| value % 250 + 1;
    let host = format!("127.{}.{}.{}", byte(number / 62_500), byte(number / 250), byte(number));
    let endpoint = v1::Endpoint { name: "http".into(), host, port: 80, ..Default::default() };
    v1::Registration {
        name: Some(v1::InstanceName {
            namespace: String::new(),
            service: service.to_owned(),
            instance_id: format!("i{number}"),
        }),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![endpoint],
            persistent: true,
            ..Default::default()
        }),
        owner_nonce: vec![7; 16],
        ..Default::default()
    }
}

/// Registers that many persistent instances of a service.
pub(super) fn register(registry: &Registry, service: &str, count: usize) -> Checked {
    let (runtime, client) = client(registry)?;
    let all: Vec<v1::Registration> =
        (0..count).map(|number| registration(service, number)).collect();
    for items in all.chunks(BATCH) {
        let request = v1::RegisterRequest { items: items.to_vec(), ..Default::default() };
        runtime.block_on(client.register_once(request))?;
    }
    Ok(())
}

fn client(registry: &Registry) -> Checked<(Runtime, Client)> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _within = runtime.enter();
        Client::new([registry.nodes[0].grpc.to_string()])?
    };
    Ok((runtime, client))
}

/// Asks until the service is listed.
fn until_listed(server: SocketAddr, service: &str) -> Checked {
    let (name, begin) = (format!("{service}.service.{DOMAIN}"), Instant::now());
    while udp(server, &name, A)?.addresses.is_empty() {
        check(begin.elapsed() < PATIENCE, || format!("{name} is not listed at {server}"))?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Registers one after the other in a cluster of three.
pub(super) fn follows(stage: &mut Stage) -> Checked {
    let registry = Registry::start(stage, 3, &[])?;
    let (runtime, client) = client(&registry)?;
    let (mut acknowledged, mut own, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..TIMED {
        let service = format!("s{number}");
        let items = vec![registration(&service, 0)];
        let begin = Instant::now();
        let request = v1::RegisterRequest { items, ..Default::default() };
        runtime.block_on(client.register_once(request))?;
        acknowledged.push(begin.elapsed());
        until_listed(registry.nodes[0].dns, &service)?;
        own.push(begin.elapsed());
        for other in &registry.nodes[1..] {
            until_listed(other.dns, &service)?;
        }
        all.push(begin.elapsed());
    }
    for (what, mut times) in [
        ("acknowledged", acknowledged),
        ("listed where it was registered", own),
        ("listed at all three", all),
    ] {
        times.sort_unstable();
        let (half, most) = (times[TIMED / 2], times[TIMED * 99 / 100]);
        stage.note(&format!("from the call, {TIMED} times: {what} p50 {half:?}, p99 {most:?}"));
        check(most <= WITHIN, || format!("{what}: p99 {most:?}, allowed {WITHIN:?}"))?;
    }
    Ok(())
}
