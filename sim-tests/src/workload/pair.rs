//! A pair of instances that is changed again and again, always both in one batch. The port of both is the number of the
//! round, so that an answer over DNS tells which state it was made from.

use super::{Setup, host};
use crate::oracle::now;
use rollcall_proto::v1;
use std::time::Duration;
use turmoil::Sim;

/// The service that is changed.
pub const SERVICE: &str = "pair";
/// Port of the first round.
const FIRST: u16 = 9_000;
const ROUND: Duration = Duration::from_millis(700);
const RETRY: Duration = Duration::from_millis(200);

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    let tasks = usize::from(setup.plan.mix.lookups);
    host(sim, "pair", tasks, setup, |setup, _| async move { change(&setup).await });
}

/// Registers the pair, the next round only when the one before was acknowledged.
async fn change(setup: &Setup) {
    let client = setup.client(&mut setup.dice("pair"));
    for round in FIRST..=u16::MAX {
        let items = ["a", "b"].map(|id| registration(id, round)).into();
        // The same id for every attempt: a late one has no second effect.
        let request = v1::RegisterRequest { items, request_id: format!("pair-{round}") };
        while client.register_once(request.clone()).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        setup.oracle.ledger().rounds.push((now(), round));
        tokio::time::sleep(ROUND).await;
    }
}

fn registration(id: &str, round: u16) -> v1::Registration {
    let endpoint = v1::Endpoint {
        name: "http".into(),
        host: if id == "a" { "10.201.0.1" } else { "10.201.0.2" }.into(),
        port: round.into(),
        ..Default::default()
    };
    v1::Registration {
        name: Some(v1::InstanceName {
            namespace: String::new(),
            service: SERVICE.into(),
            instance_id: id.into(),
        }),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![endpoint],
            persistent: true,
            ..Default::default()
        }),
        owner_nonce: vec![9; 16],
        ..Default::default()
    }
}
