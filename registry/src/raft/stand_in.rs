//! Stand-ins for what `rollcall_core` and `rollcall_proto::stored` will hold.

/// What applying a command answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome(pub u64);
