//! What endpoints report of their own load, and the weight that follows from it (gRPC proposal A58).

use prost::Message as _;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Reports of the first moments of an endpoint do not count yet.
const BLACKOUT_MS: u32 = 10_000;
/// A report that is older does not count any more.
const EXPIRY_MS: u32 = 180_000;
/// Name of the gRPC trailer that carries a report (ORCA).
pub(super) const TRAILER: &str = "endpoint-load-metrics-bin";

/// Load of an endpoint as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Share of its capacity that is in use: 0.7 is 70 %. May exceed 1.
    pub utilization: f64,
    /// Calls that it takes in a second, from everybody.
    pub calls_per_second: f64,
    /// Those of them that fail.
    pub errors_per_second: f64,
}

/// The last report.
#[derive(Debug, Default)]
pub(super) struct Cell {
    weight: AtomicU32,
    first: AtomicU32,
    last: AtomicU32,
}

/// The fields of `xds.data.orca.v3.OrcaLoadReport` that we read.
#[derive(Clone, PartialEq, prost::Message)]
struct OrcaLoadReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

impl Load {
    /// Calls that it could take at full use, less for errors. `None` where the report makes no sense.
    fn weight(self) -> Option<f64> {
        let usable = |value: f64| value.is_finite() && value > 0.0;
        if !usable(self.utilization) || !usable(self.calls_per_second) {
            return None;
        }
        let errors = if usable(self.errors_per_second) { self.errors_per_second } else { 0.0 };
        Some(self.calls_per_second / (self.utilization + errors / self.calls_per_second))
    }

    /// Reads the trailer of a gRPC answer.
    pub(super) fn from_trailers(trailers: &http::HeaderMap) -> Option<Self> {
        let value = trailers.get(TRAILER)?;
        let bytes = super::details::decode(value)?;
        let report = OrcaLoadReport::decode(bytes).ok()?;
        let application = report.application_utilization;
        Some(Self {
            utilization: if application > 0.0 { application } else { report.cpu_utilization },
            calls_per_second: report.rps_fractional,
            errors_per_second: report.eps,
        })
    }
}

impl Cell {
    pub(super) fn set(&self, load: Load, now_ms: u32) {
        let Some(weight) = load.weight() else { return };
        let at = now_ms.max(1);
        let _ = self.first.compare_exchange(0, at, Relaxed, Relaxed);
        self.weight.store((weight as f32).to_bits(), Relaxed);
        self.last.store(at, Relaxed);
    }

    /// The weight; `None` where there is no report that counts.
    pub(super) fn weight(&self, now_ms: u32) -> Option<f64> {
        let (first, last) = (self.first.load(Relaxed), self.last.load(Relaxed));
        if first == 0 || age(now_ms, first) < BLACKOUT_MS {
            return None;
        }
        if age(now_ms, last) > EXPIRY_MS {
            // Who reports again later begins with a blackout, as a newcomer does.
            self.first.store(0, Relaxed);
            return None;
        }
        Some(f64::from(f32::from_bits(self.weight.load(Relaxed))))
    }
}

/// Milliseconds since. A time that is ahead was read by another thread after `now_ms` was: it is no time ago.
fn age(now_ms: u32, at: u32) -> u32 {
    let age = now_ms.wrapping_sub(at);
    if age > u32::MAX / 2 { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(utilization: f64, calls: f64, errors: f64) -> Load {
        Load { utilization, calls_per_second: calls, errors_per_second: errors }
    }

    #[test]
    fn weight_is_what_it_could_take_less_for_errors() {
        assert_eq!(load(0.5, 100.0, 0.0).weight(), Some(200.0));
        assert_eq!(load(0.5, 100.0, 50.0).weight(), Some(100.0));
        for bad in [load(0.0, 1.0, 0.0), load(f64::NAN, 1.0, 0.0), load(1.0, -1.0, 0.0)] {
            assert_eq!(bad.weight(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_report_counts_after_the_blackout_and_until_it_expires() {
        let cell = Cell::default();
        assert_eq!(cell.weight(0), None);
        cell.set(load(0.5, 100.0, 0.0), 1_000);
        assert_eq!(cell.weight(10_999), None);
        assert_eq!(cell.weight(11_000), Some(200.0));
        assert_eq!(cell.weight(181_000), Some(200.0));
        assert_eq!(cell.weight(181_001), None);
        cell.set(load(0.5, 300.0, 0.0), 182_000);
        assert_eq!(cell.weight(182_001), None);
        assert_eq!(cell.weight(192_000), Some(600.0));
    }

    #[test]
    fn a_report_from_a_moment_ahead_is_a_new_one() {
        let cell = Cell::default();
        cell.set(load(0.5, 100.0, 0.0), 1_000);
        cell.set(load(0.5, 300.0, 0.0), 20_001);
        // The clock was read before that report came.
        assert_eq!(cell.weight(20_000), Some(600.0));
        assert_eq!(cell.weight(20_002), Some(600.0));
    }

    #[test]
    fn the_trailer_of_the_standard_is_read_and_nonsense_is_not() {
        let report = OrcaLoadReport {
            cpu_utilization: 0.25,
            rps_fractional: 10.0,
            ..OrcaLoadReport::default()
        };
        let value = tonic::metadata::BinaryMetadataValue::from_bytes(&report.encode_to_vec());
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert_bin(TRAILER, value);
        let mut trailers = metadata.into_headers();
        assert_eq!(Load::from_trailers(&trailers), Some(load(0.25, 10.0, 0.0)));
        trailers.insert(TRAILER, http::HeaderValue::from_static("!!!"));
        assert_eq!(Load::from_trailers(&trailers), None);
        trailers.insert(TRAILER, http::HeaderValue::from_static("Zm9v"));
        assert_eq!(Load::from_trailers(&trailers), None);
    }
}
