//! The wire: the messages and services generated from `proto/`, in modules named as their packages are
//! (`rollcall.internal.v1` is [`internal::v1`]).

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::too_many_lines,
    clippy::use_self,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub mod convert;
pub mod error;
pub mod stored;

pub use generated::rollcall::*;

/// The descriptors of every message and service, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
