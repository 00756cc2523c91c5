//! The instant at which a call must have ended, and how it travels with gRPC: as what is left of it, in `grpc-timeout`.
//! Over HTTP it does not travel: there is no header for it that servers agree on.

use http::{HeaderMap, HeaderValue};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

const HEADER: &str = "grpc-timeout";

/// When a call must have ended, the body of its answer included. Taken from the request that a server is answering and put into the extensions of the
/// requests that it makes meanwhile, it keeps a chain of calls from working for somebody who has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        // An instant that cannot be counted is no deadline to anybody: a century will do.
        let century = Duration::from_secs(100 * 365 * 86_400);
        Self(Instant::now() + time.min(century))
    }

    /// The deadline of a request that arrived just now; `None` = it has none that can be read.
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        read(metadata.get(HEADER)?.to_str().ok()?).map(Self::after)
    }

    /// The deadline that the headers of a request name, counted from now.
    pub(super) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        read(headers.get(HEADER)?.to_str().ok()?).map(Self::after)
    }

    /// Time left.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Writes what is left into the headers.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&written(self.left())) {
            headers.insert(HEADER, value);
        }
    }
}

/// At most eight digits and a unit.
fn read(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3_600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// In the finest unit that eight digits allow.
fn written(left: Duration) -> String {
    let most = 99_999_999;
    if left.as_micros() <= most {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= most {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nonsense_is_not() {
        for (text, millis) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4)] {
            assert_eq!(read(text), Some(Duration::from_millis(millis)));
        }
        assert_eq!(read("5000u"), Some(Duration::from_millis(5)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in ["", "S", "123456789S", "-1S", "1s", "1.5S", "1µ", "+1S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_to_the_unit() {
        for (left, text) in [
            (Duration::from_micros(1_500), "1500u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(1_000), "1000000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(written(left), text);
            assert!(read(text).is_some_and(|read| read <= left));
        }
    }
}
