//! Everything the node stores, on disks that lose power, fail and rot: what was acknowledged is found again,
//! exactly, or the node refuses to start and says which file and where.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, outside of test functions"
)]

mod log_faults;
mod snapshot_faults;
mod workload;
