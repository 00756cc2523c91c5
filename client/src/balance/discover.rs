//! The list as tower's `Discover`: for balancers and pools of others that are built on tower.

use super::{
    Balancer,
    endpoint::{Endpoint, Key},
    pick::Listing,
};
use futures_util::Stream;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_stream::wrappers::WatchStream;
use tower::discover::Change;

/// Changes of the routable endpoints of a service. Implements `tower::discover::Discover`; never ends by itself.
pub struct Discovered<F, S> {
    listings: WatchStream<Listing>,
    make: F,
    known: BTreeSet<Key>,
    changes: VecDeque<Change<Key, S>>,
    _balancer: Balancer,
}

impl Balancer {
    /// Tells of endpoints that come and go, with a service that `make` makes for each newcomer. Endpoints that may
    /// not be called (draining, unhealthy, weight 0) are gone here; picks, ejections and weights of this balancer
    /// play no part.
    pub fn discover<F, S>(&self, make: F) -> Discovered<F, S>
    where
        F: FnMut(&Arc<Endpoint>) -> S + Unpin,
    {
        let listings = WatchStream::new(self.core.listing.subscribe());
        let (known, changes) = (BTreeSet::new(), VecDeque::new());
        Discovered { listings, make, known, changes, _balancer: self.clone() }
    }
}

impl<F, S> Discovered<F, S>
where
    F: FnMut(&Arc<Endpoint>) -> S + Unpin,
{
    fn take(&mut self, listing: &Listing) {
        let Some(endpoints) = &listing.endpoints else { return };
        let callable =
            |e: &&Arc<Endpoint>| e.is_enabled() && e.is_routable() && e.declared_weight() > 0.0;
        let now: BTreeMap<_, _> = endpoints.iter().filter(callable).map(|e| (&e.key, e)).collect();
        let gone: Vec<_> =
            self.known.iter().filter(|key| !now.contains_key(key)).cloned().collect();
        for key in gone {
            self.known.remove(&key);
            self.changes.push_back(Change::Remove(key));
        }
        for (key, endpoint) in now {
            if self.known.insert(key.clone()) {
                self.changes.push_back(Change::Insert(key.clone(), (self.make)(endpoint)));
            }
        }
    }
}

impl<F, S> Stream for Discovered<F, S>
where
    F: FnMut(&Arc<Endpoint>) -> S + Unpin,
    S: Unpin,
{
    type Item = Result<Change<Key, S>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match std::task::ready!(Pin::new(&mut self.listings).poll_next(cx)) {
                Some(listing) => self.take(&listing),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<F, S> fmt::Debug for Discovered<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovered").field("known", &self.known.len()).finish_non_exhaustive()
    }
}
