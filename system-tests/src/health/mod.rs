//! Health checks against real targets: the cases come with the checks.

use crate::case::Case;

/// The cases of this topic.
pub(crate) const CASES: &[Case] = &[];
