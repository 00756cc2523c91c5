//! What callers declare and this server has to stand by: refused here where it cannot.

use rollcall_core::{
    command::{PutServicePolicy, Register},
    egress::Rules,
    name::Invalid,
};
use rollcall_proto::{convert::Refused, error};
use tonic::Status;

/// Whether this server runs checks. While it does not, it refuses them: a check that is accepted and never run would
/// be worse than none.
const RUNS_CHECKS: bool = true;

/// Refuses registrations that this server cannot keep, or whose addresses no instance can have.
pub(super) fn admit(register: &Register, rules: &Rules) -> Result<(), Status> {
    for (i, item) in register.items.iter().enumerate() {
        if !RUNS_CHECKS && !item.spec.checks.is_empty() {
            return Err(no_checks(&format!("items[{i}].spec")));
        }
        for (j, endpoint) in item.spec.endpoints.iter().enumerate() {
            if let Err(forbidden) = rules.check(endpoint.address) {
                let field = format!("items[{i}].spec.endpoints[{j}].host");
                let problem = format!("{}: {forbidden}", endpoint.address);
                tracing::warn!(instance = %item.name, address = %endpoint.address, %forbidden, "a registration was refused");
                return Err(error::of_invalid(Invalid::new(field, problem)));
            }
        }
    }
    Ok(())
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
