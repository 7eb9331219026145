//! Log records: the journal's lines and the edge's own events as they leave by OTLP.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity as Level};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{SpanId, TraceFlags, TraceId};
use opentelemetry_otlp::LogExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as Export, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The attribute that says which chain a line is of.
const CHAIN: &str = "whitelistmcp.audit.chain";
/// And which line it is.
const SEQ: &str = "whitelistmcp.audit.seq";

/// A line of the journal.
#[derive(Debug)]
pub struct Line<'a> {
    /// The event's name, such as `whitelistmcp.audit.begin`.
    pub event: &'static str,
    /// When it was written.
    pub at: Timestamp,
    /// The chain.
    pub chain: &'a str,
    /// The line's number in it.
    pub seq: u64,
    /// The line itself, which becomes the record's body.
    pub text: &'a str,
    /// The trace of the call, in hexadecimal.
    pub trace_id: Option<&'a str>,
    /// The span of the call, in hexadecimal.
    pub span_id: Option<&'a str>,
    /// What it is about, for whoever searches.
    pub attributes: &'a [(&'static str, &'a str)],
    /// How grave it is.
    pub severity: Severity,
    /// Whether it may have been sent before.
    pub replayed: bool,
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must.
    Error,
}

impl Severity {
    fn level(self) -> (Level, &'static str) {
        match self {
            Self::Info => (Level::Info, "INFO"),
            Self::Warning => (Level::Warn, "WARN"),
            Self::Error => (Level::Error, "ERROR"),
        }
    }
}

static LOGGER: OnceLock<SdkLogger> = OnceLock::new();

/// Where records go from now on.
pub(super) fn send_by(provider: &SdkLoggerProvider) {
    LOGGER.get_or_init(|| provider.logger(env!("CARGO_PKG_NAME")));
}

/// Hands a line over. Never waits: what the exporter has no room for is left out, and not told as taken.
pub fn send_line(line: &Line<'_>) {
    let Some(logger) = LOGGER.get() else { return };
    let mut record = new(logger, line.event, line.severity, line.text);
    record.set_timestamp(line.at.into());
    record.add_attribute(CHAIN, line.chain.to_owned());
    record.add_attribute(SEQ, i64::try_from(line.seq).unwrap_or(i64::MAX));
    if line.replayed {
        record.add_attribute("whitelistmcp.audit.replayed", true);
    }
    add(&mut record, line.attributes);
    let trace = line.trace_id.and_then(|id| TraceId::from_hex(id).ok());
    let span = line.span_id.and_then(|id| SpanId::from_hex(id).ok());
    if let Some((trace, span)) = trace.zip(span) {
        record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
    }
    logger.emit(record);
}

/// Hands over an event that is no line of a journal.
pub fn send_event(event: &'static str, severity: Severity, text: &str, attributes: &[(&'static str, &str)]) {
    let Some(logger) = LOGGER.get() else { return };
    let mut record = new(logger, event, severity, text);
    add(&mut record, attributes);
    let context = Span::current().context();
    let span = context.span();
    let ids = span.span_context();
    if ids.is_valid() {
        record.set_trace_context(ids.trace_id(), ids.span_id(), Some(ids.trace_flags()));
    }
    logger.emit(record);
}

fn new(logger: &SdkLogger, event: &'static str, severity: Severity, text: &str) -> SdkLogRecord {
    let mut record = logger.create_log_record();
    let (number, word) = severity.level();
    record.set_event_name(event);
    record.set_severity_number(number);
    record.set_severity_text(word);
    record.set_body(AnyValue::from(text.to_owned()));
    record
}

fn add(record: &mut impl LogRecord, attributes: &[(&'static str, &str)]) {
    for (name, value) in attributes {
        record.add_attribute(*name, (*value).to_owned());
    }
}

/// The ids of the current trace and span, in hexadecimal, where there are any.
pub fn span_ids() -> Option<(String, String)> {
    let context = Span::current().context();
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
}

type Listener = Box<dyn Fn(&str, u64) + Send + Sync>;

static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

/// Calls `told` with the chain and number of each line that the receiver has taken.
pub fn on_taken(told: impl Fn(&str, u64) + Send + Sync + 'static) {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(told));
}

/// An exporter that tells which lines were taken.
#[derive(Debug)]
pub(super) struct Telling(pub(super) LogExporter);

impl Export for Telling {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let lines: Vec<(String, u64)> = batch.iter().filter_map(|(record, _)| line_of(record)).collect();
        self.0.export(batch).await?;
        let listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        for (chain, seq) in &lines {
            listeners.iter().for_each(|told| told(chain, *seq));
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// The chain and number of a record that is a line of the journal.
fn line_of(record: &SdkLogRecord) -> Option<(String, u64)> {
    let find = |name: &str| record.attributes_iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value);
    match (find(CHAIN)?, find(SEQ)?) {
        (AnyValue::String(chain), AnyValue::Int(seq)) => Some((chain.as_str().to_owned(), u64::try_from(*seq).ok()?)),
        _ => None,
    }
}
