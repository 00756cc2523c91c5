//! What a server tells at `/metrics`.

use std::net::SocketAddr;

use crate::backend::get;
use crate::case::Checked;

/// One page of metrics.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks a server.
    pub(crate) fn of(http: SocketAddr) -> Checked<Self> {
        Ok(Self(get(http, "/metrics")?))
    }

    /// The sum of a metric over its labels, those that begin with `labels` (`{code="A"`, or nothing for all). A metric
    /// that is not there is 0.
    pub(crate) fn sum(&self, name: &str, labels: &str) -> f64 {
        let fits = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.starts_with(labels))
        };
        let values = self.0.lines().filter(fits).filter_map(|line| line.rsplit(' ').next());
        // The sum of nothing would be -0.
        values.filter_map(|value| value.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
    }
}

/// A metric of one server.
pub(crate) fn metric(http: SocketAddr, name: &str) -> Checked<f64> {
    Ok(Metrics::of(http)?.sum(name, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other() {
        let page = Metrics("# TYPE a gauge\na{k=\"x\"} 1\na{k=\"y\"} 2\nab 8\nb 4\n".to_owned());
        let sums = [page.sum("a", ""), page.sum("a", "{k=\"y\""), page.sum("c", "")];
        assert_eq!(format!("{sums:?}"), "[3.0, 2.0, 0.0]");
    }
}
