//! Readers: look-ups in every mode, each at one chosen node, also one that is cut off.

use super::{Setup, any_service, host, pause, wire};
use crate::oracle::{Freshness, Read, now, reason_of};
use rand::{RngExt, rngs::SmallRng};
use rollcall_client::Client;
use rollcall_proto::v1;
use std::time::Duration;
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "read", setup.plan.mix.readers, setup, |setup, task| async move {
        read(&setup, task).await
    });
}

async fn read(setup: &Setup, task: usize) {
    let mut dice = setup.dice(&format!("reader {task}"));
    let nodes = 0..setup.addresses.len();
    let clients: Vec<Client> = nodes.map(|node| setup.client_of_one(node, &mut dice)).collect();
    // When the faults are over only what must be well is left at work.
    while now() < setup.plan.length {
        pause(&setup.plan, &mut dice).await;
        let node = dice.random_range(0..clients.len());
        resolve(setup, node, &clients[node], &mut dice).await;
    }
}

async fn resolve(setup: &Setup, node: usize, client: &Client, dice: &mut SmallRng) {
    let service = any_service(&setup.plan, dice);
    let bound = Duration::from_millis(dice.random_range(100..2_000));
    let freshness = [Freshness::Stale, Freshness::Bounded(bound), Freshness::Linearizable]
        [dice.random_range(0..3)];
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
    let min_revision = if dice.random_range(0..4) == 0 { told } else { 0 };
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
