//! The log: one JSON object a line, with a message for people, fields for programs, and the id of the request that it is
//! about.

use std::fmt;
use std::io::Write;

use opentelemetry::TraceId;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The fields of spans that every line inside them carries, and by which name.
const CARRIED: [(&str, &str); 3] =
    [("whitelistmcp.call", "call"), ("request.id", "request_id"), ("faas.invocation_id", "invocation")];

/// Writes events as JSON lines.
pub(super) struct JsonLines<W> {
    writer: W,
}

/// What lines inside a span carry.
#[derive(Clone, Debug, Default)]
struct About(Vec<(&'static str, String)>);

impl<W> JsonLines<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer }
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let carries = CARRIED.iter().any(|(field, _)| attributes.metadata().fields().field(field).is_some());
        let Some(span) = context.span(id).filter(|_| carries) else { return };
        let mut about = About::default();
        attributes.record(&mut about);
        span.extensions_mut().insert(about);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        // Read before anything is locked: should a value's own text panic, that is logged, and reads the same.
        let mut more = About::default();
        values.record(&mut more);
        if let Some(span) = context.span(id).filter(|_| !more.0.is_empty())
            && let Some(about) = span.extensions_mut().get_mut::<About>()
        {
            about.0.append(&mut more.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (metadata, mut line) = (event.metadata(), Fields::default());
        line.0.insert("timestamp".to_owned(), now().into());
        line.0.insert("level".to_owned(), metadata.level().as_str().into());
        line.0.insert("target".to_owned(), metadata.target().into());
        event.record(&mut line);
        let spans = context.event_scope(event).into_iter().flatten();
        for span in spans {
            if let Some(About(about)) = span.extensions().get::<About>() {
                for (name, value) in about {
                    line.0.entry(*name).or_insert_with(|| value.clone().into());
                }
            }
        }
        // The span that is entered is OpenTelemetry's current one as well.
        let trace = opentelemetry::Context::map_current(|current| current.span().span_context().trace_id());
        if trace != TraceId::INVALID {
            line.0.insert("trace_id".to_owned(), trace.to_string().into());
        }
        let Ok(mut text) = serde_json::to_vec(&line.0) else { return };
        text.push(b'\n');
        // A log that cannot be written has nowhere to say so.
        self.writer.make_writer_for(metadata).write_all(&text).unwrap_or_default();
    }
}

#[expect(clippy::disallowed_methods, reason = "a line of the log tells the machine's own time")]
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some((_, name)) = CARRIED.iter().find(|(known, _)| *known == field.name()) {
            self.0.push((name, value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if CARRIED.iter().any(|(known, _)| *known == field.name()) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// An event's fields.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    /// The lines that are logged meanwhile on this thread.
    pub(in crate::telemetry) fn logged(work: impl FnOnce()) -> Vec<Value> {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLines::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_what_happened_and_in_which_call() {
        let lines = logged(|| {
            tracing::info!(count = 3, "outside \"quoted\"\nlines");
            let span = tracing::info_span!("call", whitelistmcp.call = tracing::field::Empty, other = 1);
            span.record("whitelistmcp.call", "c-1");
            let inner = tracing::info_span!(parent: &span, "inner");
            inner.in_scope(|| tracing::warn!(reason = "X", late = true, "inside"));
        });
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0]["message"].as_str(), lines[0]["count"].as_i64()),
            (Some("outside \"quoted\"\nlines"), Some(3))
        );
        assert!(lines[0].get("call").is_none());
        assert_eq!((lines[1]["call"].as_str(), lines[1]["level"].as_str()), (Some("c-1"), Some("WARN")));
        assert_eq!((lines[1]["reason"].as_str(), lines[1]["late"].as_bool()), (Some("X"), Some(true)));
        assert!(lines[1]["timestamp"].is_string() && lines[1].get("other").is_none());
    }
}
