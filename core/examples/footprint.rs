//! Memory and speed of the state alone: `cargo run --release -p rollcall-core --example footprint -- 100000`.
//!
//! Registers instances with one endpoint, two tags and three metadata pairs, as a log would: every command is decoded
//! anew, so nothing is shared that a node would not share. Linux only (`/proc/self/statm`).
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]
#![allow(clippy::disallowed_types, reason = "measures wall time, decides nothing")]

use rollcall_core::{
    Command, Stamped, State,
    command::{Register, Registration, RequestId},
    instance::{Endpoint, Spec, Transport},
    name::{InstanceName, Label},
    record::Actor,
    state::Loader,
};
use std::{sync::Arc, time::Instant};

/// Instances of one service.
const PER_SERVICE: usize = 100;
/// A clone of the state is taken, as readers hold one, after so many commands.
const CLONE_EVERY: usize = 64;

fn main() {
    let count = std::env::args().nth(1).map_or(100_000, |n| n.parse().unwrap());
    let with_request_ids = std::env::args().any(|arg| arg == "--request-ids");
    let batch = if std::env::args().any(|arg| arg == "--batch") { 100 } else { 1 };

    let before = resident();
    let mut state = State::new(100_000);
    let mut held = state.clone();
    let began = Instant::now();
    let mut decoding = std::time::Duration::ZERO;
    for (n, first) in (0..count).step_by(batch).enumerate() {
        let at = Instant::now();
        let command = command(first..(first + batch).min(count), with_request_ids);
        decoding += at.elapsed();
        state.apply(&command).outcome.result.unwrap();
        if n % CLONE_EVERY == 0 {
            held = state.clone();
        }
    }
    let applying = began.elapsed() - decoding;
    drop(held);
    let bytes = resident() - before;
    println!("instances            {count}");
    println!("bytes per instance   {}", bytes / count);
    println!("registrations/s      {:.0}", count as f64 / applying.as_secs_f64());

    let began = Instant::now();
    let parts: Vec<_> = state.parts().collect();
    println!("snapshot parts       {} in {:?}", parts.len(), began.elapsed());
    let began = Instant::now();
    let mut loader = Loader::new(100_000);
    for part in parts {
        loader.add(part).unwrap();
    }
    let loaded = loader.finish().unwrap();
    assert_eq!(loaded.hash(), state.hash());
    println!("loaded in            {:?}", began.elapsed());
}

fn command(range: std::ops::Range<usize>, with_request_id: bool) -> Stamped {
    let request_id = RequestId::parse(&format!("0190b6c0-0000-7000-8000-{:012x}", range.start));
    let register = Register {
        items: range.map(registration).collect(),
        actor: Actor::Owner("10.20.30.40".into()),
        request_id: with_request_id.then(|| request_id.unwrap()),
        address_limit: true,
    };
    Stamped { wall_ms: 1_770_000_000_000, advance_ms: 0, command: Command::Register(register) }
}

fn registration(i: usize) -> Registration {
    let service = format!("service-{:05}", i / PER_SERVICE);
    let id = format!("host-{:06}-8080", i);
    let address = format!("10.{}.{}.{}:8080", i / 62_500, i / 250 % 250, 1 + i % 250);
    let endpoint = Endpoint {
        name: Label::parse("name", "http").unwrap(),
        address: address.parse().unwrap(),
        transport: Transport::Tcp,
        app_protocol: "".into(),
    };
    let spec = Spec {
        version: "1.4.2".into(),
        tags: vec!["production".into(), "canary".into()],
        metadata: vec![
            ("build".into(), format!("2026-02-{:02}.{:04}", i % 28 + 1, i % 10_000).into()),
            ("git".into(), format!("{:040x}", i * 7919).into()),
            ("team".into(), "payments".into()),
        ],
        ..Spec::new(vec![endpoint]).unwrap()
    };
    Registration {
        name: InstanceName::parse("", &service, &id).unwrap(),
        spec: Arc::new(spec.checked().unwrap()),
        nonce: i as u128,
        held_generation: 0,
        expected_revision: None,
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}
