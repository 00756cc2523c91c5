//! DNS as programs ask it that know nothing of Rollcall.

use crate::case::Case;

/// The cases of this topic.
pub(crate) const CASES: &[Case] = &[];
