//! Instances that somebody registers once and nobody ever touches again: each must go in time, however many leaders it
//! outlives.

use super::{Setup, host, to_wire};
use crate::oracle::{Asked, PORT, address_of, now};
use rand::RngExt;
use rollcall_core::name::{InstanceName, ServiceName};
use rollcall_proto::v1;
use std::time::Duration;
use turmoil::Sim;

/// Each is in a service of its own, so that no protection holds it.
const SERVICE: &str = "left";

/// Whether its instances are of this kind.
pub fn is_forsaken(service: &ServiceName) -> bool {
    service.service.as_str().starts_with(SERVICE)
}

pub(super) fn start(sim: &mut Sim<'_>, setup: &Setup) {
    host(sim, "forsake", usize::from(setup.plan.mix.forsaken), setup, |setup, _| async move {
        forsake(&setup).await
    });
}

async fn forsake(setup: &Setup) {
    let mut dice = setup.dice("forsaken");
    let (client, mut count) = (setup.client(&mut dice), 0);
    while now() < setup.plan.length {
        tokio::time::sleep(Duration::from_millis(dice.random_range(500..3_000))).await;
        count += 1;
        let name = InstanceName::parse("", &format!("{SERVICE}{count}"), "w");
        let name = name.expect("a valid name");
        let write = setup.oracle.begin(Asked::Register, Some(name.clone()), None);
        let endpoint = v1::Endpoint {
            name: "http".to_owned(),
            host: address_of(write.id),
            port: PORT,
            ..v1::Endpoint::default()
        };
        let ttl = Duration::from_millis(dice.random_range(2_000..8_000));
        let spec = v1::InstanceSpec {
            endpoints: vec![endpoint],
            ttl: ttl.try_into().ok(),
            evict_after: Duration::from_secs(1).try_into().ok(),
            ..v1::InstanceSpec::default()
        };
        let item = v1::Registration {
            name: Some(to_wire(&name)),
            spec: Some(spec),
            owner_nonce: u128::from(write.id).to_be_bytes().to_vec(),
            ..v1::Registration::default()
        };
        let request_id = format!("left-{}", write.id);
        let request = v1::RegisterRequest { items: vec![item], request_id };
        let answer = client.register_once(request).await.map(|answer| {
            let item = answer.items.first().cloned().unwrap_or_default();
            (item.revision, item.changed)
        });
        setup.oracle.end(write.id, answer.as_ref().copied());
    }
}
