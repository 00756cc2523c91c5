//! The ways of calling that are compared.

use super::{Outcome, fleet, fleet::Registry};
use rollcall_client::{Balance, Hedge, Retry, Selection, v1};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{task::JoinHandle, time::timeout};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, channel::Change},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Deadline of each call.
const DEADLINE: Duration = Duration::from_secs(1);
/// A call that does not even end by its deadline is ended.
const AT_THE_LATEST: Duration = Duration::from_millis(1_500);
const READY: Duration = Duration::from_secs(10);

/// A way of calling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Way {
    /// This library, every call tried once.
    Once,
    /// This library, calls said to be idempotent: tried up to three times.
    Safe,
    /// The same, and a second backend is asked where the first takes unusually long.
    Hedged,
    /// tonic's `balance_channel`, told of every change by a watch.
    Tonic,
    /// One backend by its address.
    Direct,
}

/// Makes calls. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Caller {
    Ours(rollcall_client::Channel),
    Tonic(Channel),
}

/// A caller, and what feeds it.
pub(crate) struct Calling {
    pub(crate) caller: Caller,
    feeding: Option<JoinHandle<()>>,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(feeding) = &self.feeding {
            feeding.abort();
        }
    }
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::Once, Self::Safe, Self::Hedged, Self::Tonic, Self::Direct];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Once => "rollcall, retries off",
            Self::Safe => "rollcall, safe retries",
            Self::Hedged => "rollcall, safe retries, hedges",
            Self::Tonic => "tonic balance_channel",
            Self::Direct => "one backend, direct",
        }
    }

    /// `direct` is the backend of [`Way::Direct`].
    pub(crate) async fn begin(self, registry: &Registry, direct: SocketAddr) -> Outcome<Calling> {
        let retry = match self {
            Self::Once => Retry::off(),
            Self::Safe | Self::Hedged => Retry::idempotent(3),
            Self::Tonic => return feed(registry).await,
            Self::Direct => {
                let caller = Caller::Tonic(endpoint(direct)?.connect_lazy());
                return Ok(Calling { caller, feeding: None });
            }
        };
        let mut balance = Balance::named(fleet::service()?).retry(retry);
        if self == Self::Hedged {
            balance = balance.hedge(Hedge::default());
        }
        let balancer = registry.client()?.balance(balance)?;
        balancer.ready(READY).await?;
        Ok(Calling { caller: Caller::Ours(balancer.channel()), feeding: None })
    }
}

impl Caller {
    pub(crate) async fn call(&self) -> Result<(), Status> {
        let mut request = Request::new(HealthCheckRequest::default());
        request.set_timeout(DEADLINE);
        let call = async {
            match self {
                Self::Ours(channel) => HealthClient::new(channel.clone()).check(request).await,
                Self::Tonic(channel) => HealthClient::new(channel.clone()).check(request).await,
            }
        };
        match timeout(AT_THE_LATEST, call).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(Status::deadline_exceeded("did not end by its deadline")),
        }
    }
}

fn endpoint(address: SocketAddr) -> Outcome<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(DEADLINE).tcp_nodelay(true))
}

/// tonic's balancer, with the routable instances of the same registry.
async fn feed(registry: &Registry) -> Outcome<Calling> {
    let watch = registry.client()?.watch(Selection::services([fleet::service()?]))?;
    watch.ready(READY).await?;
    let (channel, changes) = Channel::balance_channel::<String>(1_024);
    let mut pictures = watch.pictures();
    let feeding = tokio::spawn(async move {
        let _watch = watch;
        let mut known = BTreeMap::new();
        loop {
            let mut listed = BTreeMap::new();
            for service in pictures.borrow_and_update().services.values() {
                listed.extend(service.instances.values().filter_map(|i| Some((address(i)?, ()))));
            }
            let gone = known.keys().filter(|address| !listed.contains_key(*address));
            let new = listed.keys().filter(|address| !known.contains_key(*address));
            let gone = gone.map(|address: &SocketAddr| Change::Remove(address.to_string()));
            let new = new.filter_map(|address| {
                Some(Change::Insert(address.to_string(), endpoint(*address).ok()?))
            });
            for change in gone.chain(new) {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            known = listed;
            if pictures.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(Calling { caller: Caller::Tonic(channel), feeding: Some(feeding) })
}

fn address(instance: &v1::Instance) -> Option<SocketAddr> {
    let endpoint = instance.spec.as_ref()?.endpoints.first()?;
    Some(SocketAddr::new(endpoint.host.parse().ok()?, u16::try_from(endpoint.port).ok()?))
}
