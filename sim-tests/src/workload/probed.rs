//! Instances that are probed: machines with ports that accept connections, and one process that registers all of them,
//! persistent, each with a check of its port. One instance has a machine of its own, so that it can die.

use super::{Setup, host};
use rollcall_client::{Check, Error, Guard, Registration};
use rollcall_core::name::InstanceName;
use std::{net::IpAddr, time::Duration};
use turmoil::{Sim, net::TcpListener};

/// The machine of the instances that always live.
const LIVING: &str = "living";
/// The machine of the one that faults kill, and the id of that instance.
pub const DYING: &str = "dying";
/// All machines that are probed.
pub const TARGETS: &[&str] = &[LIVING, DYING];
/// Ports of the instances from here on.
const FIRST_PORT: u16 = 9_000;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    let count = setup.plan.mix.probed;
    sim.host(LIVING, move || listen(count));
    sim.host(DYING, move || listen(count.min(1)));
    host(sim, "probed", count.min(1), setup, |setup, _| async move { keep(&setup).await });
}

/// Name of an instance that always lives.
pub fn living(number: usize) -> InstanceName {
    name(&format!("i{number}"))
}

/// Name of the instance that faults kill.
pub fn dying() -> InstanceName {
    name(DYING)
}

fn name(id: &str) -> InstanceName {
    InstanceName::parse("", "probed", id).expect("a name of this file")
}

fn port(number: usize) -> u16 {
    FIRST_PORT.saturating_add(u16::try_from(number).unwrap_or(u16::MAX))
}

/// A machine whose ports accept connections and close them.
async fn listen(count: usize) -> turmoil::Result {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let listener = TcpListener::bind(("0.0.0.0", port(number))).await?;
        tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    }
    std::future::pending().await
}

async fn keep(setup: &Setup) {
    match register(setup) {
        Ok(_guards) => std::future::pending().await,
        Err(error) => setup.oracle.complain("a check can be registered", error.to_string()),
    }
}

fn register(setup: &Setup) -> Result<Vec<Guard>, Error> {
    let client = setup.client(&mut setup.dice("probed"));
    let keep = |name: InstanceName, host: IpAddr, port: u16| {
        let check = Check::tcp().interval(Duration::from_secs(1)).fall(3);
        let check = check.timeout(Duration::from_millis(500));
        let registration = Registration::new(name.service.service.as_str())
            .id(name.id.as_str())
            .endpoint("http", (host, port).into());
        client.keep_registered(registration.persistent().check(check))
    };
    let host = turmoil::lookup(LIVING);
    let living = (0..setup.plan.mix.probed).map(|number| keep(living(number), host, port(number)));
    let dying = std::iter::once_with(|| keep(dying(), turmoil::lookup(DYING), port(0)));
    living.chain(dying).collect()
}
