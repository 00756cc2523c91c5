//! What can go wrong here is told, never handled.

use std::error::Error;

pub(crate) type Problem = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Problem>;
