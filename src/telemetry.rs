//! Logs, traces and metrics. Logs are JSON lines on stderr; traces and metrics leave by OTLP where the standard
//! `OTEL_*` variables name a receiver, and nowhere else.
//!
//! Names follow the OpenTelemetry semantic conventions for MCP, RPC and AWS.

pub mod records;

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// `[telemetry]` in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged: a level, or `tracing` directives such as `info,whitelistmcp=debug`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { log: "info".to_owned() }
    }
}

/// Telemetry that is running. [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Telemetry that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log directives.
    #[error("`[telemetry] log` cannot be read")]
    Directives(#[from] ParseError),
    /// The receiver.
    #[error("the OTLP exporter cannot be started; look at the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] ExporterBuildError),
    /// Something else logs already.
    #[error("logging is started twice")]
    Twice(#[from] TryInitError),
}

/// The histogram bounds, in seconds, that the conventions for MCP give.
const BOUNDS: [f64; 14] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

impl Telemetry {
    /// Starts logging, and exporting where a receiver is named. `role` is `core`, `edge` or `serve`.
    pub fn start(config: &Config, role: &'static str) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(&config.log)?;
        let logs = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            // The log prints no spans, so it need not write down their fields either.
            .with_filter(filter_fn(|about| about.is_event()));
        let registry = tracing_subscriber::registry().with(filter).with(logs);
        if !receiver_named() {
            registry.try_init()?;
            return Ok(Self { traces: None, metrics: None });
        }
        let resource = Resource::builder()
            .with_service_name(std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| format!("whitelistmcp-{role}")))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
        let traces = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.clone()).build();
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_tonic().build()?;
        let metrics = SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource).build();
        global::set_meter_provider(metrics.clone());
        registry
            .with(
                tracing_opentelemetry::layer()
                    .with_tracer(traces.tracer(env!("CARGO_PKG_NAME")))
                    .with_location(false)
                    .with_threads(false),
            )
            .try_init()?;
        Ok(Self { traces: Some(traces), metrics: Some(metrics) })
    }

    /// Waits for what was handed over so far.
    pub fn flush(&self) {}

    /// Sends what is left. Takes as long as the receiver does, so call it off the runtime's threads.
    pub fn shutdown(self) {
        let traces = self.traces.map(|traces| traces.shutdown());
        let metrics = self.metrics.map(|metrics| metrics.shutdown());
        for error in [traces, metrics].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(error = %error, "the last telemetry could not be sent");
        }
    }
}

/// Whether the `OTEL_*` variables name a receiver.
pub fn receiver_named() -> bool {
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let names =
        ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"];
    !disabled && names.into_iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Makes `span` part of the trace that the caller sent, if it sent one.
pub fn continue_trace<'a>(span: &Span, read: impl Fn(&str) -> Option<&'a str>) {
    struct From<'a, F>(F, std::marker::PhantomData<&'a str>);
    impl<'a, F: Fn(&str) -> Option<&'a str>> Extractor for From<'a, F> {
        fn get(&self, key: &str) -> Option<&str> {
            (self.0)(key)
        }
        fn keys(&self) -> Vec<&str> {
            vec!["traceparent", "tracestate"]
        }
    }
    if read("traceparent").is_none() {
        return;
    }
    let context = TraceContextPropagator::new().extract(&From(read, std::marker::PhantomData));
    if context.span().span_context().is_valid() {
        // Without an exporter there is nothing to set it on, and nothing is lost.
        let _: Result<(), _> = span.set_parent(context);
    }
}

/// Writes the current trace where the next service finds it.
pub fn inject_trace(write: impl FnMut(&str, String)) {
    struct Into<F>(F);
    impl<F: FnMut(&str, String)> Injector for Into<F> {
        fn set(&mut self, key: &str, value: String) {
            (self.0)(key, value);
        }
    }
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Into(write));
}

/// The current trace's id, where there is one.
pub fn trace_id() -> Option<String> {
    let context = Span::current().context();
    let id = context.span().span_context().trace_id();
    (id != opentelemetry::TraceId::INVALID).then(|| id.to_string())
}

/// Counts a call of the core and how long it took.
pub fn record_call(tool: &'static str, outcome: &'static str, took: Duration) {
    static CALLS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("whitelistmcp.call.duration", "Calls of the core by tool and outcome"));
    CALLS.record(took.as_secs_f64(), &[KeyValue::new("tool", tool), KeyValue::new("outcome", outcome)]);
}

/// Counts that somebody went ahead without the word that policy asks for.
pub fn record_break_glass(tool: &'static str) {
    static BROKEN: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Changes that were made at once although policy asks for somebody's word first";
        meter().u64_counter("whitelistmcp.break_glass").with_description(text).build()
    });
    BROKEN.add(1, &[KeyValue::new("tool", tool)]);
}

/// Tells how a round of the reconciler went.
pub fn record_round(standing: usize, damaged: usize, closed: usize, lag: Duration) {
    static LAG: LazyLock<Gauge<f64>> = LazyLock::new(|| {
        let text = "How long the oldest rule that should be closed has been standing past its end";
        meter().f64_gauge("whitelistmcp.reconciler.lag").with_unit("s").with_description(text).build()
    });
    static RULES: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        meter().u64_gauge("whitelistmcp.rules").with_description("Rules of ours that stand, by state").build()
    });
    static CLOSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        meter().u64_counter("whitelistmcp.rules.closed").with_description("Rules closed at their end").build()
    });
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    LAG.record(lag.as_secs_f64(), &[]);
    RULES.record(count(standing.saturating_sub(damaged)), &[KeyValue::new("state", "whole")]);
    RULES.record(count(damaged), &[KeyValue::new("state", "damaged")]);
    CLOSED.add(count(closed), &[]);
}

/// Counts a call that was refused for a limit.
pub fn record_limited(door: &'static str, limit: &'static str) {
    static REFUSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Calls that were refused for a limit, by door and limit";
        meter().u64_counter("whitelistmcp.limit.refused").with_description(text).build()
    });
    REFUSED.add(1, &[KeyValue::new("door", door), KeyValue::new("limit", limit)]);
}

/// Tells whether Redis, which replicas share, is in use.
pub fn record_redis(up: bool) {
    static UP: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        let text = "Whether Redis answers: 1, or 0 while limits hold for each process by itself";
        meter().u64_gauge("whitelistmcp.redis.up").with_description(text).build()
    });
    UP.record(u64::from(up), &[]);
}

/// Counts an MCP request of the edge and how long it took.
pub fn record_mcp(method: &str, tool: &str, error: Option<&'static str>, took: Duration) {
    static REQUESTS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("mcp.server.operation.duration", "MCP requests by method and tool"));
    let mut attributes =
        vec![KeyValue::new("mcp.method.name", method.to_owned()), KeyValue::new("gen_ai.tool.name", tool.to_owned())];
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    REQUESTS.record(took.as_secs_f64(), &attributes);
}

fn meter() -> Meter {
    global::meter(env!("CARGO_PKG_NAME"))
}

fn histogram(name: &'static str, description: &'static str) -> Histogram<f64> {
    meter().f64_histogram(name).with_unit("s").with_description(description).with_boundaries(BOUNDS.to_vec()).build()
}

/// Tells how the journal is.
pub fn record_journal(_waiting: usize, _took: Duration) {}
