//! The secret that the nodes of a cluster share, so that what one of them signed (a DNS cookie) all of them accept.
//! Who proposes it and what is signed is not decided here.

use std::fmt;

/// 128 random bits. Part of the state and of its snapshots; shown nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterSecret(u128);

impl ClusterSecret {
    /// A secret of these bits, which must be random.
    pub fn new(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits, for keys and for storing.
    pub fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}
