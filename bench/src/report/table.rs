//! Rows as a table: a line for each figure, a column for each subject.

use super::{LOAD, OURS, Row, SERVERS, THROUGHPUT};

/// A server that is busier has a whole core, but for what the system needs.
const WHOLE: f64 = 0.95;
/// And so has a load: looking at others costs it a little.
const FULL_LOAD: f64 = 0.9;

/// Each once, where it stands first.
pub(super) fn unique<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// A line for each case and metric, a column for each subject, ours first.
pub(super) fn table(rows: &[&Row]) -> String {
    let mut subjects = unique(rows.iter().map(|row| &*row.subject));
    subjects.sort_by_key(|subject| *subject != OURS);
    let mut lines = vec![
        format!("| case | figure | {} |", subjects.join(" | ")),
        format!("|---|---|{}", "---:|".repeat(subjects.len())),
    ];
    for case in unique(rows.iter().map(|row| &*row.case)) {
        let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.case == case).collect();
        for (metric, unit) in unique(rows.iter().map(|row| (&*row.metric, row.unit))) {
            let find = |subject: &str, metric: &str| {
                rows.iter().copied().find(|row| (&*row.subject, &*row.metric) == (subject, metric))
            };
            if metric == LOAD {
                continue;
            }
            let cells = subjects.iter().map(|subject| match find(subject, metric) {
                None => String::new(),
                Some(row) if metric == SERVERS => {
                    let load = find(subject, LOAD).map_or(0.0, |load| load.median);
                    format!("{:.2} + {load:.2}", row.median)
                }
                Some(row) => {
                    let busy = |metric| find(subject, metric).map(|row| row.median);
                    let is_bound = metric == THROUGHPUT && load_bound(busy(SERVERS), busy(LOAD));
                    let bound = if is_bound { "; load-bound" } else { "" };
                    cell(row, find(OURS, metric)) + bound
                }
            });
            let cells: Vec<String> = cells.collect();
            let metric = if metric == SERVERS { "servers + load busy" } else { metric };
            let comma = if unit.is_empty() { "" } else { ", " };
            lines.push(format!("| {case} | {metric}{comma}{unit} | {} |", cells.join(" | ")));
        }
    }
    lines.join("\n")
}

/// Whether the load was the limit, and not the servers: it had a whole core, and they had not.
fn load_bound(servers: Option<f64>, load: Option<f64>) -> bool {
    servers.is_some_and(|servers| servers < WHOLE) && load.is_some_and(|load| load > FULL_LOAD)
}

/// Median, range, and with a peer our median by its own.
fn cell(row: &Row, ours: Option<&Row>) -> String {
    let mut text = number(row.median);
    if row.repeats > 1 {
        text += &format!(" ({} - {})", number(row.min), number(row.max));
    }
    if let Some(ours) = ours.filter(|_| row.subject != OURS && row.median != 0.0) {
        text += &format!("; **{:.2} x**", ours.median / row.median);
    }
    text
}

/// Three digits that matter, thousands apart.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => {
            let whole = format!("{value:.0}");
            let digits: Vec<char> = whole.chars().collect();
            let groups: Vec<String> =
                digits.rchunks(3).rev().map(|group| group.iter().collect()).collect();
            groups.join(",")
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Of, Report},
        *,
    };

    #[test]
    fn a_table_has_ours_first_and_the_ratio_beside_the_peer() {
        let mut report = Report::default();
        for (subject, value) in [("etcd", 5.0), ("rollcall", 20.0)] {
            report.add(Of("register", "1 node", subject), THROUGHPUT, "1/s", value);
            report.add(Of("register", "1 node", subject), SERVERS, "cores", 0.5);
            report.add(Of("register", "1 node", subject), LOAD, "cores", 0.25);
        }
        let rows = report.alone();
        let table = table(&rows.iter().collect::<Vec<_>>());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| case | figure | rollcall | etcd |");
        assert_eq!(lines[2], "| 1 node | throughput, 1/s | 20.0 | 5.00; **4.00 x** |");
        assert_eq!(lines[3], "| 1 node | servers + load busy, cores | 0.50 + 0.25 | 0.50 + 0.25 |");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.123), "0.12");
    }

    #[test]
    fn a_throughput_that_the_load_limits_is_marked() {
        let mut report = Report::default();
        for (subject, servers, load) in [("rollcall", 0.97, 0.99), ("bare tonic", 0.84, 0.97)] {
            report.add(Of("heartbeat", "64 streams", subject), THROUGHPUT, "1/s", 20.0);
            report.add(Of("heartbeat", "64 streams", subject), SERVERS, "cores", servers);
            report.add(Of("heartbeat", "64 streams", subject), LOAD, "cores", load);
        }
        let rows = report.alone();
        let table = table(&rows.iter().collect::<Vec<_>>());
        let line = table.lines().nth(2).unwrap();
        assert_eq!(line, "| 64 streams | throughput, 1/s | 20.0 | 20.0; **1.00 x**; load-bound |");
        assert!(!load_bound(Some(0.5), Some(0.5)) && !load_bound(None, Some(1.0)));
    }
}
