//! Writers: registrations that nobody keeps, updates, compare-and-set, removals, admin states and policies, by several
//! tasks on the same few names; every write marked, many sent twice: at once to another node, or long after.

use super::{Setup, WRITTEN, host, pause, to_wire, wire, written};
use crate::oracle::{Asked, PORT, Write, address_of, now};
use crate::points::Points;
use rand::{RngExt, rngs::SmallRng};
use rollcall_client::{Client, Error};
use rollcall_core::name::{InstanceName, ServiceName};
use rollcall_proto::v1;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use turmoil::Sim;

/// Instances of each service that writers fight about.
pub const IDS: usize = 4;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "write", setup.plan.mix.writers, setup, |setup, task| async move {
        write(&setup, task).await
    });
}

/// What a task remembers from one operation to the next.
struct Writer<'a> {
    setup: &'a Setup,
    clients: [Client; 2],
    /// Revisions that it has seen of instances, for compare-and-set.
    seen: Vec<(InstanceName, u64)>,
    /// Generations that it has had of instances, and the dice that say when to name one.
    had: Vec<(InstanceName, u64)>,
    late: SmallRng,
}

async fn write(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("writer {task}"));
    let clients = [setup.client(&mut dice), setup.client(&mut dice)];
    let late = setup.dice(&format!("writer {task} is late"));
    let mut writer = Writer { setup, clients, seen: Vec::new(), had: Vec::new(), late };
    // When the faults are over only what must be well is left at work.
    while now() < setup.plan.length {
        pause(&setup.plan, &mut dice).await;
        match dice.random_range(0..12) {
            0..=5 => writer.register(&mut dice).await,
            6..=8 => writer.deregister(&mut dice).await,
            9 | 10 => writer.set_admin(&mut dice).await,
            _ => writer.put_policy(&mut dice).await,
        }
    }
}

fn any_name(dice: &mut SmallRng) -> InstanceName {
    let service = written(dice.random_range(0..WRITTEN));
    let id = format!("w{}", dice.random_range(0..IDS));
    InstanceName::parse("", service.service.as_str(), &id).expect("a valid name")
}

/// A number in as many bytes as a nonce has.
fn nonce(write: &Write) -> Vec<u8> {
    (u128::from(write.id) << 64 | 0x5ca1_ab1e).to_be_bytes().to_vec()
}

fn request_id(write: &Write) -> String {
    format!("request-{}", write.id)
}

impl Writer<'_> {
    /// A revision for a compare-and-set, now and then: one that was seen, none, or a wrong one.
    fn expected(&self, name: &InstanceName, dice: &mut SmallRng) -> Option<u64> {
        let seen = self.seen.iter().rev().find(|(known, _)| known == name).map(|(_, at)| *at);
        match dice.random_range(0..4) {
            0 => seen.or(Some(0)),
            1 => Some(dice.random_range(0..3)),
            _ => None,
        }
    }

    fn saw(&mut self, name: &InstanceName, revision: u64) {
        self.seen.retain(|(known, _)| known != name);
        self.seen.push((name.clone(), revision));
    }

    /// A generation to end, now and then: any that it has had, which others may have taken over long ago.
    fn goodbye(&mut self, name: &InstanceName) -> u64 {
        let own: Vec<u64> =
            self.had.iter().filter(|(known, _)| known == name).map(|(_, had)| *had).collect();
        if own.is_empty() || self.late.random() {
            return 0;
        }
        own[self.late.random_range(0..own.len())]
    }

    async fn register(&mut self, dice: &mut SmallRng) {
        let name = any_name(dice);
        let expected = self.expected(&name, dice);
        let write = self.setup.oracle.begin(Asked::Register, Some(name.clone()), expected);
        let endpoint = v1::Endpoint {
            name: "http".to_owned(),
            host: address_of(write.id),
            port: PORT,
            ..v1::Endpoint::default()
        };
        // One in four has a lease that nobody renews.
        let leased = dice.random_range(0..4) == 0;
        self.setup.oracle.amend(write.id, |write| write.leased = leased);
        let length = Duration::from_millis(dice.random_range(1_000..5_000));
        let spec = v1::InstanceSpec {
            endpoints: vec![endpoint],
            persistent: !leased,
            ttl: leased.then(|| length.try_into().expect("a short time")),
            evict_after: leased.then(|| Duration::from_secs(1).try_into().expect("a short time")),
            ..v1::InstanceSpec::default()
        };
        let item = v1::Registration {
            name: Some(to_wire(&name)),
            spec: Some(spec),
            owner_nonce: nonce(&write),
            held_generation: 0,
            expected_revision: expected,
        };
        let request = v1::RegisterRequest { items: vec![item], request_id: request_id(&write) };
        let twin = (self.twin(dice), &self.setup.oracle.points);
        let generation = Arc::new(AtomicU64::new(0));
        let call = |client: Client, request: v1::RegisterRequest| {
            let generation = generation.clone();
            async move {
                let answer = client.register_once(request).await?;
                let item = answer.items.first().cloned().unwrap_or_default();
                generation.store(item.generation, Ordering::Relaxed);
                Ok((item.revision, item.changed))
            }
        };
        let answer = twice(twin, &self.clients, request, call).await;
        if let Ok((revision, _)) = &answer {
            self.saw(&name, *revision);
            self.had.push((name, generation.load(Ordering::Relaxed)));
        }
        self.settle(&write, answer);
    }

    async fn deregister(&mut self, dice: &mut SmallRng) {
        let name = any_name(dice);
        let expected = self.expected(&name, dice);
        let write = self.setup.oracle.begin(Asked::Deregister, Some(name.clone()), expected);
        let generation = self.goodbye(&name);
        self.setup.oracle.amend(write.id, |write| write.generation = generation);
        let item = v1::Deregistration {
            name: Some(to_wire(&name)),
            generation,
            allow_missing: dice.random(),
            expected_revision: expected,
        };
        let role = if dice.random() { v1::Role::Owner } else { v1::Role::Operator };
        let request = v1::DeregisterRequest {
            items: vec![item],
            request_id: request_id(&write),
            reason: write.marker(),
            role: role.into(),
        };
        let twin = (self.twin(dice), &self.setup.oracle.points);
        let call = |client: Client, request: v1::DeregisterRequest| async move {
            let answer = client.deregister(request).await?;
            Ok((answer.revision, answer.items.first().is_some_and(|item| item.removed)))
        };
        let answer = twice(twin, &self.clients, request, call).await;
        self.settle(&write, answer);
    }

    async fn set_admin(&mut self, dice: &mut SmallRng) {
        let name = any_name(dice);
        let expected = self.expected(&name, dice);
        let write = self.setup.oracle.begin(Asked::Admin, Some(name.clone()), expected);
        let states =
            [v1::AdminState::Draining, v1::AdminState::Enabled, v1::AdminState::Maintenance];
        let state = states[dice.random_range(0..3)];
        let ends = state != v1::AdminState::Enabled && dice.random();
        let request = v1::SetAdminStateRequest {
            name: Some(to_wire(&name)),
            state: state.into(),
            reason: write.marker(),
            expire_after: ends.then(|| Duration::from_secs(5).try_into().expect("a short time")),
            role: v1::Role::Operator.into(),
            request_id: request_id(&write),
            expected_revision: expected,
            generation: 0,
        };
        let twin = (self.twin(dice), &self.setup.oracle.points);
        let call = |client: Client, request: v1::SetAdminStateRequest| async move {
            // The answer does not tell whether anything changed.
            client.set_admin_state(request).await.map(|answer| (answer.revision, false))
        };
        let answer = twice(twin, &self.clients, request, call).await;
        self.settle(&write, answer);
    }

    async fn put_policy(&mut self, dice: &mut SmallRng) {
        let service: ServiceName = written(dice.random_range(0..WRITTEN));
        let write = self.setup.oracle.begin(Asked::Policy, None, None);
        let threshold = f64::from(dice.random_range(1..10u8)) / 10.0;
        let policy = v1::ServicePolicy {
            protection_threshold: Some(threshold),
            ..v1::ServicePolicy::default()
        };
        let request = v1::PutServicePolicyRequest {
            service: Some(wire(&service)),
            policy: Some(policy),
            request_id: request_id(&write),
        };
        let twin = (self.twin(dice), &self.setup.oracle.points);
        let call = |client: Client, request: v1::PutServicePolicyRequest| async move {
            client.put_service_policy(request).await.map(|answer| (answer.revision, false))
        };
        let answer = twice(twin, &self.clients, request, call).await;
        self.settle(&write, answer);
    }

    /// When the same request is sent a second time, if it is.
    fn twin(&self, dice: &mut SmallRng) -> Option<Duration> {
        let late = Duration::from_millis(dice.random_range(50..5_000));
        [None, None, Some(Duration::ZERO), Some(late)][dice.random_range(0..4)]
    }

    fn settle(&self, write: &Write, answer: Result<(u64, bool), Error>) {
        self.setup.oracle.end(write.id, answer.as_ref().copied());
        let (oracle, id) = (&self.setup.oracle, write.id);
        if let Err(error) = &answer
            && error.code() == Some(tonic::Code::Internal)
        {
            oracle.complain("no write fails without a reason", format!("write {id}: {error}"));
        }
    }
}

/// Sends a request, and perhaps its twin to another node: at once, or so much later. All attempts have one request id,
/// so whichever is answered speaks for all; two answers must agree.
async fn twice<Q: Clone + Send + 'static, F>(
    (twin, points): (Option<Duration>, &Points),
    clients: &[Client; 2],
    request: Q,
    call: impl Fn(Client, Q) -> F,
) -> Result<(u64, bool), Error>
where
    F: Future<Output = Result<(u64, bool), Error>> + Send + 'static,
{
    let first = call(clients[0].clone(), request.clone());
    match twin {
        None => first.await,
        Some(wait) => {
            let second = call(clients[1].clone(), request);
            let late = async {
                tokio::time::sleep(wait).await;
                second.await
            };
            let (first, second) = tokio::join!(first, late);
            // A refusal of one attempt is no refusal of the other: without an acknowledgement it is open.
            match (first, second) {
                (Ok(one), Ok(other)) => {
                    points.hit("a retry after an acknowledgement was answered");
                    Ok((one.0.min(other.0), one.1 || other.1))
                }
                (Ok(answer), Err(_)) | (Err(_), Ok(answer)) => Ok(answer),
                (Err(one), Err(other)) if other.outcome_unknown() && !one.outcome_unknown() => {
                    Err(other)
                }
                (Err(one), Err(_)) => Err(one),
            }
        }
    }
}
