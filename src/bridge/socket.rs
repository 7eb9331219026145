//! The server on the other side over a WebSocket (RFC 6455): one text frame is one message, both ways.
//!
//! The token goes with the upgrade, and a later one in a message of its own, `{"token": "…"}`, before the first ends. What the
//! server says of its own accord goes to stdout, and what the client answers goes back. A socket that breaks answers what was
//! on its way with words, and the next message connects anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use url::Url;

use super::access::{Access, AccessError, Held};
use super::error::CarryError;
use super::line::{self, Line, key};
use super::login::challenge::Challenge;
use super::network::Network;
use super::plain::plain;
use super::remote::{CONNECT_AGAIN, CONNECT_PAUSE, INITIALIZED, TOKENS, authorization};
use super::session::Session;
use super::{Answers, one_line};
use crate::error::Chain;

/// The most bytes of a message.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// How often the other end is asked whether it is there, and the token whether another one has to be sent.
const TICK: Duration = Duration::from_secs(10);
/// How long the other end may be silent: each tick's ping is answered by one that is there.
const SILENT: Duration = Duration::from_secs(45);
/// How long the end of a socket may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How a server closes a socket on which a token should have come first.
const NO_TOKEN: u16 = 4002;
/// How many messages wait to be sent.
const QUEUE: usize = 64;

/// TLS to the server, within what leads there, which may be TLS to a proxy.
type Stream = WebSocketStream<TokioIo<MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>>>;

/// The way to the server.
pub(super) struct Socket {
    url: Url,
    network: Network,
    access: Arc<Access>,
    session: Session,
    out: mpsc::Sender<Vec<u8>>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    ended: CancellationToken,
}

/// A socket that is open, or was.
struct Connection {
    frames: mpsc::Sender<Message>,
    waiting: Mutex<HashMap<String, Waiter>>,
    /// The token that was sent last.
    held: tokio::sync::Mutex<Option<Held>>,
    broken: CancellationToken,
}

/// Who waits for an answer, or for several: each, or why there will be none.
#[derive(Clone)]
struct Waiter {
    sender: mpsc::UnboundedSender<Result<Vec<u8>, Arc<Why>>>,
    /// Whether the server has said that it has begun what goes on until it is ended.
    acknowledged: Arc<AtomicBool>,
}

/// Why a socket ended.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0} {1}")]
    Closed(u16, String),
    #[error(transparent)]
    Broken(#[from] tungstenite::Error),
    #[error("the server went away without a word")]
    Gone,
    #[error("the server was silent for {} s", SILENT.as_secs())]
    Silent,
    #[error("the server took nothing for {} s", SILENT.as_secs())]
    Stuck,
    #[error("a message of the server's is not text")]
    Binary,
}

/// A place among those who wait, which is given up with it.
struct Place {
    connection: Arc<Connection>,
    keys: Vec<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.connection.waiting();
        for key in &self.keys {
            waiting.remove(key);
        }
    }
}

impl Connection {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message and waits for its answer, if it wants one. Those of a batch are handed over as they come.
    async fn exchange(self: &Arc<Self>, line: &Line, answers: &mut Answers<'_>) -> Result<Option<Vec<u8>>, CarryError> {
        let keys: Vec<String> = line.wanted().iter().map(|id| key(id)).collect();
        // INVARIANT: lines are UTF-8, or they are no lines.
        let text = String::from_utf8(line.body.clone()).unwrap_or_default();
        if keys.is_empty() {
            return self.send(text).await.map(|()| None);
        }
        let (sender, mut came) = mpsc::unbounded_channel();
        {
            let waiter = Waiter { sender, acknowledged: Arc::clone(&answers.acknowledged) };
            let mut waiting = self.waiting();
            if keys.iter().any(|key| waiting.contains_key(key)) {
                return Err(CarryError::InFlight);
            }
            waiting.extend(keys.iter().map(|key| (key.clone(), waiter.clone())));
        }
        let _place = Place { connection: Arc::clone(self), keys };
        self.send(text).await?;
        while let Some(answer) = came.recv().await {
            let why = match answer {
                Ok(answer) if line.id.is_some() => return Ok(Some(answer)),
                Ok(answer) => {
                    answers.take(answer).await;
                    if answers.is_answered() {
                        return Ok(None);
                    }
                    continue;
                }
                Err(why) => why,
            };
            return Err(match &*why {
                Why::Closed(code, reason) => CarryError::Closed { code: *code, reason: plain(reason) },
                _ => CarryError::Broken(why.into()),
            });
        }
        Err(CarryError::Broken(Why::Gone.into()))
    }

    async fn send(&self, text: String) -> Result<(), CarryError> {
        self.frames.send(Message::text(text)).await.map_err(|_| CarryError::Broken(Why::Gone.into()))
    }

    /// Sends a token, if it is another one than was sent last.
    async fn tell(&self, now: Held) -> Result<(), CarryError> {
        let mut held = self.held.lock().await;
        if held.as_ref().is_none_or(|held| held.bearer.expose() != now.bearer.expose()) {
            self.send(json!({"token": now.bearer.expose()}).to_string()).await?;
            *held = Some(now);
        }
        Ok(())
    }

    /// Hands a message to whoever waits for it, or back, if nobody does and it is no answer.
    fn deliver(&self, text: &str) -> Option<Vec<u8>> {
        let mut waiting = self.waiting();
        let answered = line::answered(text.as_bytes());
        if let Some(waiter) = answered.iter().find_map(|key| waiting.get(key).cloned()) {
            for key in answered {
                if waiting.get(&key).is_some_and(|other| other.sender.same_channel(&waiter.sender)) {
                    waiting.remove(&key);
                }
            }
            // Whoever has given up waiting wants no answer.
            drop(waiter.sender.send(Ok(text.as_bytes().to_vec())));
            return None;
        }
        if !answered.is_empty() {
            tracing::debug!("an answer that nobody waits for");
            return None;
        }
        if let Some(waiter) = acknowledges(text).and_then(|key| waiting.get(&key).cloned()) {
            waiter.acknowledged.store(true, Ordering::Relaxed);
        }
        Some(text.as_bytes().to_vec())
    }
}

/// The request that a notification says to have begun, if it is one of those.
fn acknowledges(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Notification<'a> {
        method: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        params: Params<'a>,
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        subscription: &'a RawValue,
    }
    let said: Notification<'_> = serde_json::from_str(text).ok()?;
    (said.method == "notifications/subscriptions/acknowledged").then(|| key(said.params.meta.subscription))
}

impl Socket {
    pub(super) fn new(url: Url, network: Network, access: Access, out: mpsc::Sender<Vec<u8>>) -> Self {
        let (access, session, connection) = (Arc::new(access), Session::default(), tokio::sync::Mutex::default());
        Self { url, network, access, session, out, connection, ended: CancellationToken::new() }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The page that somebody has to log in at, if a login waits for it.
    pub(super) fn waiting(&self) -> Option<Url> {
        self.access.waiting()
    }

    /// The socket is closed.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Sends a message, and hands over its answer.
    pub(super) async fn send(&self, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let initialize = line.method.as_deref() == Some("initialize");
        if initialize {
            self.session.begins(line);
        }
        let session = !initialize && !line.is_modern();
        let mut tokens = 0;
        let answer = loop {
            let exchanged = async {
                let connection = self.connected(session).await?;
                let answer = connection.exchange(line, answers).await?;
                Ok((connection, answer))
            };
            match exchanged.await {
                Ok((connection, Some(answer))) => {
                    let Some(challenge) = lacking(&answer).filter(|_| tokens < TOKENS) else { break Some(answer) };
                    tokens += 1;
                    let held = connection.held.lock().await.clone();
                    match self.access.another(held.as_ref(), challenge).await {
                        Ok(now) => connection.tell(now).await?,
                        Err(AccessError::Given) => break Some(answer),
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok((_, None)) => break None,
                // The server has taken what was sent for a token, and nothing of it was done.
                Err(closed @ CarryError::Closed { code: NO_TOKEN, .. }) if tokens < TOKENS => {
                    tokens += 1;
                    match self.access.another(None, Challenge::default()).await {
                        Ok(_) => {}
                        Err(AccessError::Given) => return Err(closed),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        if initialize {
            self.session.answered(&answer);
        }
        answers.take(answer).await;
        Ok(())
    }

    /// The socket; a new one if the last has broken, on which an older client's session is begun again.
    async fn connected(&self, session: bool) -> Result<Arc<Connection>, CarryError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.broken.is_cancelled()) {
            return Ok(Arc::clone(connection));
        }
        let (stream, held) = Box::pin(self.connect()).await?;
        let connection = self.run(stream, held);
        // Whoever waited for the session may have given up, and then nobody would ever use this socket, or close it.
        let unused = connection.broken.clone().drop_guard();
        if let Some(line) = self.session.initialize().filter(|_| session) {
            tracing::info!("the connection is new; the session is begun again");
            let answer = connection.exchange(&line, &mut Answers::new(&line, None)).await?;
            self.session.answered(&answer.unwrap_or_default());
            connection.send(String::from_utf8_lossy(INITIALIZED).into_owned()).await?;
        }
        unused.disarm();
        *kept = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Opens a socket, with another token if the first is refused.
    async fn connect(&self) -> Result<(Stream, Option<Held>), CarryError> {
        let (mut pause, mut attempt, mut tokens) = (CONNECT_PAUSE, 0, 0);
        loop {
            let held = self.access.current().await?;
            match Box::pin(self.upgrade(held.as_ref())).await {
                Ok(stream) => return Ok((stream, held)),
                Err(CarryError::Connect(error)) if attempt < CONNECT_AGAIN => {
                    tracing::debug!(error = %Chain(&*error), "the server cannot be reached yet");
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(CarryError::Broken(error)) => {
                    let Some(tungstenite::Error::Http(refused)) = error.downcast_ref() else {
                        return Err(CarryError::Broken(error));
                    };
                    let status = refused.status();
                    if status == StatusCode::UNAUTHORIZED && tokens < TOKENS {
                        tokens += 1;
                        match self.access.another(held.as_ref(), Challenge::read(refused.headers())).await {
                            Ok(_) => continue,
                            Err(AccessError::Given) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                    let said = refused.body().as_deref().and_then(|body| serde_json::from_slice(body).ok());
                    return Err(CarryError::Status(status, said, None));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn upgrade(&self, held: Option<&Held>) -> Result<Stream, CarryError> {
        let mut connector = self.network.socket().await?;
        let uri: http::Uri = self.url.as_str().parse().map_err(http::Error::from)?;
        std::future::poll_fn(|context| connector.poll_ready(context)).await.map_err(CarryError::Connect)?;
        let stream = connector.call(uri).await.map_err(CarryError::Connect)?;
        let text = self.url.as_str().replacen("http", "ws", 1);
        let wrong = |error: tungstenite::Error| CarryError::Broken(error.into());
        let mut request = text.into_client_request().map_err(wrong)?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static("mcp"));
        if let Some(held) = held {
            request.headers_mut().insert(AUTHORIZATION, authorization(held)?);
        }
        let limits = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
        let upgraded =
            tokio_tungstenite::client_async_with_config(request.clone(), TokioIo::new(stream), Some(limits)).await;
        match upgraded {
            Ok((stream, _)) => Ok(stream),
            // A server that knows no name for what is spoken says none back; it is asked again without one.
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::SecWebSocketSubProtocolError(_))) => {
                request.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
                let uri = self.url.as_str().parse().map_err(http::Error::from)?;
                let stream = connector.call(uri).await.map_err(CarryError::Connect)?;
                let stream = TokioIo::new(stream);
                let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await;
                upgraded.map(|(stream, _)| stream).map_err(wrong)
            }
            Err(error) => Err(wrong(error)),
        }
    }

    /// Begins to carry frames both ways.
    fn run(&self, stream: Stream, held: Option<Held>) -> Arc<Connection> {
        let (frames, queue) = mpsc::channel(QUEUE);
        let (waiting, broken) = (Mutex::default(), CancellationToken::new());
        let connection = Arc::new(Connection { frames, waiting, held: tokio::sync::Mutex::new(held), broken });
        tokio::spawn(renew(Arc::clone(&connection), Arc::clone(&self.access)));
        let (out, ended, carried) = (self.out.clone(), self.ended.clone(), Arc::clone(&connection));
        tokio::spawn(async move {
            let why = Arc::new(carry(stream, queue, &carried, &out, &ended, SILENT).await);
            carried.broken.cancel();
            let waiting = std::mem::take(&mut *carried.waiting());
            for waiter in waiting.into_values() {
                drop(waiter.sender.send(Err(Arc::clone(&why))));
            }
        });
        connection
    }
}

/// Carries frames until the socket ends; why it did. What comes and what goes do not wait for each other: the other end may
/// have ceased to read.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    stream: WebSocketStream<S>,
    queue: mpsc::Receiver<Message>,
    connection: &Connection,
    out: &mpsc::Sender<Vec<u8>>,
    ended: &CancellationToken,
    silent: Duration,
) -> Why {
    let (sink, stream) = stream.split();
    tokio::select! {
        // Why the other end has closed says more than that nothing can be sent any more.
        biased;
        () = connection.broken.cancelled() => Why::Gone,
        why = hear(stream, connection, out, silent) => why,
        why = say(sink, queue, ended, silent) => why,
    }
}

/// Takes what comes.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    connection: &Connection,
    out: &mpsc::Sender<Vec<u8>>,
    silent: Duration,
) -> Why {
    loop {
        let Ok(frame) = tokio::time::timeout(silent, stream.next()).await else { return Why::Silent };
        match frame {
            None => return Why::Gone,
            Some(Ok(Message::Text(text))) => {
                if let Some(message) = connection.deliver(&text).and_then(one_line) {
                    // With stdout gone there is nobody to say it to.
                    out.send(message).await.unwrap_or_default();
                }
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                return Why::Closed(frame.code.into(), frame.reason.as_str().to_owned());
            }
            Some(Ok(Message::Close(None))) => return Why::Gone,
            Some(Ok(Message::Binary(_))) => return Why::Binary,
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.into(),
        }
    }
}

/// Sends what waits to be sent, and asks now and then whether the other end is there.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut queue: mpsc::Receiver<Message>,
    ended: &CancellationToken,
    silent: Duration,
) -> Why {
    let mut tick = tokio::time::interval(TICK);
    loop {
        let frame = tokio::select! {
            () = ended.cancelled() => {
                // Whoever does not take it is left without.
                drop(tokio::time::timeout(FAREWELL, sink.close()).await);
                return Why::Gone;
            }
            _ = tick.tick() => Message::Ping(bytes::Bytes::new()),
            Some(frame) = queue.recv() => frame,
        };
        match tokio::time::timeout(silent, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Why::Stuck,
        }
    }
}

/// Sends another token once there is one, so that the socket outlives the one that it was opened with.
async fn renew(connection: Arc<Connection>, access: Arc<Access>) {
    while connection.broken.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        let Ok(Some(now)) = access.current().await else { continue };
        if connection.tell(now).await.is_err() {
            return;
        }
    }
}

/// What a token lacks, if that is the answer: where there is no status, the edge says it in the error itself.
fn lacking(answer: &[u8]) -> Option<Challenge> {
    #[derive(Deserialize)]
    struct Answer {
        error: Refusal,
    }
    #[derive(Deserialize)]
    struct Refusal {
        data: Lacking,
    }
    #[derive(Deserialize)]
    struct Lacking {
        reason: String,
        scope: String,
    }
    let Lacking { reason, scope } = serde_json::from_slice::<Answer>(answer).ok()?.error.data;
    let error = Some("insufficient_scope".to_owned());
    (reason == "SCOPE_MISSING").then(|| Challenge { scope: Some(scope), error, ..Challenge::default() })
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// Carries what is in the queue to somebody who never reads; why it ended.
    async fn carried(speaks: bool) -> Why {
        let (near, far) = tokio::io::duplex(1024);
        let stream = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let (frames, queue) = mpsc::channel(QUEUE);
        let connection = Connection {
            frames: frames.clone(),
            waiting: Mutex::default(),
            held: tokio::sync::Mutex::default(),
            broken: CancellationToken::new(),
        };
        frames.send(Message::text("x".repeat(1 << 20))).await.expect("queued");
        let (_, mut far) = tokio::io::split(far);
        let speaking = async {
            loop {
                if speaks {
                    // An empty ping.
                    tokio::io::AsyncWriteExt::write_all(&mut far, &[0x89, 0]).await.expect("written");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (out, ended) = (mpsc::channel(1).0, CancellationToken::new());
        let silent = Duration::from_secs(2);
        tokio::select! {
            why = carry(stream, queue, &connection, &out, &ended, silent) => why,
            never = speaking => never,
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it was not noticed"),
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_kept_ends() {
        let (near, _far) = tokio::io::duplex(1024);
        let stream = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let (frames, queue) = mpsc::channel(QUEUE);
        let (waiting, held, broken) = (Mutex::default(), tokio::sync::Mutex::default(), CancellationToken::new());
        let connection = Connection { frames, waiting, held, broken };
        let (out, ended) = (mpsc::channel(1).0, CancellationToken::new());
        let carried = carry(stream, queue, &connection, &out, &ended, Duration::from_secs(60));
        drop(connection.broken.clone().drop_guard());
        let why = tokio::time::timeout(Duration::from_secs(10), carried).await.expect("it ends");
        assert!(matches!(why, Why::Gone), "{why:?}");
    }

    #[test]
    fn what_has_begun_is_named_by_its_id() {
        let said = |method: &str, id: &str| {
            acknowledges(&format!(
                r#"{{"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
            ))
        };
        let method = "notifications/subscriptions/acknowledged";
        assert_eq!(said(method, "7").as_deref(), Some("7"));
        assert_eq!(said(method, r#""a\/b""#).as_deref(), Some("\"a/b"));
        assert_eq!(said("notifications/progress", "7"), None);
        assert_eq!(acknowledges(r#"{"method":"notifications/subscriptions/acknowledged"}"#), None);
    }

    #[tokio::test]
    async fn who_reads_nothing_any_more_is_noticed() {
        let why = carried(false).await;
        assert!(matches!(why, Why::Silent | Why::Stuck), "{why:?}");
        let why = carried(true).await;
        assert!(matches!(why, Why::Stuck), "{why:?}");
    }
}
