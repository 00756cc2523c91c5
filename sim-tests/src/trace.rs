//! The trace: simulated time, event number, machine, event. Two runs of one seed must agree in every byte.

use crate::points::Points;
use std::{
    fmt::{self, Write as _},
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, filter::EnvFilter, layer::Context, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

/// What is traced unless told otherwise.
pub const DEFAULT_FILTER: &str =
    "rollcall_registry=debug,rollcall_client=debug,rollcall_sim_tests=info";

#[derive(Default)]
struct Lines {
    number: u64,
    hash: u64,
    to: Option<Box<dyn Write + Send>>,
    /// Simulated time, where a line is written outside of every machine.
    now: Duration,
    /// What a line holds, and which point it counts for.
    points: Vec<(&'static str, &'static str, Points)>,
}

/// The trace of this process.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Lines>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Trace {
    /// Begins the trace of this process; lines go where it says, if anywhere.
    pub fn begin(filter: &str, to: Option<Box<dyn Write + Send>>) -> Self {
        let trace = Self::default();
        trace.0.lock().unwrap_or_else(PoisonError::into_inner).to = to;
        let layer = TraceLayer(trace.clone());
        tracing_subscriber::registry().with(EnvFilter::new(filter)).with(layer).init();
        trace
    }

    /// From now on a line that holds `text` counts for a point.
    pub fn when_seen(&self, text: &'static str, point: &'static str, points: &Points) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.points.push((text, point, points.clone()));
    }

    /// Simulated time as the loop of the run knows it.
    pub fn set_now(&self, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now = now;
    }

    /// Adds a line.
    pub fn line(&self, machine: &str, text: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.number += 1;
        for (part, point, points) in &lines.points {
            if text.contains(part) {
                points.hit(point);
            }
        }
        let at = turmoil::sim_elapsed().unwrap_or(lines.now).as_micros();
        let line = format!("{at:>12} {:>8} {machine:<4} {text}\n", lines.number);
        // FNV-1a: the whole trace in one number, for a quick comparison.
        for byte in line.bytes() {
            lines.hash = (lines.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(to) = &mut lines.to {
            // A closed pipe ends the reader, not the run.
            let _ = to.write_all(line.as_bytes());
        }
    }

    /// Count of lines and their hash.
    pub fn summary(&self) -> (u64, u64) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.number, lines.hash)
    }
}

struct TraceLayer(Trace);

/// Name of the machine in whose span an event happens.
struct Machine(String);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

struct Name(Option<String>);

impl Visit for Name {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "name" {
            self.0 = Some(format!("{value:?}").trim_matches('"').to_owned());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() == "node"
            && let Some(span) = context.span(id)
        {
            let mut name = Name(None);
            attributes.record(&mut name);
            span.extensions_mut().insert(Machine(name.0.unwrap_or_default()));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        let machine = context.event_scope(event).and_then(|scope| {
            scope.from_root().find_map(|span| {
                span.extensions().get::<Machine>().map(|machine| machine.0.clone())
            })
        });
        self.0.line(machine.as_deref().unwrap_or("-"), &text.0);
    }
}
