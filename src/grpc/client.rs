//! The edge's way to a gRPC service: by mTLS to another process, or in memory to the core of the same one.
//!
//! It carries bytes: which messages they are is the descriptors' business, so one client serves any annotated service.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataKey;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::later::Later;
use super::status;
use crate::clock::Clock;
use crate::listen::Connection;
use crate::telemetry;
use crate::tls::{self, ClientFiles, ClientSet, Current, Reloader};

/// `[edge.backend]`: the gRPC service behind the edge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it is: host and port.
    pub address: String,
    /// The DNS name in its certificate; the host of `address` unless given.
    pub server_name: Option<String>,
    /// The edge's own certificate and key, which say that it is an edge.
    #[serde(flatten)]
    pub identity: tls::Identity,
    /// The CA (PEM) that the service's certificate must come from.
    pub ca: PathBuf,
    /// The file of the service's descriptor set, with imports and comments, where it is another service than the product's
    /// own core (`protoc --descriptor_set_out --include_imports --include_source_info`).
    pub descriptors: Option<PathBuf>,
}

/// A link to a service. Clones share its connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// By mTLS.
    Remote(Box<Remote>),
    /// In memory.
    Local(Routes),
    /// In memory, once they could be started.
    Later(Later),
}

/// A link by mTLS. It connects when it is first used, again when it broke, and anew with every new set of certificates;
/// calls on the connection before may finish.
#[derive(Clone)]
pub struct Remote {
    endpoint: Endpoint,
    address: Arc<str>,
    name: ServerName<'static>,
    current: Current<ClientSet>,
    made: Arc<ArcSwap<Made>>,
}

/// A channel, and the set of certificates that it was made for.
struct Made {
    set: Arc<ClientSet>,
    channel: Channel,
}

/// A link that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address.
    #[error("the backend's address `{0}` must be a host and a port, like core.internal:8443")]
    Address(String),
    /// The name.
    #[error("`{0}` is not a DNS name or an IP address")]
    ServerName(String),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// How long the TCP and TLS handshakes may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is tried, so that a dead one is noticed before a call needs it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

impl Link {
    /// Prepares a link by mTLS. What comes beside it reads its certificates again.
    pub fn remote(config: &Config, clock: Clock) -> Result<(Self, Reloader<ClientFiles>), LinkError> {
        let wrong = || LinkError::Address(config.address.clone());
        let (host, port) = config.address.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        let name = config.server_name.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| LinkError::ServerName(name))?;
        let (reloader, current) = Reloader::new(config.files(), clock)?;
        let endpoint = Endpoint::from_shared(format!("http://{}", config.address)).map_err(|_| wrong())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(CONNECT_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let address: Arc<str> = config.address.as_str().into();
        let set = Arc::clone(&current.borrow());
        let channel = connect(&endpoint, &address, &name, &set);
        let made = Arc::new(ArcSwap::from_pointee(Made { set, channel }));
        Ok((Self::Remote(Box::new(Remote { endpoint, address, name, current, made })), reloader))
    }

    /// A link to services in the same process.
    pub fn local(routes: Routes) -> Self {
        Self::Local(routes)
    }

    /// A link to services in the same process that are started when they are needed.
    pub fn later(later: Later) -> Self {
        Self::Later(later)
    }

    /// The same by a connection of its own: what lasts does not stand in the way of what ends.
    #[must_use]
    pub fn apart(&self) -> Self {
        match self {
            Self::Remote(remote) => {
                let set = Arc::clone(&remote.current.borrow());
                let channel = connect(&remote.endpoint, &remote.address, &remote.name, &set);
                let made = Arc::new(ArcSwap::from_pointee(Made { set, channel }));
                Self::Remote(Box::new(Remote { made, ..Remote::clone(remote) }))
            }
            other => other.clone(),
        }
    }

    /// Calls a method with an encoded message, as a span of its own where there is a trace that it belongs to.
    pub async fn unary(&self, path: PathAndQuery, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.traced(path, request, |path, request| self.send(path, request)).await
    }

    /// The same for a method that answers with a stream. The span ends where the stream begins.
    pub async fn server_streaming(
        &self,
        path: PathAndQuery,
        request: Request<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.traced(path, request, |path, request| self.send_for_stream(path, request)).await
    }

    async fn traced<A, F: Future<Output = Result<A, Status>>>(
        &self,
        path: PathAndQuery,
        mut request: Request<Bytes>,
        send: impl FnOnce(PathAndQuery, Request<Bytes>) -> F,
    ) -> Result<A, Status> {
        // What the process asks for itself, such as how the service is, belongs to nobody's trace.
        if tracing::Span::current().is_none() {
            return send(path, request).await;
        }
        let method = path.path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!(
            "link",
            otel.name = method,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        span.in_scope(|| {
            telemetry::inject_trace(|key, value| {
                let name = AsciiMetadataKey::from_bytes(key.as_bytes());
                if let (Ok(name), Ok(value)) = (name, value.parse()) {
                    request.metadata_mut().insert(name, value);
                }
            });
        });
        let answer = send(path, request).instrument(span.clone()).await;
        let code = status::name(answer.as_ref().err().map_or(tonic::Code::Ok, Status::code));
        span.record("rpc.response.status_code", code);
        if answer.is_err() {
            span.record("error.type", code);
            span.record("otel.status_code", "ERROR");
        }
        answer
    }

    async fn send(&self, path: PathAndQuery, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        match self {
            Self::Remote(remote) => ready(remote.channel()).await?.unary(request, path, BytesCodec).await,
            Self::Local(routes) => ready(local(routes)).await?.unary(request, path, BytesCodec).await,
            Self::Later(later) => ready(local(&later.routes().await?)).await?.unary(request, path, BytesCodec).await,
        }
    }

    async fn send_for_stream(
        &self,
        path: PathAndQuery,
        request: Request<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        match self {
            Self::Remote(remote) => ready(remote.channel()).await?.server_streaming(request, path, BytesCodec).await,
            Self::Local(routes) => ready(local(routes)).await?.server_streaming(request, path, BytesCodec).await,
            Self::Later(later) => {
                ready(local(&later.routes().await?)).await?.server_streaming(request, path, BytesCodec).await
            }
        }
    }
}

/// Services in the same process, as something that takes requests.
fn local(
    routes: &Routes,
) -> impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send> + use<> {
    let routes = routes.clone();
    tower::service_fn(move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(Connection::in_process());
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    })
}

impl Config {
    /// The files that it does TLS by.
    pub fn files(&self) -> ClientFiles {
        ClientFiles::mutual("edge.backend", &self.identity, &self.ca)
    }
}

impl Remote {
    /// The channel by the certificates in force.
    pub fn channel(&self) -> Channel {
        let made = self.made.load();
        let set = Arc::clone(&self.current.borrow());
        if Arc::ptr_eq(&made.set, &set) {
            return made.channel.clone();
        }
        // Of several calls that see the new set at once each makes a channel, and the last one's stays: none is connected
        // before it is used.
        let channel = connect(&self.endpoint, &self.address, &self.name, &set);
        self.made.store(Arc::new(Made { set, channel: channel.clone() }));
        channel
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A channel by that set of certificates, not connected yet.
fn connect(endpoint: &Endpoint, address: &Arc<str>, name: &ServerName<'static>, set: &ClientSet) -> Channel {
    let tls = TlsConnector::from(Arc::clone(set.config()));
    let (address, name) = (Arc::clone(address), name.clone());
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let (tls, name, address) = (tls.clone(), name.clone(), Arc::clone(&address));
        async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    }))
}

/// A client of a service that takes requests now.
async fn ready<S>(service: S) -> Result<tonic::client::Grpc<S>, Status>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut grpc = tonic::client::Grpc::new(service);
    grpc.ready().await.map_err(|error| {
        let error: Box<dyn std::error::Error + Send + Sync> = error.into();
        Status::unavailable(format!("the service behind the edge cannot be reached: {error}"))
    })?;
    Ok(grpc)
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
