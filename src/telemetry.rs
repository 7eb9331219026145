//! Logs, traces, metrics and log records. Logs are JSON lines on stderr; the others leave by OTLP where the standard
//! `OTEL_*` variables name a receiver, and nowhere else.
//!
//! Names follow the OpenTelemetry semantic conventions for MCP, RPC, HTTP and AWS.

mod export;
mod http;
mod log;
mod metrics;
mod panic;
pub mod records;
mod requests;
mod trace;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use export::{Exporters, Signal};

pub use export::{ReachError, Receiver, receiver_named, receivers};
pub use metrics::*;
pub use requests::{log_answer, log_request, logs_requests};
pub use trace::*;

/// `[telemetry]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged: a level, or `tracing` directives such as `info,whitelistmcp=debug`.
    pub log: String,
    /// Whether requests and answers are logged: their fields, numbers, addresses and groups, and of free text its length.
    pub log_requests: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { log: "info".to_owned(), log_requests: false }
    }
}

/// Telemetry that is running. [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    records: Option<SdkLoggerProvider>,
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
    /// A protocol that is not spoken.
    #[error("{variable} is `{value}`; spoken are `grpc` and `http/protobuf`")]
    Protocol {
        /// The variable.
        variable: String,
        /// What it says.
        value: String,
    },
    /// A variable whose endpoint is no URL. What it says is not shown: it may hold a password.
    #[error("{0} must be a URL such as https://collector.internal:4317")]
    Endpoint(String),
    /// The CA of the receiver's certificate.
    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE")]
    Tls(#[from] crate::tls::TlsError),
    /// Something else logs already.
    #[error("logging is started twice")]
    Twice(#[from] TryInitError),
}

impl Telemetry {
    /// Starts logging, and exporting where a receiver is named. `role` is `core`, `edge` or `serve`. To be called in a
    /// runtime, which carries what leaves.
    pub fn start(config: &Config, role: &'static str) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(&config.log)?.add_directive(requests::directive(config.log_requests).parse()?);
        // At its lowest level the runtime of functions writes events as they come, tokens and all.
        let filter = filter.add_directive("lambda_runtime=info".parse()?);
        let registry = tracing_subscriber::registry().with(filter).with(log::JsonLines::new(std::io::stderr));
        panic::log_panics();
        if !receiver_named() {
            registry.try_init()?;
            return Ok(Self { traces: None, metrics: None, records: None });
        }
        let exporters = Exporters::from_environment()?;
        // What the standard variables say of the resource is the SDK's to read, and counts before ours.
        let says = |variable: &str, part: &str| {
            std::env::var(variable).is_ok_and(|value| value.contains(part) && !value.is_empty())
        };
        let is_named = says("OTEL_SERVICE_NAME", "") || says("OTEL_RESOURCE_ATTRIBUTES", "service.name=");
        let named = Resource::builder();
        let named = if is_named { named } else { named.with_service_name(format!("whitelistmcp-{role}")) };
        let instance = KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string());
        let is_known = says("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=");
        let named = if is_known { named } else { named.with_attribute(instance) };
        let resource = named.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
        let traces = exporters.is_wanted(Signal::Traces).then(|| exporters.spans()).transpose()?.map(|exporter| {
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.clone()).build()
        });
        let meters = exporters.is_wanted(Signal::Metrics).then(|| exporters.metrics()).transpose()?.map(|exporter| {
            SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource.clone()).build()
        });
        let records = exporters.is_wanted(Signal::Logs).then(|| exporters.records()).transpose()?.map(|exporter| {
            let processor = BatchLogProcessor::builder(records::Telling(exporter)).build();
            SdkLoggerProvider::builder().with_log_processor(processor).with_resource(resource.clone()).build()
        });
        if let Some(meters) = &meters {
            global::set_meter_provider(meters.clone());
            record_build(role);
        }
        if let Some(records) = &records {
            records::send_by(records);
        }
        let spans = traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_tracer(traces.tracer(env!("CARGO_PKG_NAME")))
                .with_location(false)
                .with_threads(false)
                // Spans are ours; what the libraries below say is for the log.
                .with_filter(tracing_subscriber::filter::filter_fn(|about| {
                    about.is_span() && about.target().starts_with(env!("CARGO_PKG_NAME"))
                }))
        });
        registry.with(spans).try_init()?;
        Ok(Self { traces, metrics: meters, records })
    }

    /// Waits until what was handed over so far has been sent, or could not be. Not on a thread of the runtime.
    pub fn flush(&self) {
        let records = self.records.as_ref().map(SdkLoggerProvider::force_flush);
        let traces = self.traces.as_ref().map(SdkTracerProvider::force_flush);
        let metrics = self.metrics.as_ref().map(SdkMeterProvider::force_flush);
        for error in [records, traces, metrics].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(error = %error, "telemetry could not be sent");
        }
    }

    /// Whether anything leaves at all.
    pub fn exports(&self) -> bool {
        self.records.is_some() || self.traces.is_some() || self.metrics.is_some()
    }

    /// Sends what is left. Takes as long as the receiver does, so call it off the runtime's threads.
    pub fn shutdown(self) {
        let traces = self.traces.map(|traces| traces.shutdown());
        let metrics = self.metrics.map(|metrics| metrics.shutdown());
        let records = self.records.map(|records| records.shutdown());
        for error in [traces, metrics, records].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(error = %error, "the last telemetry could not be sent");
        }
    }
}
