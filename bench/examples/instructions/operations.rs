//! What is counted: each operation on the same data in every run.

use crate::Outcome;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rollcall_client::{Balance, Balancer, Hint, Outcome as Called, v1};
use rollcall_core::{
    Command, Stamped, State,
    command::{Register, Registration},
    instance::{Endpoint, Spec, Transport},
    name::{InstanceName, Label},
    record::Actor,
};
use rollcall_dns::{
    Catalog, CookieSecret, Fast, Front, Node, Query, Settings, Standing, Transport as Over,
};
use rollcall_proto::stored::{decode_command, encode_command};
use std::{hint::black_box, net::Ipv4Addr, sync::Arc, time::Duration};

pub(crate) const NAMES: [&str; 5] = ["apply", "encode", "decode", "dns", "pick"];

const SERVICES: u32 = 1_000;
const INSTANCES: u32 = 3;

pub(crate) fn run(name: &str, times: u64) -> Outcome {
    match name {
        "apply" => apply(times),
        "encode" => encode(times),
        "decode" => decode(times),
        "dns" => dns(times),
        "pick" => pick(times),
        _ => Err(format!("{name}: one of {NAMES:?}").into()),
    }
}

/// The registration of one instance; `nonce` makes it a new one.
fn registration(service: u32, instance: u32, nonce: u128) -> Outcome<Registration> {
    let address = Ipv4Addr::from_bits((10 << 24) | (service * INSTANCES + instance + 1));
    let endpoint = Endpoint {
        name: Label::parse("name", "http")?,
        address: (address, 8_080).into(),
        transport: Transport::Tcp,
        app_protocol: "".into(),
    };
    Ok(Registration {
        name: InstanceName::parse("", &format!("svc{service:05}"), &format!("i{instance}"))?,
        spec: Arc::new(Spec::new(vec![endpoint])?),
        nonce,
        held_generation: 0,
        expected_revision: None,
    })
}

fn register(items: Vec<Registration>) -> Stamped {
    let actor = Actor::Owner("127.0.0.1".into());
    let register = Register { items, actor, request_id: None, address_limit: false };
    Stamped { wall_ms: 0, advance_ms: 1, command: Command::Register(register) }
}

fn state() -> Outcome<State> {
    let mut state = State::new(100_000);
    for service in 0..SERVICES {
        let items = (0..INSTANCES).map(|i| registration(service, i, 1)).collect::<Outcome<_>>()?;
        let done = state.apply(&register(items)).outcome.result;
        done.map_err(|refused| format!("register: {refused:?}"))?;
    }
    Ok(state)
}

/// One take-over, applied.
fn apply(times: u64) -> Outcome {
    let (mut state, mut dice) = (state()?, SmallRng::seed_from_u64(1));
    for _ in 0..times {
        let (service, instance) = (dice.random_range(0..SERVICES), dice.random_range(0..INSTANCES));
        black_box(state.apply(&register(vec![registration(service, instance, dice.random())?])));
    }
    Ok(())
}

/// One registration, as an entry of the log.
fn encode(times: u64) -> Outcome {
    let command = register(vec![registration(7, 1, 1)?]);
    for _ in 0..times {
        black_box(encode_command(black_box(&command)));
    }
    Ok(())
}

/// And back.
fn decode(times: u64) -> Outcome {
    let bytes = encode_command(&register(vec![registration(7, 1, 1)?]));
    for _ in 0..times {
        black_box(decode_command(black_box(&bytes))?);
    }
    Ok(())
}

/// One answer of the fast path, A and SRV in turn.
fn dns(times: u64) -> Outcome {
    let state = state()?;
    let front = Arc::new(Front::new(Settings::default())?);
    let mut path = Fast::new(front, Fast::MEMORY, 7);
    let nodes =
        [Node { name: Label::parse("node", "n1")?, addresses: vec![Ipv4Addr::LOCALHOST.into()] }];
    let secret = CookieSecret([7; 16]);
    let (standing, cookies) = (Standing::Current, Some(&secret));
    let catalog = Catalog { state: &state, nodes: &nodes, standing, cookies };
    let mut dice = SmallRng::seed_from_u64(2);
    let mut reply = Vec::with_capacity(4_096);
    // Every service once before: the first answer about each is made, the next ones are found.
    let questions = (0..SERVICES).flat_map(|service| [question(service, 1), question(service, 33)]);
    let questions = questions.collect::<Outcome<Vec<Vec<u8>>>>()?;
    for bytes in questions.iter().cycle().take(questions.len() + usize::try_from(times)?) {
        let query = Query {
            bytes,
            peer: (Ipv4Addr::LOCALHOST, 4_242).into(),
            transport: Over::Udp,
            now: Duration::ZERO,
            unix: 1_700_000_000,
            random: dice.random(),
        };
        black_box(path.answer(&query, &catalog, &mut reply)).ok_or("not on the fast path")?;
    }
    Ok(())
}

fn question(service: u32, kind: u16) -> Outcome<Vec<u8>> {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };
    let name = Name::from_ascii(format!("svc{service:05}.service.rollcall.internal."))?;
    let mut message = Message::query();
    message.add_query(Query::query(name, RecordType::from(kind)));
    Ok(message.to_vec()?)
}

/// One pick of a hundred endpoints, and its report.
fn pick(times: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let balancer = runtime.block_on(async {
        let instances: Vec<_> = (0..100).map(instance).collect();
        let (_, lists) = tokio::sync::watch::channel(instances);
        let balancer = Balancer::over(Balance::service("bench")?, lists, 1)?;
        balancer.ready(Duration::from_secs(10)).await?;
        Outcome::Ok(balancer)
    })?;
    for number in 0..times {
        let pick = balancer.pick_for(Hint::key(number.to_be_bytes()))?;
        black_box(pick.address());
        pick.report(Called::Success);
    }
    Ok(())
}

fn instance(number: u32) -> v1::Instance {
    let host = Ipv4Addr::from_bits((10 << 24) | number).to_string();
    let endpoint = v1::Endpoint { host, port: 80, ..v1::Endpoint::default() };
    v1::Instance {
        instance_id: format!("i{number}"),
        spec: Some(v1::InstanceSpec { endpoints: vec![endpoint], ..v1::InstanceSpec::default() }),
        health_status: v1::HealthStatus::Healthy.into(),
        ..v1::Instance::default()
    }
}
