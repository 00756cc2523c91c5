//! Commands, outcomes and the state as bytes: in the log, in snapshots and between the nodes of one cluster.
//!
//! `stored.proto` is the format; one byte in front of each message is its version. A reader overlooks nothing: a later
//! version, an unknown kind of command, an unknown value and an unknown field are errors. What was once accepted is not
//! judged again, apart from the alphabet of names. Damage that still reads as a value is for the checksums to find,
//! which log, snapshot and transport have of their own.
//!
//! `values` and `checks` hold what the others have in common, `command`, `outcome` and `state` one message each, `pool` shares
//! equal names and words while loading.

mod checks;
mod command;
mod outcome;
mod pool;
mod state;
mod values;

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;

pub use state::{StateChunk, StateLoader, StateReader, state_parts};

use crate::internal::v1 as wire;
use bytes::{BufMut, Bytes, BytesMut};
use pool::Pool;
use prost::Message;
use rollcall_core::{
    Command, Outcome, Stamped,
    name::{Invalid, shown},
    state::Damaged,
};

/// Version of the format that this program writes, and the highest that it reads.
pub const FORMAT: u8 = 1;

/// Bytes that cannot be read. The node that meets this in its log or snapshot stops: it must not guess.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// There is not even a version.
    #[error("the record is empty")]
    Empty,
    /// A later program wrote it, or it is no record at all.
    #[error(
        "format {found} is not known to this version of rollcall, which reads up to {FORMAT}; run the version that wrote it"
    )]
    Format {
        /// The version found.
        found: u8,
    },
    /// Not a protobuf message.
    #[error("the record is damaged")]
    Malformed(#[from] prost::DecodeError),
    /// It holds fields of a later program, or is not written as this program writes.
    #[error(
        "the record of {length} bytes holds {known} that this version of rollcall knows; run the version that wrote it"
    )]
    Surplus {
        /// Bytes of the record.
        length: usize,
        /// Bytes that were understood.
        known: usize,
    },
    /// A field that must be there is not, or its kind or value is of a later program.
    #[error("{field} is missing or of a kind that this version of rollcall does not know")]
    Unknown {
        /// Which field.
        field: &'static str,
    },
    /// A value that cannot be.
    #[error("the record holds an impossible value")]
    Invalid(#[from] Invalid),
    /// Parts that do not make a state.
    #[error("the parts do not make a state")]
    Damaged(#[from] Damaged),
}

impl StoredError {
    fn value(field: &'static str, value: impl std::fmt::Display) -> Self {
        Self::Invalid(Invalid::new(field, shown(&value.to_string())))
    }
}

/// A stamped command, as the log holds it.
pub fn encode_command(stamped: &Stamped) -> Bytes {
    seal(&wire::StampedCommand {
        wall_ms: stamped.wall_ms,
        advance_ms: stamped.advance_ms,
        command: Some(command::write(&stamped.command)),
    })
}

/// Reads what [`encode_command`] wrote. An error means that the node must stop, never that the command may be skipped.
pub fn decode_command(bytes: &[u8]) -> Result<Stamped, StoredError> {
    let stamped: wire::StampedCommand = open(bytes)?;
    let command = stamped.command.ok_or(StoredError::Unknown { field: "command" })?;
    Ok(Stamped {
        wall_ms: stamped.wall_ms,
        advance_ms: stamped.advance_ms,
        command: command::read(command, &mut Pool::for_bytes(bytes.len()))?,
    })
}

/// A command without stamps, as a node passes it on to the leader.
pub fn encode_unstamped(command: &Command) -> Bytes {
    seal(&command::write(command))
}

/// Reads what [`encode_unstamped`] wrote.
pub fn decode_unstamped(bytes: &[u8]) -> Result<Command, StoredError> {
    command::read(open(bytes)?, &mut Pool::for_bytes(bytes.len()))
}

/// An outcome, as the leader answers it to the node that passed the command on.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    seal(&outcome::write(outcome))
}

/// Reads what [`encode_outcome`] wrote.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, StoredError> {
    outcome::read(open(bytes)?)
}

fn seal(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(FORMAT);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

fn open<M: Message + Default>(bytes: &[u8]) -> Result<M, StoredError> {
    let (format, body) = bytes.split_first().ok_or(StoredError::Empty)?;
    if *format != FORMAT {
        return Err(StoredError::Format { found: *format });
    }
    // Copied once, so that the texts in it need not be copied one by one.
    let message = M::decode(Bytes::copy_from_slice(body))?;
    // Protobuf skips fields that it does not know. A command of which a part was skipped would be another one.
    let known = message.encoded_len();
    if known != body.len() {
        return Err(StoredError::Surplus { length: body.len(), known });
    }
    Ok(message)
}
