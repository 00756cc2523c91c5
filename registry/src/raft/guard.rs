//! Who may talk to whom: every peer request says which cluster it belongs to, who sends it and for whom it is.
//! What does not fit is refused and counted, so that a wrong address in a configuration can never mix two logs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Metadata key: 32 hex digits.
pub const CLUSTER_ID: &str = "rollcall-cluster-id";
/// Metadata key: 16 hex digits.
pub const SENDER_ID: &str = "rollcall-sender-id";
/// Metadata key: 16 hex digits.
pub const TARGET_ID: &str = "rollcall-target-id";
/// Metadata key: `true` or `false`.
pub const ALLOW_LOOPBACK: &str = "rollcall-allow-loopback";

/// Who this node is, for its peers. Clones share it.
#[derive(Clone)]
pub struct PeerGuard(Arc<Inner>);

struct Inner {
    node_id: u64,
    cluster_id: RwLock<Option<u128>>,
    /// `checks.allow_loopback`: a member that took other addresses than the rest would register them for all.
    allow_loopback: bool,
    refused: AtomicU64,
}

impl fmt::Debug for PeerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerGuard")
            .field("node_id", &format_args!("{:016x}", self.0.node_id))
            .field("cluster_id", &self.cluster_id().map(|id| format!("{id:032x}")))
            .finish_non_exhaustive()
    }
}

impl PeerGuard {
    pub(crate) fn new(node_id: u64, cluster_id: Option<u128>, allow_loopback: bool) -> Self {
        let (cluster_id, refused) = (RwLock::new(cluster_id), AtomicU64::new(0));
        Self(Arc::new(Inner { node_id, cluster_id, allow_loopback, refused }))
    }

    /// The id of this node.
    pub fn node_id(&self) -> u64 {
        self.0.node_id
    }

    /// The id of the cluster, once this node belongs to one.
    pub fn cluster_id(&self) -> Option<u128> {
        *self.0.cluster_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_cluster_id(&self, id: u128) {
        *self.0.cluster_id.write().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// How many requests were refused since the start.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The sender of a request between members.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where cluster or target are not ours, an id is missing, or the sender has another value of
    /// a setting that all members share.
    pub fn check(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        self.counted(self.sender(metadata, false))
    }

    /// The sender of a request that a new node may make or get, while it knows neither cluster nor target.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where both sides have a cluster and not the same, where another target is named,
    /// the sender is missing, or it has another value of a setting that all members share.
    pub fn check_newcomer(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        self.counted(self.sender(metadata, true))
    }

    fn counted(&self, result: Result<u64, Status>) -> Result<u64, Status> {
        if let Err(status) = &result {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(reason = status.message(), "refuse a peer request");
        }
        result
    }

    fn sender(&self, metadata: &MetadataMap, newcomer: bool) -> Result<u64, Status> {
        let sender = match id_of(metadata, SENDER_ID)? {
            Some(id) => u64::try_from(id).map_err(|_| refusal("sender id is too long"))?,
            None => return Err(refusal("the request names no sender")),
        };
        match id_of(metadata, TARGET_ID)? {
            Some(target) if target == u128::from(self.0.node_id) => {}
            None if newcomer => {}
            target => {
                let target = target.map_or_else(|| "nobody".to_owned(), |id| format!("{id:016x}"));
                return Err(refusal(&format!(
                    "the request of node {sender:016x} is for {target}, but this is node {:016x}: \
                     check the peer addresses of the members",
                    self.0.node_id
                )));
            }
        }
        match (id_of(metadata, CLUSTER_ID)?, self.cluster_id()) {
            (Some(theirs), Some(ours)) if theirs == ours => {}
            (None, _) | (_, None) if newcomer => {}
            (theirs, ours) => {
                let show = |id: Option<u128>| match id {
                    Some(id) => format!("{id:032x}"),
                    None => "no".to_owned(),
                };
                return Err(refusal(&format!(
                    "node {sender:016x} belongs to cluster {}, node {:016x} to cluster {}: they \
                     must not talk to each other; check the peer addresses and data directories",
                    show(theirs),
                    self.0.node_id,
                    show(ours)
                )));
            }
        }
        if sender == self.0.node_id {
            return Err(refusal(
                "the sender has the id of this node: was a data directory copied?",
            ));
        }
        self.check_settings(metadata, sender)?;
        Ok(sender)
    }

    /// What all members must have in common.
    fn check_settings(&self, metadata: &MetadataMap, sender: u64) -> Result<(), Status> {
        let ours = self.0.allow_loopback;
        let theirs = metadata.get(ALLOW_LOOPBACK).and_then(|value| value.to_str().ok());
        if theirs == Some(bool_text(ours)) {
            return Ok(());
        }
        Err(refusal(&format!(
            "node {sender:016x} has checks.allow_loopback = {}, node {:016x} has \
             checks.allow_loopback = {ours}: it must be equal on all members; set it alike in both \
             configurations and restart",
            theirs.filter(|told| *told == bool_text(!ours)).unwrap_or("(not told)"),
            self.0.node_id
        )))
    }

    /// What puts our ids on requests for `target`; `None` where its id is not known yet.
    pub fn stamp_for(&self, target: Option<u64>) -> PeerStamp {
        PeerStamp { guard: self.clone(), target }
    }
}

fn refusal(text: &str) -> Status {
    Status::failed_precondition(text.to_owned())
}

fn id_of(metadata: &MetadataMap, key: &str) -> Result<Option<u128>, Status> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| u128::from_str_radix(text, 16).ok());
    id.map(Some).ok_or_else(|| refusal(&format!("{key} is not a hex number")))
}

/// Puts cluster, sender and target on each request to one peer.
#[derive(Clone, Debug)]
pub struct PeerStamp {
    guard: PeerGuard,
    target: Option<u64>,
}

impl Interceptor for PeerStamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(SENDER_ID, hex(format!("{:016x}", self.guard.node_id())));
        if let Some(target) = self.target {
            metadata.insert(TARGET_ID, hex(format!("{target:016x}")));
        }
        if let Some(cluster) = self.guard.cluster_id() {
            metadata.insert(CLUSTER_ID, hex(format!("{cluster:032x}")));
        }
        let allowed = MetadataValue::from_static(bool_text(self.guard.0.allow_loopback));
        metadata.insert(ALLOW_LOOPBACK, allowed);
        Ok(request)
    }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn hex(text: String) -> MetadataValue<Ascii> {
    MetadataValue::try_from(text).expect("hex digits are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(from: &PeerGuard, target: Option<u64>) -> MetadataMap {
        let request = from.stamp_for(target).call(Request::new(())).unwrap();
        request.metadata().clone()
    }

    #[test]
    fn a_request_of_a_member_for_this_node_passes() {
        let (ours, theirs) = (PeerGuard::new(1, Some(7), true), PeerGuard::new(2, Some(7), true));
        assert_eq!(ours.check(&stamped(&theirs, Some(1))).unwrap(), 2);
        assert_eq!(ours.refused(), 0);
    }

    #[test]
    fn another_cluster_another_target_and_ones_own_id_are_refused_and_counted() {
        let ours = PeerGuard::new(1, Some(7), true);
        let cases = [
            (PeerGuard::new(2, Some(8), true), Some(1), "belongs to cluster"),
            (PeerGuard::new(2, None, true), Some(1), "belongs to cluster no"),
            (PeerGuard::new(2, Some(7), true), Some(3), "but this is node"),
            (PeerGuard::new(2, Some(7), true), None, "is for nobody"),
            (PeerGuard::new(1, Some(7), true), Some(1), "copied"),
        ];
        for (count, (sender, target, text)) in (1..).zip(cases) {
            let error = ours.check(&stamped(&sender, target)).unwrap_err();
            assert!(error.message().contains(text), "{}", error.message());
            assert_eq!(ours.refused(), count);
        }
        assert!(ours.check(&MetadataMap::new()).is_err());
    }

    #[test]
    fn a_node_with_another_setting_is_refused_with_both_values() {
        let ours = PeerGuard::new(1, Some(7), false);
        let theirs = stamped(&PeerGuard::new(2, Some(7), true), Some(1));
        for refused in [ours.check(&theirs), ours.check_newcomer(&theirs)] {
            let text = refused.unwrap_err().message().to_owned();
            let told = "node 0000000000000002 has checks.allow_loopback = true, node 0000000000000001 \
                        has checks.allow_loopback = false: it must be equal on all members";
            assert!(text.starts_with(told), "{text}");
        }
        let mut untold = stamped(&PeerGuard::new(2, Some(7), false), Some(1));
        assert_eq!(ours.check(&untold).unwrap(), 2);
        untold.remove(ALLOW_LOOPBACK);
        assert!(ours.check(&untold).is_err());
        assert_eq!(ours.refused(), 3);
    }

    #[test]
    fn a_node_without_a_cluster_may_be_invited_but_not_made_a_follower() {
        let (new, member) = (PeerGuard::new(1, None, true), PeerGuard::new(2, Some(7), true));
        assert_eq!(new.check_newcomer(&stamped(&member, Some(1))).unwrap(), 2);
        assert!(new.check(&stamped(&member, Some(1))).is_err());
    }

    #[test]
    fn a_newcomer_need_not_know_cluster_and_target_but_must_not_name_wrong_ones() {
        let ours = PeerGuard::new(1, Some(7), true);
        assert_eq!(ours.check_newcomer(&stamped(&PeerGuard::new(2, None, true), None)).unwrap(), 2);
        assert!(ours.check_newcomer(&stamped(&PeerGuard::new(2, Some(8), true), None)).is_err());
        assert!(ours.check_newcomer(&stamped(&PeerGuard::new(2, None, true), Some(9))).is_err());
    }
}
