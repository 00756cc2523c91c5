//! Where words go: data to standard output, messages to standard error.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde_json::Value;

use super::failure::Failure;
use super::{Exit, Outcome};

/// Prints one line of data at once: a reader of a stream waits for it.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| Failure::of_output(&error))
}

/// Prints data as it is.
pub(super) fn bytes(data: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    let written = out.write_all(data).and_then(|()| out.flush());
    written.map(|()| Exit::Ok).map_err(|error| Failure::of_output(&error))
}

/// Prints one JSON value, for reading.
pub(super) fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Prints one JSON value on one line, as an element of a stream.
pub(super) fn json_line(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

/// Prints rows in columns, without borders and without colours.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    line(&table.trim_fmt())
}

/// A message for the person at the terminal. One that cannot be delivered is lost.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
