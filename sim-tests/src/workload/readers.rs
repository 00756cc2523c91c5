//! Readers: look-ups in every mode, each at one chosen node, also one that is cut off.

use super::{Setup, any_service, host, pause, wire};
use crate::oracle::{Confirmed, Freshness, Read, now, reason_of, registered_by};
use rand::{RngExt, rngs::SmallRng};
use rollcall_client::Client;
use rollcall_core::name::ServiceName;
use rollcall_proto::v1;
use std::time::Duration;
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    let readers = setup.plan.mix.readers;
    host(sim, "read", readers + 1, setup, move |setup, task| async move {
        match task < readers {
            true => read(&setup, task).await,
            false => follow(&setup).await,
        }
    });
}

/// What is asked.
struct Question {
    service: ServiceName,
    freshness: Freshness,
    /// It names the newest revision that anybody has been told of.
    names: bool,
}

/// Reads of what was just written, at once and on any node, as callers do that read their own writes.
async fn follow(setup: &Setup) {
    let mut dice = setup.dice("follower of writes");
    let nodes = 0..setup.addresses.len();
    let clients: Vec<Client> = nodes.map(|node| setup.client_of_one(node, &mut dice)).collect();
    let mut known = 0;
    while now() < setup.plan.length {
        tokio::time::sleep(Duration::from_millis(dice.random_range(1..50))).await;
        let told = setup.oracle.ledger().told_at(now());
        if told > known {
            known = told;
            let node = dice.random_range(0..clients.len());
            let service = any_service(&setup.plan, &mut dice);
            let question = Question { service, freshness: Freshness::Stale, names: true };
            resolve(setup, node, &clients[node], question).await;
        }
    }
}

async fn read(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("reader {task}"));
    let nodes = 0..setup.addresses.len();
    let clients: Vec<Client> = nodes.map(|node| setup.client_of_one(node, &mut dice)).collect();
    // When the faults are over only what must be well is left at work.
    while now() < setup.plan.length {
        pause(&setup.plan, &mut dice).await;
        let node = dice.random_range(0..clients.len());
        let question = question(setup, &mut dice);
        resolve(setup, node, &clients[node], question).await;
    }
}

fn question(setup: &Setup, dice: &mut SmallRng) -> Question {
    let service = any_service(&setup.plan, dice);
    let bound = Duration::from_millis(dice.random_range(100..2_000));
    let freshness = [Freshness::Stale, Freshness::Bounded(bound), Freshness::Linearizable]
        [dice.random_range(0..3)];
    Question { service, freshness, names: dice.random_range(0..4) == 0 }
}

async fn resolve(setup: &Setup, node: usize, client: &Client, question: Question) {
    let Question { service, freshness, names } = question;
    let (consistency, max_staleness) = match freshness {
        Freshness::Stale => (v1::Consistency::Stale, None),
        Freshness::Bounded(bound) => (v1::Consistency::Bounded, Some(bound)),
        Freshness::Linearizable => (v1::Consistency::Linearizable, None),
    };
    let start = now();
    let (floor, told) = {
        let ledger = setup.oracle.ledger();
        let told = ledger.told_at(start);
        let floor = match freshness {
            Freshness::Stale => 0,
            // Its clock may run a tenth too slow.
            Freshness::Bounded(bound) => ledger.told_at(start.saturating_sub(bound * 5 / 4)),
            Freshness::Linearizable => told,
        };
        (floor, told)
    };
    let min_revision = if names { told } else { 0 };
    let request = v1::ResolveRequest {
        service: Some(wire(&service)),
        filter: Some(v1::ResolveFilter {
            health: v1::HealthFilter::Any.into(),
            ..v1::ResolveFilter::default()
        }),
        consistency: consistency.into(),
        max_staleness: max_staleness.map(|bound| bound.try_into().expect("a short time")),
        min_revision,
        ..v1::ResolveRequest::default()
    };
    match client.resolve(request).await {
        Ok(answer) => {
            let meta = answer.read_metadata.unwrap_or_default();
            if freshness == Freshness::Stale && !meta.leader_known {
                setup.oracle.points.hit("a stale read was answered without a leader");
            }
            if min_revision > 0 {
                setup.oracle.points.hit("a read waited for a revision");
            }
            let instances = answer.instances.iter().map(|i| (i.instance_id.clone(), i.revision));
            let shown = shown(&answer);
            let read = Read {
                node,
                service,
                freshness,
                min_revision,
                floor,
                start,
                revision: meta.revision,
                service_revision: meta.service_revision,
                instances: instances.collect(),
            };
            let mut ledger = setup.oracle.ledger();
            // Whoever read it knows of it: no later confirmed read may show less.
            if freshness == Freshness::Linearizable {
                ledger.tell(meta.revision);
                let service = read.service.clone();
                ledger.confirmed.push(Confirmed { service, start, end: now(), shown });
            }
            ledger.reads.push(read);
        }
        Err(error) => {
            if reason_of(&error) == "STALE_REPLICA" {
                setup.oracle.points.hit("a bounded read was refused as stale");
            }
        }
    }
}

/// Which write registered each instance of an answer.
fn shown(answer: &v1::ResolveResponse) -> Vec<(String, u32)> {
    let instances = answer.instances.iter().filter_map(|instance| {
        let by = registered_by(&instance.spec.as_ref()?.endpoints.first()?.host)?;
        Some((instance.instance_id.clone(), by))
    });
    instances.collect()
}
