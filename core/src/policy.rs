//! What operators settle for a service as a whole.

use crate::{
    check::{Check, Checks},
    instance::limit,
    name::Invalid,
};
use std::time::Duration;

/// Policy of a service. Every part is optional; what is missing has the default named here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// TTL of DNS answers, at most 1 h; default: the node's setting.
    pub dns_ttl: Option<Duration>,
    /// Below this share of routable instances (0-1) every instance that is not in maintenance is answered,
    /// with its true status; default 0 = off.
    pub fail_open_below: Option<f64>,
    /// Time from expiry to removal, at most 24 h; default 30 s. An instance's own spec goes before it.
    pub evict_after: Option<Duration>,
    /// Removes an instance that beats but fails its checks for so long; default: never.
    pub evict_unhealthy_after: Option<Duration>,
    /// Share of leases (0-1) that may run out within the window before protection begins; default 0.5.
    pub protection_threshold: Option<f64>,
    /// Checks of the instances that declare none themselves; default none. One whose endpoint an instance does not
    /// have does not apply to it.
    pub checks: Checks,
}

impl Policy {
    /// Longest DNS TTL.
    pub const DNS_TTL_MAX: Duration = Duration::from_secs(3600);

    /// Checks every part. Errors name the field within the policy.
    pub fn checked(self) -> Result<Self, Invalid> {
        let share = |field: &str, value: Option<f64>| match value {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(Invalid::new(field, format!("{share}: a share from 0 to 1 is allowed")))
            }
            _ => Ok(()),
        };
        let wait = |field: &str, value: Option<Duration>, max: Duration| match value {
            Some(wait) if wait > max => {
                Err(Invalid::new(field, format!("{wait:?}: at most {max:?} is allowed")))
            }
            _ => Ok(()),
        };
        share("fail_open_below", self.fail_open_below)?;
        share("protection_threshold", self.protection_threshold)?;
        wait("dns_ttl", self.dns_ttl, Self::DNS_TTL_MAX)?;
        wait("evict_after", self.evict_after, limit::EVICT_AFTER_MAX)?;
        wait("evict_unhealthy_after", self.evict_unhealthy_after, limit::EVICT_AFTER_MAX)?;
        let size: usize = self.checks.iter().map(Check::size).sum();
        if size > limit::SPEC_BYTES {
            let problem = format!("{size} bytes, at most {} are allowed", limit::SPEC_BYTES);
            return Err(Invalid::new("health_checks", problem));
        }
        Ok(self)
    }

    /// The parts, for hashing: shares by their bits, times in ms.
    pub(crate) fn digest(&self) -> ([Option<u64>; 5], &Checks) {
        let ms = |d: Option<Duration>| d.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let numbers = [
            ms(self.dns_ttl),
            self.fail_open_below.map(f64::to_bits),
            ms(self.evict_after),
            ms(self.evict_unhealthy_after),
            self.protection_threshold.map(f64::to_bits),
        ];
        (numbers, &self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_outside_of_zero_to_one_is_refused_by_name() {
        for wrong in [-0.1, 1.1, f64::NAN] {
            let policy = Policy { fail_open_below: Some(wrong), ..Policy::default() };
            assert_eq!(policy.checked().expect_err("share").field, "fail_open_below");
        }
    }

    #[test]
    fn a_wait_beyond_its_bound_is_refused_by_name() {
        let policy = Policy { dns_ttl: Some(Duration::from_secs(3601)), ..Policy::default() };
        assert_eq!(policy.checked().expect_err("wait").field, "dns_ttl");
    }
}
