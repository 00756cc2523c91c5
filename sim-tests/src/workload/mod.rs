//! Who uses the cluster: one kind of client to a file. Each runs on hosts of its own, so that faults can reach it.
//!
//! A new kind is one file, one host in [`HOSTS`] and one line in [`start`]; what it is told goes to the [`Oracle`].

pub mod forsaken;
pub mod lookups;
pub mod operator;
pub mod owners;
pub mod pair;
pub mod probed;
pub mod readers;
pub mod stuck;
pub mod tails;
pub mod watches;
pub mod writers;

use crate::{cluster::Cluster, net::connector, oracle::Oracle, plan::Plan};
use rand::{Rng, RngExt, rngs::SmallRng, seq::SliceRandom};
use rollcall_client::{Builder, Client};
use rollcall_core::name::{InstanceName, ServiceName};
use std::time::Duration;
use turmoil::Sim;
use watches::Screens;

/// Hosts whose processes own instances.
pub const OWNERS: &[&str] = &["own1", "own2", "own3"];

/// All hosts on which clients run.
pub const HOSTS: &[&str] = &[
    "own1", "own2", "own3", "write", "read", "watch", "tail", "stuck", "operate", "pair", "ask",
    "living", "dying", "probed", "forsake",
];

/// What a kind of client is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The plan of the run.
    pub plan: Plan,
    /// Addresses of all nodes.
    pub addresses: Vec<String>,
    /// Where it tells what it was told.
    pub oracle: Oracle,
    /// Where watches show what they show.
    pub screens: Screens,
}

/// Starts all clients of a plan.
pub fn start(sim: &mut Sim<'_>, cluster: &Cluster, plan: &Plan, oracle: &Oracle) -> Screens {
    let (addresses, screens) = (cluster.addresses(), Screens::default());
    let oracle = oracle.clone();
    let setup = Setup { plan: plan.clone(), addresses, oracle, screens: screens.clone() };
    owners::start(sim, &setup);
    writers::start(sim, &setup);
    readers::start(sim, &setup);
    watches::start(sim, &setup);
    tails::start(sim, &setup);
    stuck::start(sim, &setup);
    operator::start(sim, &setup);
    pair::start(sim, &setup);
    lookups::start(sim, cluster, &setup);
    probed::start(sim, &setup);
    forsaken::start(sim, &setup);
    screens
}

/// A host on which so many tasks run for ever.
fn host<F>(
    sim: &mut Sim<'_>,
    name: &str,
    tasks: usize,
    setup: &Setup,
    task: impl Fn(Setup, usize) -> F + Clone + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let setup = setup.clone();
    sim.host(name, move || {
        for number in 0..tasks {
            tokio::spawn(task(setup.clone(), number));
        }
        std::future::pending()
    });
}

impl Setup {
    /// Dice of one task of one boot of one host.
    pub fn dice(&self, who: &str) -> SmallRng {
        crate::plan::dice(self.plan.seed, who)
    }

    /// A client that knows all nodes, in an order of its own.
    pub fn client(&self, dice: &mut SmallRng) -> Client {
        let mut addresses = self.addresses.clone();
        addresses.shuffle(dice);
        self.client_of(addresses, dice)
    }

    /// A client that knows only one node.
    pub fn client_of_one(&self, node: usize, dice: &mut SmallRng) -> Client {
        self.client_of(vec![self.addresses[node].clone()], dice)
    }

    fn client_of(&self, addresses: Vec<String>, dice: &mut SmallRng) -> Client {
        let mut seed = [0; 32];
        dice.fill_bytes(&mut seed);
        let builder = Builder::new(addresses).connector(connector()).seed(seed);
        builder.timeout(Duration::from_secs(3)).build().expect("addresses of nodes can be read")
    }
}

/// Service of owners by number.
pub fn owned(number: usize) -> ServiceName {
    ServiceName::parse("", &format!("web{number}")).expect("a valid name")
}

/// Service of writers by number.
pub fn written(number: usize) -> ServiceName {
    ServiceName::parse("", &format!("job{number}")).expect("a valid name")
}

/// Services of the writers.
pub const WRITTEN: usize = 3;

/// The wire form of the name of an instance.
fn to_wire(name: &InstanceName) -> rollcall_proto::v1::InstanceName {
    let rollcall_proto::v1::ServiceName { namespace, service } = wire(&name.service);
    let instance_id = name.id.as_str().to_owned();
    rollcall_proto::v1::InstanceName { namespace, service, instance_id }
}

/// The wire form of a service name.
pub fn wire(name: &ServiceName) -> rollcall_proto::v1::ServiceName {
    rollcall_proto::v1::ServiceName {
        namespace: name.namespace.as_str().to_owned(),
        service: name.service.as_str().to_owned(),
    }
}

/// Any service of the run.
pub fn any_service(plan: &Plan, dice: &mut SmallRng) -> ServiceName {
    if dice.random() {
        owned(dice.random_range(0..plan.mix.services))
    } else {
        written(dice.random_range(0..WRITTEN))
    }
}

/// Waits between nothing and twice the pause of the mix.
pub async fn pause(plan: &Plan, dice: &mut SmallRng) {
    let most = u64::try_from(plan.mix.pause.as_millis()).unwrap_or(u64::MAX) * 2;
    tokio::time::sleep(Duration::from_millis(dice.random_range(1..=most))).await;
}
