//! What an instance says about itself with its beats. It can only make things worse: the registry decides the status,
//! and a report may degrade it.

use std::sync::Arc;

/// A self-report; the last one counts until the next. Default: healthy, utilization not told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HealthReport {
    degraded: Option<Arc<str>>,
    utilization: Option<f32>,
}

impl HealthReport {
    /// Longest reason in bytes; longer ones are cut.
    pub const REASON_BYTES: usize = 256;

    /// Nothing is wrong.
    pub fn healthy() -> Self {
        Self::default()
    }

    /// It works, but badly: callers with a choice go elsewhere. The reason is for people.
    pub fn degraded(reason: impl AsRef<str>) -> Self {
        let reason = reason.as_ref();
        let mut end = reason.len().min(Self::REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self { degraded: Some(reason[..end].into()), utilization: None }
    }

    /// How busy it is, 0 = idle, 1 = as busy as it can be. Above 1 counts as 1; what is no number is not told.
    #[must_use]
    pub fn utilization(mut self, share: f32) -> Self {
        self.utilization = (!share.is_nan()).then(|| share.clamp(0.0, 1.0));
        self
    }

    /// Why it is degraded; `None` = it is not.
    pub fn reason(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// How busy it is, 0 to 1; `None` = not told.
    pub fn busy(&self) -> Option<f32> {
        self.utilization
    }

    /// The same in percent, rounded, as it travels.
    pub(crate) fn percent(&self) -> Option<u32> {
        // Between 0 and 100, because the share is between 0 and 1.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        self.utilization.map(|share| (share * 100.0).round() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters_and_a_share_stays_between_0_and_1() {
        let report = HealthReport::degraded("é".repeat(200)).utilization(7.0);
        assert_eq!(report.reason().map(str::len), Some(256));
        let odd = HealthReport::degraded(format!("x{}", "é".repeat(200)));
        assert_eq!(odd.reason().map(str::len), Some(255));
        assert_eq!(report.busy(), Some(1.0));
        assert_eq!(HealthReport::healthy().utilization(f32::NAN).busy(), None);
        let percent = |share| HealthReport::healthy().utilization(share).percent();
        assert_eq!([0.0, 0.7, 0.995, 9.0].map(percent), [Some(0), Some(70), Some(100), Some(100)]);
        assert_eq!(percent(f32::NAN), None);
        assert_eq!(HealthReport::healthy().utilization(-3.0).busy(), Some(0.0));
    }
}
