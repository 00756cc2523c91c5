//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::failure::Failure;
use crate::config::{LogFormat, TelemetrySettings};

/// Logs as configured.
pub(super) fn start(settings: &TelemetrySettings) -> Result<(), Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::new(format!("telemetry.log: {error}"));
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| refused(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // On a terminal the environment decides (NO_COLOR).
        LogFormat::Text if std::io::stderr().is_terminal() => builder.try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    }
    .map_err(|error| refused(&error))
}

/// Warnings alone, for commands that only ask: their failures are told in words.
pub(super) fn quiet() {
    let settings = TelemetrySettings { log: "warn".to_owned(), ..TelemetrySettings::default() };
    // Without log lines everything works as well.
    drop(start(&settings));
}
