//! Who is taken out for failing, and for how long. Pure: counts and times in, decisions out.
//!
//! Two judges: failures in a row, at once; and the success rate of an interval compared with the others' (gRPC
//! proposal A50). After its time an endpoint gets one call; only if that succeeds it is back (linkerd).

use std::time::Duration;

/// Deviations from the mean success rate that make an outlier (A50: 1900 thousandths).
const DEVIATIONS: f64 = 1.9;
/// Calls of an interval below which an endpoint is not judged by its rate.
const CALLS_MIN: u32 = 100;
/// Endpoints with so many calls below which there is no mean worth the name.
const ENDPOINTS_MIN: usize = 5;
/// Rates that differ by less than this from the mean are no outliers, however close the others stand together.
const MARGIN: f64 = 0.01;

/// When endpoints are ejected. See [`super::Balance::ejection`].
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Failures in a row that eject at once; 0 = never. Default 5. An attempt that its hedge beats is one of them, but
    /// no more than one in 200 ms.
    pub consecutive: u32,
    /// Whether endpoints are ejected whose success rate over an interval is 1.9 standard deviations below the mean.
    /// At least 5 endpoints with 100 calls each. Default: yes.
    pub success_rate: bool,
    /// Length of an interval, at least 100 ms. Default 10 s.
    pub interval: Duration,
    /// Length of the first ejection; each further one in a row lasts once more that. Default 5 s.
    pub base: Duration,
    /// Longest ejection. Default 5 min.
    pub longest: Duration,
    /// Largest share of the callable endpoints (the routable ones of this process's subset) that may be ejected at a
    /// time, at least one. Default 0.5.
    pub share: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            success_rate: true,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(5),
            longest: Duration::from_secs(300),
            share: 0.5,
        }
    }
}

impl Ejection {
    /// No endpoint is ever ejected.
    pub fn off() -> Self {
        Self { consecutive: 0, success_rate: false, ..Self::default() }
    }

    /// Length of the `count`th ejection in a row in ms, spread by a fraction (0 to 1), so that not all come back at
    /// once: at most a tenth longer.
    pub(super) fn length_ms(&self, count: u32, fraction: f64) -> u32 {
        let length = self.base.saturating_mul(count).min(self.longest);
        length.mul_f64(1.0 + fraction / 10.0).min(Duration::from_secs(86_400)).as_millis() as u32
    }

    /// Most endpoints that may be out at a time, of so many.
    pub(super) fn most(&self, callable: usize) -> u32 {
        ((callable as f64 * self.share.clamp(0.0, 1.0)) as u32).max(1)
    }
}

/// Positions of those whose success rate is an outlier, worst first, given successes and failures of each.
pub(super) fn outliers(counts: &[(u32, u32)]) -> Vec<usize> {
    let rate = |(good, bad): (u32, u32)| f64::from(good) / (f64::from(good) + f64::from(bad));
    let judged: Vec<(usize, f64)> = counts
        .iter()
        .enumerate()
        .filter(|(_, (good, bad))| good.saturating_add(*bad) >= CALLS_MIN)
        .map(|(at, counts)| (at, rate(*counts)))
        .collect();
    if judged.len() < ENDPOINTS_MIN {
        return Vec::new();
    }
    let count = judged.len() as f64;
    let mean = judged.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = judged.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let threshold = (mean - DEVIATIONS * variance.sqrt()).min(mean - MARGIN);
    let mut found: Vec<_> = judged.into_iter().filter(|(_, rate)| *rate < threshold).collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found.into_iter().map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_fails_more_than_the_others_is_found() {
        let mut counts = vec![(99, 1); 9];
        counts.push((50, 50));
        assert_eq!(outliers(&counts), [9]);
    }

    #[test]
    fn all_equally_bad_is_no_outlier() {
        assert_eq!(outliers(&[(50, 50); 10]), [0_usize; 0]);
        // Nor a difference that nobody would notice.
        let mut counts = vec![(10_000, 0); 20];
        counts.push((9_990, 10));
        assert_eq!(outliers(&counts), [0_usize; 0]);
    }

    #[test]
    fn few_calls_or_few_endpoints_are_not_judged() {
        let mut counts = vec![(99, 1); 9];
        counts.push((49, 50));
        assert_eq!(outliers(&counts), [0_usize; 0]);
        assert_eq!(outliers(&[(100, 0), (100, 0), (100, 0), (0, 100)]), [0_usize; 0]);
    }

    #[test]
    fn ejections_grow_longer_up_to_a_bound() {
        let ejection = Ejection::default();
        assert_eq!(ejection.length_ms(1, 0.0), 5_000);
        assert_eq!(ejection.length_ms(3, 0.0), 15_000);
        assert_eq!(ejection.length_ms(1_000_000, 0.0), 300_000);
        assert_eq!(ejection.length_ms(1, 1.0), 5_500);
    }

    #[test]
    fn one_may_always_be_ejected_and_never_more_than_the_share() {
        let ejection = Ejection::default();
        assert_eq!([1, 2, 3, 10, 31].map(|count| ejection.most(count)), [1, 1, 1, 5, 15]);
        let none = Ejection { share: f64::NAN, ..Ejection::default() };
        assert_eq!(none.most(10), 1);
    }
}
