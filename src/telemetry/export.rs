//! The way to the receiver: OTLP over gRPC or HTTP, as the standard variables say.
//!
//! Headers, timeouts, compression, batch sizes, samplers and resources are read from their variables by the SDK. Read here is
//! what chooses the transport, since that is ours: one TLS stack, one HTTP client. Source: OpenTelemetry specification,
//! "OTLP Exporter Configuration".

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use url::Url;

use super::TelemetryError;
use super::http::Client;
use crate::tls;

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

/// What the variables say.
pub(super) struct Exporters {
    variables: fn(&str) -> Option<String>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A receiver that the variables name.
#[derive(Debug)]
pub struct Receiver {
    shown: String,
    authority: String,
    ca: Option<PathBuf>,
    tls: Option<(ClientConfig, ServerName<'static>)>,
}

/// Why a receiver is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// Nobody listens, or no way leads there.
    #[error("nobody listens there or no way leads there; start it, or mend the variable that names it")]
    Connect(#[source] io::Error),
    /// The handshake.
    #[error(
        "the scheme is https and no TLS comes about; speak TLS there, name the CA in OTEL_EXPORTER_OTLP_CERTIFICATE, or say http"
    )]
    Tls(#[source] io::Error),
    /// No answer.
    #[error("no answer within {PATIENCE:?}; look at the way there, and whether it speaks what the scheme says")]
    Silent,
}

/// How long a receiver may take to be reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// Each receiver that the variables name, once, or what is wrong with them.
pub fn receivers() -> Result<Vec<Receiver>, TelemetryError> {
    if !receiver_named() {
        return Ok(Vec::new());
    }
    let exporters = Exporters::from_environment()?;
    let mut found: Vec<Receiver> = Vec::new();
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        if !exporters.is_wanted(signal) {
            continue;
        }
        let receiver = exporters.receiver(signal)?;
        let is_same = |other: &Receiver| {
            (&other.authority, other.tls.is_some(), &other.ca)
                == (&receiver.authority, receiver.tls.is_some(), &receiver.ca)
        };
        if !found.iter().any(is_same) {
            found.push(receiver);
        }
    }
    Ok(found)
}

impl Receiver {
    /// Where it is, without what only it should be told: a user's name and password, a query.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects, and shakes hands where it is to be TLS.
    pub async fn reach(self) -> Result<(), ReachError> {
        let exchange = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(ReachError::Connect)?;
            if let Some((config, name)) = self.tls {
                TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(ReachError::Tls)?;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(ReachError::Silent))
    }
}

/// Whether the `OTEL_*` variables name a receiver.
pub fn receiver_named() -> bool {
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let of = |signal: Signal| variable(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.word())).is_some();
    let named = variable("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
        || [Signal::Traces, Signal::Metrics, Signal::Logs].into_iter().any(of);
    !disabled && named
}

impl Exporters {
    pub(super) fn from_environment() -> Result<Self, TelemetryError> {
        let exporters = Self { variables: variable };
        // What is wrong is said at the start, for every signal.
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            exporters.protocol(signal)?;
        }
        Ok(exporters)
    }

    /// The signal's own variable, or else the one for all.
    fn read(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word()), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| (self.variables)(&name).map(|value| (name, value)))
    }

    /// Whether a signal has a receiver: `OTEL_TRACES_EXPORTER=none` says that it has not.
    pub(super) fn is_wanted(&self, signal: Signal) -> bool {
        let none = (self.variables)(&format!("OTEL_{}_EXPORTER", signal.word()));
        self.read(signal, "ENDPOINT").is_some() && none.is_none_or(|exporter| exporter != "none")
    }

    fn protocol(&self, signal: Signal) -> Result<Protocol, TelemetryError> {
        match self.read(signal, "PROTOCOL") {
            None => Ok(Protocol::Grpc),
            Some((variable, value)) => match value.as_str() {
                "grpc" => Ok(Protocol::Grpc),
                "http/protobuf" => Ok(Protocol::Http),
                _ => Err(TelemetryError::Protocol { variable, value }),
            },
        }
    }

    pub(super) fn spans(&self) -> Result<SpanExporter, TelemetryError> {
        Ok(match self.protocol(Signal::Traces)? {
            Protocol::Grpc => {
                SpanExporter::builder().with_tonic().with_channel(self.channel(Signal::Traces)?).build()?
            }
            Protocol::Http => SpanExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(self.client(Signal::Traces)?)
                .build()?,
        })
    }

    pub(super) fn metrics(&self) -> Result<MetricExporter, TelemetryError> {
        Ok(match self.protocol(Signal::Metrics)? {
            Protocol::Grpc => {
                MetricExporter::builder().with_tonic().with_channel(self.channel(Signal::Metrics)?).build()?
            }
            Protocol::Http => MetricExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(self.client(Signal::Metrics)?)
                .build()?,
        })
    }

    pub(super) fn records(&self) -> Result<LogExporter, TelemetryError> {
        Ok(match self.protocol(Signal::Logs)? {
            Protocol::Grpc => LogExporter::builder().with_tonic().with_channel(self.channel(Signal::Logs)?).build()?,
            Protocol::Http => LogExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(self.client(Signal::Logs)?)
                .build()?,
        })
    }

    /// The CA of the receiver's certificate, if one is named.
    fn ca(&self, signal: Signal) -> Option<PathBuf> {
        self.read(signal, "CERTIFICATE").map(|(_, path)| path.into())
    }

    fn client(&self, signal: Signal) -> Result<Client, TelemetryError> {
        Ok(Client::new(tls::public_client(self.ca(signal).as_deref())?))
    }

    /// Where a signal goes, and by which TLS.
    fn receiver(&self, signal: Signal) -> Result<Receiver, TelemetryError> {
        let (variable, written) = self.read(signal, "ENDPOINT").unwrap_or_default();
        let wrong = || TelemetryError::Endpoint(variable.clone());
        let url = Url::parse(&written).map_err(|_| wrong())?;
        let (host, port) = (url.host_str().ok_or_else(wrong)?, url.port_or_known_default().unwrap_or(4317));
        let authority = format!("{host}:{port}");
        let ca = self.ca(signal);
        let tls = match url.scheme() {
            "http" => None,
            "https" => {
                let mut config = tls::public_client(ca.as_deref())?;
                config.alpn_protocols = match self.protocol(signal)? {
                    Protocol::Grpc => vec![b"h2".to_vec()],
                    Protocol::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
                };
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| wrong())?;
                Some((config, name))
            }
            _ => return Err(wrong()),
        };
        let shown = format!("{}://{authority}{}", url.scheme(), url.path().trim_end_matches('/'));
        Ok(Receiver { shown, authority, ca, tls })
    }

    /// A channel that connects when it is first used.
    fn channel(&self, signal: Signal) -> Result<Channel, TelemetryError> {
        let Receiver { authority, tls, .. } = self.receiver(signal)?;
        // The connector does TLS; tonic is told of plain HTTP, as it has no TLS of its own here.
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| {
            TelemetryError::Endpoint(self.read(signal, "ENDPOINT").map(|(name, _)| name).unwrap_or_default())
        })?;
        let tls = tls.map(|(config, name)| (TlsConnector::from(Arc::new(config)), name));
        let authority: Arc<str> = authority.into();
        Ok(endpoint.connect_timeout(PATIENCE).connect_with_connector_lazy(tower::service_fn(move |_: ::http::Uri| {
            let (tls, authority) = (tls.clone(), Arc::clone(&authority));
            async move {
                let stream = TcpStream::connect(&*authority).await?;
                stream.set_nodelay(true)?;
                let stream: Box<dyn Io> = match tls {
                    None => Box::new(stream),
                    Some((tls, name)) => Box::new(tls.connect(name, stream).await?),
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        })))
    }
}

/// A stream of bytes, whatever is below it.
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: fn(&str) -> Option<String>) -> Exporters {
        Exporters { variables }
    }

    #[test]
    fn a_signals_own_variable_counts_before_the_one_for_all() {
        let exporters = with(|name| {
            Some(match name {
                "OTEL_EXPORTER_OTLP_PROTOCOL" => "http/protobuf".to_owned(),
                "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL" => "grpc".to_owned(),
                "OTEL_EXPORTER_OTLP_ENDPOINT" => "http://127.0.0.1:4318".to_owned(),
                "OTEL_METRICS_EXPORTER" => "none".to_owned(),
                _ => return None,
            })
        });
        assert_eq!(exporters.protocol(Signal::Traces).expect("known"), Protocol::Http);
        assert_eq!(exporters.protocol(Signal::Logs).expect("known"), Protocol::Grpc);
        assert!(exporters.is_wanted(Signal::Traces) && !exporters.is_wanted(Signal::Metrics));
        let wrong = with(|name| (name == "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").then(|| "http/json".to_owned()));
        let error = wrong.protocol(Signal::Traces).expect_err("not spoken").to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is `http/json`; spoken are"), "{error}");
    }

    #[tokio::test]
    async fn an_endpoint_that_is_none_is_said() {
        let exporters = with(|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "collector:4317".to_owned()));
        let error = exporters.channel(Signal::Traces).expect_err("no URL").to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as"), "{error}");
    }

    #[test]
    fn a_receiver_is_shown_without_what_only_it_should_be_told() {
        let exporters = with(|name| {
            (name == "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").then(|| "http://u:secret@[::1]:9/otlp?key=secret#x".to_owned())
        });
        let receiver = exporters.receiver(Signal::Logs).expect("a URL");
        assert_eq!((receiver.shown(), receiver.authority.as_str()), ("http://[::1]:9/otlp", "[::1]:9"));
    }
}
