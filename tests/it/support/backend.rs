//! A gRPC service of somebody else's, behind an edge as it is shipped: its proto, its descriptor set and nothing more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::codec::{DecodeBuf, EncodeBuf};
use tonic::{Request, Response, Status};
use whitelistmcp::app;
use whitelistmcp::http_client::HttpClient;
use whitelistmcp::pb::mcp::v1::{
    self as mcp, Changed, Client, CompleteRequest, CompleteResponse, Form, InputRequired, Notice, Progress, Question,
    ReadResourceResponse, ResourceContents, WatchRequest,
};
use whitelistmcp::shutdown::Shutdown;

use super::{Answer, Ground, Options, edge_file, parse, run, send, tls};

/// What the service was asked, and what it did.
#[derive(Default)]
pub(crate) struct Seen {
    /// How many counts were begun, and how many were given up before their end.
    pub(crate) begun: AtomicUsize,
    pub(crate) given_up: AtomicUsize,
    /// How many greetings were asked for.
    pub(crate) greeted: AtomicUsize,
    /// What `echo` was sent, encoded.
    pub(crate) echoed: Mutex<Vec<u8>>,
    /// What is watched.
    pub(crate) watched: Mutex<WatchRequest>,
}

/// A service, and an edge in front of it.
pub(crate) struct Stage {
    pub(crate) ground: Ground,
    pub(crate) edge: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    pub(crate) changes: broadcast::Sender<Changed>,
    pub(crate) backend: SocketAddr,
    http: HttpClient,
    shutdowns: Vec<Shutdown>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CountRequest {
    #[prost(uint32, tag = "1")]
    to: u32,
    #[prost(uint32, tag = "2")]
    pause: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Counted {
    #[prost(message, optional, tag = "1")]
    notice: Option<Notice>,
    #[prost(string, tag = "2")]
    summary: String,
    #[prost(uint32, tag = "3")]
    counted: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GreetRequest {
    #[prost(string, tag = "1")]
    word: String,
    #[prost(message, optional, tag = "2")]
    client: Option<Client>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Greeting {
    #[prost(message, optional, tag = "1")]
    input_required: Option<InputRequired>,
    #[prost(string, tag = "2")]
    greeting: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Shown {
    #[prost(message, repeated, tag = "1")]
    content: Vec<mcp::Content>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Two {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}

/// The descriptor set, as `protoc` would write it.
pub(crate) fn descriptors() -> Vec<u8> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([at.join("tests/it/support"), at.join("proto")]).expect("a compiler");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file("backend.proto").expect("it compiles");
    compiler.encode_file_descriptor_set()
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more keys of `[edge]`.
    pub(crate) async fn with(edge_extra: &'static str) -> Self {
        let options = Options { edge_extra, ..Options::default() };
        let ground = Ground::new(&options).await;
        let (changes, seen) = (broadcast::channel(16).0, Arc::new(Seen::default()));
        let backend = serve(&ground, Arc::clone(&seen), changes.clone()).await;
        let http = HttpClient::new(
            whitelistmcp::tls::public_client(Some(&ground.directory.path().join("ca.pem"))).expect("the CA loads"),
        );
        let edge = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut stage = Self { ground, edge, seen, changes, backend, http, shutdowns: Vec::new() };
        stage.edge = stage.another_edge(edge_extra, None).await;
        stage
    }

    /// One more edge in front of the same service.
    pub(crate) async fn another_edge(&mut self, edge_extra: &'static str, redis: Option<&str>) -> SocketAddr {
        let Ground { directory, issuer, .. } = &self.ground;
        directory.write_bytes("backend.bin", &descriptors());
        let options = Options { edge_extra, ..Options::default() };
        let at = directory.path().display();
        let redis = redis.map(|url| format!("[redis]\nurl = \"{url}\"\n")).unwrap_or_default();
        let mut config = edge_file(directory, &options, issuer, 0, self.backend.port());
        config.push_str(&format!("descriptors = \"{at}/backend.bin\"\n{redis}"));
        let shutdown = Shutdown::new();
        let bound = Box::pin(app::edge(&parse(&config), &shutdown)).await.expect("the edge starts");
        let address = bound.edge_address().expect("the edge listens");
        run(bound, &shutdown);
        self.shutdowns.push(shutdown);
        address
    }

    pub(crate) fn token(&self, name: &str) -> String {
        self.ground.issuer.token(name, "whitelist:read")
    }

    /// Sends a message as alice.
    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_as("alice", headers, body).await
    }

    pub(crate) async fn post_as(&self, name: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let uri = format!("https://localhost:{}/mcp", self.edge.port());
        let token = self.token(name);
        send(&self.http, http::Method::POST, uri, Some(&token), headers, body.to_string().into())
            .await
            .expect("an answer")
    }

    /// Sends a message as alice, and keeps the connection to read whatever comes back, line by line.
    pub(crate) async fn open(&self, method: &str, headers: &[(&str, &str)], body: &str) -> Events {
        self.open_at(self.edge, "alice", method, headers, body).await
    }

    pub(crate) async fn open_at(
        &self,
        edge: SocketAddr,
        name: &str,
        method: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Events {
        let tls = TlsConnector::from(Arc::new(tls::client(self.ground.directory.path(), None, &[b"http/1.1"])));
        let stream = TcpStream::connect(edge).await.expect("it listens");
        let mut stream = tls.connect("localhost".try_into().expect("a name"), stream).await.expect("TLS");
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.token(name),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        Events(BufReader::new(stream))
    }

    pub(crate) async fn stop(&self) {
        for shutdown in &self.shutdowns {
            shutdown.begin();
            shutdown.finished().await;
        }
    }
}

/// A connection whose answer is read as it comes.
pub(crate) struct Events(BufReader<TlsStream<TcpStream>>);

impl Events {
    /// The status and the headers, in lower case.
    pub(crate) async fn head(&mut self) -> (u16, HashMap<String, String>) {
        let status = self.line().await;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut headers = HashMap::new();
        loop {
            let line = self.line().await;
            match line.split_once(':') {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
                None => return (status, headers),
            };
        }
    }

    /// The next message of the stream.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            if let Some(data) = self.line().await.strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }

    /// A body that is no stream.
    pub(crate) async fn json(&mut self, length: usize) -> Value {
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(30), self.0.read_line(&mut line));
        assert!(read.await.expect("in time").expect("a line") > 0, "the connection ended");
        line.trim_end().to_owned()
    }
}

async fn serve(ground: &Ground, seen: Arc<Seen>, changes: broadcast::Sender<Changed>) -> SocketAddr {
    let file = |name: &str| std::fs::read(ground.directory.path().join(name)).expect("a file");
    let chain = CertificateDer::pem_slice_iter(&file("core.pem")).collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(&file("core.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(whitelistmcp::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen, changes) = (acceptor.clone(), Arc::clone(&seen), changes.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (seen, changes) = (Arc::clone(&seen), changes.clone());
                    async move {
                        Ok::<_, std::convert::Infallible>(
                            answer(request.map(tonic::body::Body::new), seen, changes).await,
                        )
                    }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                drop(connection.await);
            });
        }
    });
    address
}

type Http<B> = http::Request<B>;

async fn answer(
    request: Http<tonic::body::Body>,
    seen: Arc<Seen>,
    changes: broadcast::Sender<Changed>,
) -> http::Response<tonic::body::Body> {
    let name = request.uri().path().trim_start_matches("/it.v1.Backend/").to_owned();
    let mut grpc = tonic::server::Grpc::new(BytesCodec);
    match name.as_str() {
        "Count" => {
            let count =
                tower::service_fn(move |request: Request<Vec<u8>>| count(request.into_inner(), Arc::clone(&seen)));
            grpc.server_streaming(count, request).await
        }
        "Watch" => {
            let watch = tower::service_fn(move |request: Request<Vec<u8>>| {
                let wanted = WatchRequest::decode(request.get_ref().as_slice()).expect("a request");
                *seen.watched.lock().expect("seen") = wanted;
                let changes = changes.subscribe();
                let stream = futures_util::stream::unfold(changes, |mut changes| async move {
                    Some((Ok(changes.recv().await.ok()?.encode_to_vec()), changes))
                });
                std::future::ready(Ok::<_, Status>(Response::new(stream.boxed())))
            });
            grpc.server_streaming(watch, request).await
        }
        _ => {
            let unary = tower::service_fn(move |request: Request<Vec<u8>>| {
                let answer = unary(&name, request.into_inner(), &seen);
                std::future::ready(answer.map(Response::new))
            });
            grpc.unary(unary, request).await
        }
    }
}

/// Counts what is dropped before its end.
struct Counting(Arc<Seen>, bool);

impl Drop for Counting {
    fn drop(&mut self) {
        if !self.1 {
            self.0.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn count(
    request: Vec<u8>,
    seen: Arc<Seen>,
) -> Result<Response<BoxStream<'static, Result<Vec<u8>, Status>>>, Status> {
    let CountRequest { to, pause } = CountRequest::decode(request.as_slice()).expect("a request");
    seen.begun.fetch_add(1, Ordering::SeqCst);
    if to == 998 {
        return Err(Status::resource_exhausted("your quota of 5 a day is used up"));
    }
    if to == 999 {
        return Err(Status::failed_precondition("it does not count that far"));
    }
    let counting = Counting(seen, false);
    let stream = futures_util::stream::unfold((0, counting), move |(at, mut counting)| async move {
        if at > to {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(pause.into())).await;
        let message = if at == to {
            counting.1 = true;
            Counted { notice: None, summary: format!("Counted to {to}."), counted: to }
        } else {
            let progress =
                Progress { progress: f64::from(at + 1), total: Some(f64::from(to)), message: format!("at {}", at + 1) };
            Counted { notice: Some(Notice { kind: Some(mcp::notice::Kind::Progress(progress)) }), ..Counted::default() }
        };
        Some((Ok(message.encode_to_vec()), (at + 1, counting)))
    });
    Ok(Response::new(stream.boxed()))
}

fn unary(name: &str, request: Vec<u8>, seen: &Seen) -> Result<Vec<u8>, Status> {
    let text = |uri: &str, text: &str| {
        let body = Some(mcp::resource_contents::Body::Text(text.to_owned()));
        let contents = vec![ResourceContents { uri: uri.to_owned(), mime_type: "text/plain".to_owned(), body }];
        Ok(ReadResourceResponse { contents, input_required: None }.encode_to_vec())
    };
    match name {
        "Greet" => {
            seen.greeted.fetch_add(1, Ordering::SeqCst);
            Ok(greet(GreetRequest::decode(request.as_slice()).expect("a request")).encode_to_vec())
        }
        "Echo" => {
            seen.echoed.lock().expect("seen").clone_from(&request);
            Ok(request)
        }
        "Show" => {
            let media = mcp::Media { data: vec![1, 2, 3], mime_type: "image/png".to_owned() };
            let content = [mcp::content::Kind::Text("Look.".to_owned()), mcp::content::Kind::Image(media)];
            let content = content.into_iter().map(|kind| mcp::Content { kind: Some(kind) }).collect();
            Ok(Shown { content }.encode_to_vec())
        }
        "Cover" => text("book://cover", "A book."),
        "Secret" => text("book://secret", "Hidden."),
        "Chapter" => {
            let Two { first, second } = Two::decode(request.as_slice()).expect("a request");
            match second.as_str() {
                "404" => Err(Status::not_found("no such chapter")),
                "0" => Ok(Vec::new()),
                chapter => text(&format!("book://{first}/{chapter}"), &format!("Chapter {chapter} of {first}.")),
            }
        }
        "Review" => {
            let Two { first, second } = Two::decode(request.as_slice()).expect("a request");
            let content = mcp::Content { kind: Some(mcp::content::Kind::Text(format!("Review {first}, {second}"))) };
            let message = mcp::PromptMessage { role: mcp::Role::User.into(), content: Some(content) };
            Ok(mcp::GetPromptResponse {
                description: "A review.".into(),
                messages: vec![message],
                input_required: None,
            }
            .encode_to_vec())
        }
        "Complete" => {
            let asked = CompleteRequest::decode(request.as_slice()).expect("a request");
            let values = (0..150).map(|n| format!("{}{n}", asked.value)).collect();
            Ok(CompleteResponse { values, total: Some(150), has_more: false }.encode_to_vec())
        }
        _ => Err(Status::unimplemented("not here")),
    }
}

/// Asks for a name, once, and wants its state back.
fn greet(request: GreetRequest) -> Greeting {
    let client = request.client.expect("the edge says who asks");
    let answer = client.answers.get("who");
    let action = answer.and_then(|answer| answer.fields.get("action")).and_then(string);
    let name = answer.and_then(|answer| match answer.fields.get("content")?.kind.as_ref()? {
        prost_types::value::Kind::StructValue(content) => string(content.fields.get("name")?),
        _ => None,
    });
    match (action.as_deref(), name) {
        (Some("accept"), Some(name)) => {
            assert_eq!(client.state, b"kept", "the state comes back");
            Greeting { input_required: None, greeting: format!("{}, {name}!", request.word) }
        }
        (Some("decline"), _) => Greeting { input_required: None, greeting: "Nobody was greeted.".to_owned() },
        _ => {
            let form = Form { message: "Who are you?".to_owned(), schema: Some(schema()) };
            let question = Question { kind: Some(mcp::question::Kind::Form(form)) };
            let questions = HashMap::from([("who".to_owned(), question)]);
            Greeting {
                input_required: Some(InputRequired { questions, state: b"kept".to_vec() }),
                ..Greeting::default()
            }
        }
    }
}

fn string(value: &prost_types::Value) -> Option<String> {
    match value.kind.as_ref()? {
        prost_types::value::Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn schema() -> prost_types::Struct {
    let text = |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) };
    let object = |fields: Vec<(&str, prost_types::Value)>| {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(prost_types::Struct { fields })) }
    };
    let properties = object(vec![("name", object(vec![("type", text("string"))]))]);
    prost_types::Struct {
        fields: [("type".to_owned(), text("object")), ("properties".to_owned(), properties)].into_iter().collect(),
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct BytesCodec;

impl tonic::codec::Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &message);
        Ok(())
    }
}

impl tonic::codec::Decoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
