//! The operator: hands the lead over, takes snapshots, looks at the cluster, and at the end releases what protection
//! still holds, as the documents tell operators to.

use super::{Setup, host};
use crate::oracle::now;
use rand::RngExt;
use rollcall_client::Client;
use rollcall_proto::v1;
use std::time::Duration;
use turmoil::Sim;

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "operate", 1, setup, |setup, _| async move {
        let mut dice = setup.dice("operator");
        loop {
            tokio::time::sleep(Duration::from_millis(dice.random_range(500..5_000))).await;
            let node = dice.random_range(0..setup.addresses.len());
            let client = setup.client_of_one(node, &mut dice);
            if now() > setup.plan.length {
                release(&client).await;
                serve(&setup, &client).await;
            } else if setup.plan.mix.operator {
                match dice.random_range(0..4) {
                    0 => drop(client.trigger_snapshot().await),
                    1 => transfer(&setup, &client).await,
                    _ => drop(client.get_cluster_status().await),
                }
            }
        }
    });
}

async fn transfer(setup: &Setup, client: &Client) {
    let request = v1::TransferLeaderRequest { target_node_id: 0 };
    if client.transfer_leader(request).await.is_ok() {
        setup.oracle.points.hit("the lead was handed over");
    }
}

async fn release(client: &Client) {
    let Ok(answer) = client.get_protection().await else { return };
    for protection in answer.protections {
        let request = v1::ReleaseProtectionRequest {
            scope: protection.scope,
            reason: "the faults are over".to_owned(),
            ..v1::ReleaseProtectionRequest::default()
        };
        // Somebody else, or its own end, may have been faster.
        let _ = client.release_protection(request).await;
    }
}

/// After the faults the cluster must serve: a write, and a confirmed read that shows it.
async fn serve(setup: &Setup, client: &Client) {
    let service = Some(v1::ServiceName { service: "probe".to_owned(), ..Default::default() });
    let policy = Some(v1::ServicePolicy { dns_ttl: None, ..v1::ServicePolicy::default() });
    let request =
        v1::PutServicePolicyRequest { service: service.clone(), policy, ..Default::default() };
    let Ok(written) = client.put_service_policy(request).await else { return };
    let request = v1::ResolveRequest {
        service,
        consistency: v1::Consistency::Linearizable.into(),
        ..v1::ResolveRequest::default()
    };
    let Ok(answer) = client.resolve(request).await else { return };
    let shown = answer.read_metadata.unwrap_or_default().revision;
    if shown < written.revision {
        let seen =
            format!("revision {} was acknowledged, then {shown} was shown", written.revision);
        setup.oracle.complain("a linearizable read shows what was acknowledged", seen);
    }
    setup.oracle.ledger().served = true;
}
