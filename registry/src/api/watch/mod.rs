//! Watch: the state of services, kept current.
//!
//! * [`hub`]: who must look again after a batch; a slow watcher costs a set of names, not a queue
//! * [`delta`]: the difference between two states of a service, encoded once and shared
//! * `busy`: how busy the instances are, beside the revisions
//! * [`stream`]: one watcher: snapshots, then deltas, with bookmarks

mod busy;
pub mod delta;
pub mod hub;
pub mod stream;
