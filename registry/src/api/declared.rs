//! What callers declare and this server has to stand by: refused here where it cannot.

use rollcall_core::{command::Register, egress::Rules, name::Invalid};
use rollcall_proto::error;
use tonic::Status;

/// Refuses registrations whose addresses no instance can have.
pub(super) fn admit(register: &Register, rules: &Rules) -> Result<(), Status> {
    for (i, item) in register.items.iter().enumerate() {
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
