//! What was measured: samples in, rows with medians and ratios out, as Markdown ([`mod@table`]) and as JSON.

mod table;

use crate::{
    load::{Counted, Seen},
    machine::Machine,
    outcome::Outcome,
};
use serde::Serialize;
use std::{fmt::Write as _, path::Path};
use table::{table, unique};

/// Ours; every other subject is a peer.
pub(crate) const OURS: &str = "rollcall";

pub(crate) const THROUGHPUT: &str = "throughput";
pub(crate) const SERVERS: &str = "servers busy";
pub(crate) const LOAD: &str = "load busy";

/// One figure of one repeat.
#[derive(Debug, Clone)]
struct Sample {
    workload: &'static str,
    case: String,
    subject: String,
    metric: String,
    unit: &'static str,
    value: f64,
}

/// All repeats of one figure. `peer` and `ratio` where it is ours beside somebody else's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) peer: Option<String>,
    pub(crate) metric: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) repeats: usize,
    /// Our median by the peer's, of the same run.
    pub(crate) ratio: Option<f64>,
}

/// Points of a plot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Curve {
    pub(crate) plot: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) subject: String,
    pub(crate) points: Vec<(f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Whole<'a> {
    command: &'a str,
    quick: bool,
    machine: &'a Machine,
    rows: Vec<Row>,
    curves: &'a [Curve],
    notes: &'a [String],
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: Vec<Sample>,
    curves: Vec<Curve>,
    notes: Vec<String>,
}

/// Where figures belong: workload, case and subject.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a>(pub(crate) &'static str, pub(crate) &'a str, pub(crate) &'a str);

impl Report {
    pub(crate) fn add(&mut self, of: Of<'_>, metric: &str, unit: &'static str, value: f64) {
        let Of(workload, case, subject) = of;
        let (case, subject, metric) = (case.to_owned(), subject.to_owned(), metric.to_owned());
        self.samples.push(Sample { workload, case, subject, metric, unit, value });
    }

    /// Throughput of a closed loop, and who was busy meanwhile.
    pub(crate) fn rate(&mut self, of: Of<'_>, seen: &Seen) {
        self.add(of, THROUGHPUT, "1/s", seen.rate);
        self.add(of, "latency p50, closed loop", "us", seen.micros(0.5));
        self.busy(of, seen);
    }

    /// Latency at a fixed rate of arrival.
    pub(crate) fn latency(&mut self, of: Of<'_>, seen: &Seen) {
        for (metric, quantile) in
            [("latency p50", 0.5), ("latency p99", 0.99), ("latency p99.9", 0.999)]
        {
            self.add(of, metric, "us", seen.micros(quantile));
        }
        self.busy(of, seen);
    }

    pub(crate) fn busy(&mut self, of: Of<'_>, seen: &Seen) {
        self.add(of, SERVERS, "cores", seen.servers);
        self.add(of, LOAD, "cores", seen.load);
    }

    /// How many a second, and who was busy meanwhile.
    pub(crate) fn counted(&mut self, of: Of<'_>, counted: Counted) {
        self.add(of, THROUGHPUT, "1/s", counted.rate);
        self.add(of, SERVERS, "cores", counted.servers);
        self.add(of, LOAD, "cores", counted.load);
    }

    pub(crate) fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    pub(crate) fn curves(&self) -> &[Curve] {
        &self.curves
    }

    /// Something that the reader of the tables must know. Said once.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|note| note == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// The median of one figure so far.
    pub(crate) fn median(&self, of: Of<'_>, metric: &str) -> Option<f64> {
        let Of(workload, case, subject) = of;
        let fits = |sample: &&Sample| {
            (sample.workload, &*sample.case, &*sample.subject, &*sample.metric)
                == (workload, case, subject, metric)
        };
        spread(self.samples.iter().filter(fits).map(|sample| sample.value).collect())
            .map(|(_, median, _)| median)
    }

    /// As [`Report::alone`], and ours once for every peer.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let alone = self.alone();
        alone.iter().flat_map(|row| beside(row, &alone)).collect()
    }

    /// One for each figure of each subject, in the order of their first samples.
    fn alone(&self) -> Vec<Row> {
        let mut order: Vec<(&Sample, Vec<f64>)> = Vec::new();
        for sample in &self.samples {
            let same = |(first, _): &&mut (&Sample, _)| {
                (first.workload, &first.case, &first.subject, &first.metric)
                    == (sample.workload, &sample.case, &sample.subject, &sample.metric)
            };
            match order.iter_mut().find(same) {
                Some((_, values)) => values.push(sample.value),
                None => order.push((sample, vec![sample.value])),
            }
        }
        order.into_iter().filter_map(|(first, values)| row(first, values)).collect()
    }

    pub(crate) fn json(&self, machine: &Machine, command: &str, quick: bool) -> Outcome<String> {
        let rows = self.rows();
        let (curves, notes) = (&*self.curves, &*self.notes);
        let whole = Whole { command, quick, machine, rows, curves, notes };
        Ok(serde_json::to_string_pretty(&whole)? + "\n")
    }

    pub(crate) fn write_json(
        &self,
        path: &Path,
        machine: &Machine,
        command: &str,
        quick: bool,
    ) -> Outcome {
        let text = self.json(machine, command, quick)?;
        std::fs::write(path, text)
            .map_err(|error| format!("write {}: {error}", path.display()).into())
    }

    /// Machine, then a table for each workload, then notes. `2.80 x` beside a peer is our median by the peer's.
    pub(crate) fn markdown(&self, machine: &Machine, command: &str) -> Outcome<String> {
        let mut text = String::new();
        writeln!(text, "Command: `{command}`\n")?;
        writeln!(
            text,
            "Machine: {} ({} cores), {} MiB, {}, kernel {}; load average before the run {:.2}\n",
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.system,
            machine.kernel,
            machine.load_before
        )?;
        writeln!(
            text,
            "Median (smallest - largest); bold beside a peer: our median by the peer's; load-bound: the load had its \
             core for itself and the servers had not.\n"
        )?;
        for (program, version) in &machine.versions {
            writeln!(text, "- {program}: {version}")?;
        }
        let rows = self.alone();
        for workload in unique(rows.iter().map(|row| row.workload)) {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.workload == workload).collect();
            writeln!(text, "\n### {workload}\n\n{}", table(&rows))?;
        }
        if !self.notes.is_empty() {
            writeln!(text)?;
        }
        for note in &self.notes {
            writeln!(text, "- {note}")?;
        }
        Ok(text)
    }
}

fn row(first: &Sample, values: Vec<f64>) -> Option<Row> {
    let repeats = values.len();
    let (min, median, max) = spread(values)?;
    Some(Row {
        workload: first.workload,
        case: first.case.clone(),
        subject: first.subject.clone(),
        peer: None,
        metric: first.metric.clone(),
        unit: first.unit,
        median,
        min,
        max,
        repeats,
        ratio: None,
    })
}

/// Ours once for every peer that did the same; others as they are.
fn beside(row: &Row, all: &[Row]) -> Vec<Row> {
    let peers = all.iter().filter(|other| {
        other.subject != OURS
            && (other.workload, &other.case, &other.metric)
                == (row.workload, &row.case, &row.metric)
    });
    let mut found: Vec<Row> = Vec::new();
    if row.subject == OURS && row.unit != "cores" {
        found.extend(peers.map(|peer| Row {
            peer: Some(peer.subject.clone()),
            ratio: (peer.median != 0.0).then(|| row.median / peer.median),
            ..row.clone()
        }));
    }
    if found.is_empty() { vec![row.clone()] } else { found }
}

/// Smallest, middle and largest. Of an even number the middle is the mean of two.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let upper = values[values.len() / 2];
    let lower = values[(values.len() - 1) / 2];
    Some((first, f64::midpoint(lower, upper), last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for (subject, values) in [("rollcall", [30.0, 10.0, 20.0]), ("etcd", [4.0, 6.0, 5.0])] {
            for value in values {
                report.add(Of("register", "64 in flight", subject), THROUGHPUT, "1/s", value);
            }
        }
        report
    }

    #[test]
    fn ours_stands_beside_its_peer_with_the_ratio_of_medians() {
        let rows = report().rows();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].median, rows[0].min, rows[0].max), (20.0, 10.0, 30.0));
        assert_eq!((rows[0].peer.as_deref(), rows[0].ratio), (Some("etcd"), Some(4.0)));
        assert_eq!((rows[1].peer.as_deref(), rows[1].ratio), (None, None));
    }

    #[test]
    fn a_case_that_the_peer_did_not_run_has_no_ratio() {
        let mut report = report();
        report.add(Of("register", "1 in flight", "rollcall"), THROUGHPUT, "1/s", 1.0);
        let rows = report.rows();
        let alone = rows.iter().find(|row| row.case == "1 in flight");
        assert_eq!(alone.map(|row| row.ratio), Some(None));
    }

    #[test]
    fn the_middle_of_an_even_number_is_the_mean_of_two() {
        assert_eq!(spread(vec![1.0, 4.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(spread(vec![]), None);
    }
}
