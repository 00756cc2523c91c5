//! Which node probes which instance: rendezvous hashing over a set that the whole cluster agrees on.
//!
//! Every node computes the same answer from the same state, so nobody has to be told its share.

use crate::name::InstanceName;
use xxhash_rust::xxh3::Xxh3Default;

/// The nodes that probe. The epoch grows with every change of the set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkers {
    epoch: u64,
    nodes: Vec<u64>,
}

impl Checkers {
    /// A set of nodes, whose order and repetitions do not matter.
    pub fn new(epoch: u64, mut nodes: Vec<u64>) -> Self {
        nodes.sort_unstable();
        nodes.dedup();
        Self { epoch, nodes }
    }

    /// Epoch of the set; 0 = there was none yet.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Node ids in order.
    pub fn nodes(&self) -> &[u64] {
        &self.nodes
    }

    /// The node that probes this instance: the one with the highest hash of node and name. When a node leaves only
    /// its own instances move. A new owner of the same name keeps the checker.
    pub fn of(&self, name: &InstanceName) -> Option<u64> {
        self.nodes.iter().copied().max_by_key(|node| (weight(*node, name), *node))
    }
}

/// Written out byte by byte: nodes of different versions must agree.
fn weight(node: u64, name: &InstanceName) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&node.to_le_bytes());
    for part in [name.service.namespace.as_str(), name.service.service.as_str(), name.id.as_str()] {
        hasher.update(part.as_bytes());
        hasher.update(b"/");
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn name(i: u32) -> InstanceName {
        InstanceName::parse("", "web", &format!("i{i}")).unwrap()
    }

    #[test]
    fn instances_spread_evenly_and_only_those_of_a_lost_node_move() {
        let all = Checkers::new(1, vec![30, 10, 20, 10]);
        assert_eq!(all.nodes(), [10, 20, 30]);
        let two = Checkers::new(2, vec![10, 30]);
        let mut shares: BTreeMap<u64, u32> = BTreeMap::new();
        for i in 0..3_000 {
            let before = all.of(&name(i)).unwrap();
            *shares.entry(before).or_default() += 1;
            let after = two.of(&name(i)).unwrap();
            assert!(before == 20 || before == after, "i{i} moved from {before} to {after}");
        }
        assert!(shares.values().all(|share| (800..1_200).contains(share)), "{shares:?}");
    }

    #[test]
    fn the_share_of_a_node_is_the_same_in_every_version() {
        let checkers = Checkers::new(1, vec![1, 2, 3, 4, 5]);
        let shares: Vec<u64> = (0..10).filter_map(|i| checkers.of(&name(i))).collect();
        assert_eq!(shares, [1, 4, 4, 1, 1, 2, 3, 4, 5, 1]);
    }

    #[test]
    fn without_checkers_nobody_probes() {
        assert_eq!(Checkers::default().of(&name(1)), None);
    }
}
