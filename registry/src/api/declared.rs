//! What callers declare and this server has to stand by: refused here where it cannot.

use rollcall_core::{
    command::{PutServicePolicy, Register},
    name::Invalid,
};
use rollcall_proto::{convert::Refused, error};
use tonic::Status;

/// Whether this server runs checks. While it does not, it refuses them: a check that is accepted and never run would
/// be worse than none.
const RUNS_CHECKS: bool = true;

/// Refuses registrations that this server cannot keep.
pub(super) fn admit(register: &Register) -> Result<(), Status> {
    let checked = register.items.iter().position(|item| !item.spec.checks.is_empty());
    match checked {
        Some(i) if !RUNS_CHECKS => Err(no_checks(&format!("items[{i}].spec"))),
        Some(_) | None => Ok(()),
    }
}

/// Refuses policies that this server cannot keep.
pub(super) fn admit_policy(put: &PutServicePolicy) -> Result<(), Status> {
    if RUNS_CHECKS || put.policy.checks.is_empty() { Ok(()) } else { Err(no_checks("policy")) }
}

fn no_checks(within: &str) -> Status {
    let problem = "this version runs no checks; leave them out, the lease alone decides";
    let invalid = Invalid::new("health_checks", problem).within(within);
    error::of_invalid(Refused::Unimplemented(invalid))
}
