//! Watch: the state of services, kept current.
//!
//! * [`hub`]: who must look again after a batch; a slow watcher costs a set of names, not a queue
//! * [`delta`]: the difference between two states of a service, encoded once and shared
//! * [`stream`]: one watcher: snapshots, then deltas, with bookmarks

pub mod delta;
pub mod hub;
pub mod stream;
