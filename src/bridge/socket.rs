//! The server on the other side over a WebSocket (RFC 6455): one text frame is one message, both ways.
//!
//! The token goes with the upgrade, and a later one in a message of its own, `{"token": "…"}`, before the first ends. What the
//! server says of its own accord goes to stdout, and what the client answers goes back. A socket that breaks answers what was
//! on its way with words, and the next message connects anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use url::Url;

use super::access::{Access, AccessError, Held};
use super::error::CarryError;
use super::line::Line;
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
/// How a server closes a socket on which a token should have come first.
const NO_TOKEN: u16 = 4002;
/// How many messages wait to be sent.
const QUEUE: usize = 64;

/// TLS to the server, within what leads there, which may be TLS to a proxy.
type Stream = WebSocketStream<TokioIo<MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>>>;

/// The way to the server.
pub(super) struct Socket {
    url: Url,
    timeout: Duration,
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

/// Who waits for an answer: the answer, or why there will be none.
type Waiter = oneshot::Sender<Result<Vec<u8>, Arc<Why>>>;

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
    #[error("a message of the server's is not text")]
    Binary,
}

/// A place among those who wait, which is given up with it.
struct Place {
    connection: Arc<Connection>,
    key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.waiting().remove(&self.key);
    }
}

impl Connection {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message and waits for its answer, if it wants one.
    async fn exchange(self: &Arc<Self>, line: &Line) -> Result<Option<Vec<u8>>, CarryError> {
        let key = line.id.as_deref().or_else(|| line.batch.first().map(Box::as_ref)).map(|id| id.get().to_owned());
        // INVARIANT: lines are UTF-8, or they are no lines.
        let text = String::from_utf8(line.body.clone()).unwrap_or_default();
        let Some(key) = key else {
            return self.send(text).await.map(|()| None);
        };
        let (waiter, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.contains_key(&key) {
                return Err(CarryError::InFlight);
            }
            waiting.insert(key.clone(), waiter);
        }
        let _place = Place { connection: Arc::clone(self), key };
        self.send(text).await?;
        match answer.await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(why)) => Err(match &*why {
                Why::Closed(code, reason) => CarryError::Closed { code: *code, reason: plain(reason) },
                _ => CarryError::Broken(why.into()),
            }),
            Err(_) => Err(CarryError::Broken(Why::Gone.into())),
        }
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
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            method: Option<serde::de::IgnoredAny>,
        }
        let one = |text| serde_json::from_str::<Envelope<'_>>(text).map(|one| vec![one]);
        let messages = one(text).or_else(|_| serde_json::from_str(text)).unwrap_or_default();
        let mut answers = messages.iter().filter(|message| message.method.is_none());
        let waiter = answers.find_map(|message| self.waiting().remove(message.id?.get()));
        let of_its_own = messages.iter().any(|message| message.method.is_some() || message.id.is_none());
        match waiter {
            // Whoever has given up waiting wants no answer.
            Some(waiter) => drop(waiter.send(Ok(text.as_bytes().to_vec()))),
            None if of_its_own => return Some(text.as_bytes().to_vec()),
            None => tracing::debug!("an answer that nobody waits for"),
        }
        None
    }
}

impl Socket {
    pub(super) fn new(
        url: Url,
        timeout: Duration,
        network: Network,
        access: Access,
        out: mpsc::Sender<Vec<u8>>,
    ) -> Self {
        let (access, session, connection) = (Arc::new(access), Session::default(), tokio::sync::Mutex::default());
        Self { url, timeout, network, access, session, out, connection, ended: CancellationToken::new() }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The socket is closed.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Sends a message, and hands over its answer.
    pub(super) async fn send(&self, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let most = self.timeout;
        let sent = tokio::time::timeout(most, self.exchange(line, answers)).await;
        sent.unwrap_or_else(|_| match self.access.waiting() {
            Some(page) => Err(CarryError::Waiting(page)),
            None => Err(CarryError::Timeout(most)),
        })
    }

    async fn exchange(&self, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let initialize = line.method.as_deref() == Some("initialize");
        if initialize {
            self.session.begins(line);
        }
        let session = !initialize && !line.is_modern();
        let mut tokens = 0;
        let answer = loop {
            let exchanged = async {
                let connection = self.connected(session).await?;
                let answer = connection.exchange(line).await?;
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
        if let Some(line) = self.session.initialize().filter(|_| session) {
            tracing::info!("the connection is new; the session is begun again");
            let answer = connection.exchange(&line).await?;
            self.session.answered(&answer.unwrap_or_default());
            connection.send(String::from_utf8_lossy(INITIALIZED).into_owned()).await?;
        }
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
            let why = Arc::new(carry(stream, queue, &carried, &out, &ended).await);
            carried.broken.cancel();
            let waiting = std::mem::take(&mut *carried.waiting());
            for waiter in waiting.into_values() {
                drop(waiter.send(Err(Arc::clone(&why))));
            }
        });
        connection
    }
}

/// Carries frames until the socket ends; why it did.
async fn carry(
    mut stream: Stream,
    mut queue: mpsc::Receiver<Message>,
    connection: &Connection,
    out: &mpsc::Sender<Vec<u8>>,
    ended: &CancellationToken,
) -> Why {
    let mut heard = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    loop {
        let sent = tokio::select! {
            () = ended.cancelled() => {
                drop(stream.close(None).await);
                return Why::Gone;
            }
            _ = tick.tick() => {
                if heard.elapsed() > SILENT {
                    return Why::Silent;
                }
                stream.send(Message::Ping(bytes::Bytes::new())).await
            }
            Some(frame) = queue.recv() => stream.send(frame).await,
            frame = stream.next() => {
                heard = Instant::now();
                match frame {
                    None => return Why::Gone,
                    Some(Ok(Message::Text(text))) => {
                        if let Some(message) = connection.deliver(&text) {
                            // With stdout gone there is nobody to say it to.
                            out.send(one_line(message)).await.unwrap_or_default();
                        }
                        Ok(())
                    }
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Why::Closed(frame.code.into(), frame.reason.as_str().to_owned());
                    }
                    Some(Ok(Message::Close(None))) => return Why::Gone,
                    Some(Ok(Message::Binary(_))) => return Why::Binary,
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(error),
                }
            }
        };
        if let Err(error) = sent {
            return error.into();
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
