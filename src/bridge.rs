//! The bridge: MCP over stdin and stdout on this side, over HTTP or a WebSocket on the other. Claude Desktop and other programs
//! that start their servers themselves reach a remote one through it.
//!
//! It carries messages as they are and hardly needs to know what they mean: of a request it reads the id, the method and what
//! HTTP wants said in headers. Every request gets an answer, whatever fails, with words that tell a person what to do.
//! Nothing but MCP leaves on stdout. It connects when it is first asked something, so it is ready at once.
//!
//! `remote` carries over HTTP and `socket` over a WebSocket; both ask `access` for the token, which `login` comes by and
//! `store` keeps. `session` is what an older client has agreed on, and `network` how all of it connects.

mod access;
mod error;
mod line;
mod login;
mod network;
mod parameters;
mod plain;
mod remote;
mod session;
mod socket;
mod sse;
mod store;
mod token;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::clock::Clock;
use crate::lines::{self, Lines, Read};
use crate::mcp::code;
use crate::mcp::message::RpcError;

use access::Access;
use error::CarryError;
use line::Line;
use login::challenge::Challenge;
use login::{Logins, Reach};
use network::Network;
use parameters::Parameters;
use remote::Remote;
use socket::Socket;

pub use login::{AnswerError, ClientError, Config as LoginConfig, DiscoveryError, Failed, GrantError, LoginError};
pub use network::{Config as NetworkConfig, NetworkError};
pub use store::{Config as StoreConfig, KeychainError, StoreError, default_directory};
pub use token::{Token, TokenError};

/// How many requests are on their way at once; further ones wait.
const AT_ONCE: usize = 64;
/// How many messages are held at once, with those that wait; further ones stay on stdin.
const HELD: usize = 2048;
/// How long running requests may take to be answered once stdin has ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long it may take then to say that the others will not be.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a server may take to be told that nobody waits any longer.
const FORSAKE: Duration = Duration::from_secs(5);

/// What a bridge leads to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The MCP endpoint: http or https, ws or wss.
    pub url: Url,
    /// How messages are carried there.
    pub transport: Transport,
    /// The caller's token, if one is given. With it nobody logs in.
    pub token: Option<Token>,
    /// How the bridge logs in where no token is given.
    pub login: LoginConfig,
    /// Whether it may open a browser for that by itself.
    pub ask: bool,
    /// What connections are made by.
    pub network: NetworkConfig,
    /// How long one request may take.
    pub timeout: Duration,
}

/// How messages are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MCP's Streamable HTTP.
    Http,
    /// One WebSocket, one message a frame.
    WebSocket,
}

/// Why a bridge cannot begin, or a login not be made.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The URL.
    #[error(
        "`{0}` must be https://… or wss://…, or http:// or ws:// to a loopback address: a token would be read on the way"
    )]
    Insecure(Url),
    /// The URL has a name or a password in it, which no message may repeat.
    #[error(
        "the server's URL must not have a user name or a password in it: take out what stands before the `@`, and give a token by --token-file or MCP_AUTH_TOKEN"
    )]
    Userinfo,
    /// Standard input or output.
    #[error("standard input or output")]
    Io(#[from] std::io::Error),
    /// The login.
    #[error("nobody is logged in")]
    Login(#[from] LoginError),
    /// The server cannot be asked.
    #[error("the server cannot be asked: {0}")]
    Server(String),
}

/// What is shared by the requests that are on their way.
struct Bridge {
    carrier: Carrier,
    out: mpsc::Sender<Vec<u8>>,
    /// How long one request may take.
    timeout: Duration,
    in_flight: Mutex<HashMap<String, InFlight>>,
    /// stdin has ended.
    ended: CancellationToken,
    /// What is not answered by now will not be.
    leaving: CancellationToken,
}

/// A request that is on its way.
struct InFlight {
    given_up: CancellationToken,
    /// Whether it says its revision itself.
    modern: bool,
}

#[derive(Clone)]
enum Carrier {
    Http(Arc<Remote>),
    Socket(Arc<Socket>),
}

/// Where the answers of one message go.
struct Answers<'a> {
    line: &'a Line,
    /// Nobody, if the bridge asked by itself.
    out: Option<&'a mpsc::Sender<Vec<u8>>>,
    /// The ids that are not answered yet.
    left: Vec<Box<RawValue>>,
    /// The message's answer, once it has come; none of a batch's.
    answer: Option<Vec<u8>>,
    /// Whether anything has come of it: what goes on until it is ended has begun.
    acknowledged: Arc<AtomicBool>,
    /// Who learns from it which arguments are said in headers.
    teaches: Option<Arc<Parameters>>,
}

impl<'a> Answers<'a> {
    fn new(line: &'a Line, out: Option<&'a mpsc::Sender<Vec<u8>>>) -> Self {
        Self { line, out, left: line.wanted(), answer: None, acknowledged: Arc::default(), teaches: None }
    }

    /// Takes one message that came back.
    async fn take(&mut self, message: Vec<u8>) {
        let Some(mut message) = one_line(message) else { return };
        self.acknowledged.store(true, Ordering::Relaxed);
        let before = self.left.len();
        for answered in line::answered(&message) {
            if let Some(at) = self.left.iter().position(|id| line::key(id) == answered) {
                self.left.swap_remove(at);
            }
        }
        if self.left.len() < before && self.line.id.is_some() {
            if let Some(parameters) = &self.teaches {
                message = parameters.learn(message);
            }
            self.answer = Some(message.clone());
        }
        if let Some(out) = self.out {
            // With stdout gone there is nobody to say it to.
            out.send(message).await.unwrap_or_default();
        }
    }

    /// Whether there is nothing more to wait for, of what wants an answer.
    fn is_answered(&self) -> bool {
        self.left.is_empty() && !self.line.wants_nothing()
    }
}

/// Carries messages until `input` ends.
pub async fn run(
    config: Config,
    input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin + Send + 'static,
) -> Result<(), BridgeError> {
    let url = address(&config.url)?;
    let (out, mut messages) = mpsc::channel::<Vec<u8>>(AT_ONCE);
    let writer = tokio::spawn(async move {
        while let Some(mut message) = messages.recv().await {
            message.push(b'\n');
            output.write_all(&message).await?;
            output.flush().await?;
        }
        Ok::<(), std::io::Error>(())
    });
    let network = Network::new(config.network);
    let access = match config.token {
        Some(token) => Access::Given(token),
        None => {
            let reach = if config.ask { Reach::Browser } else { Reach::Quiet };
            let socket = config.transport == Transport::WebSocket;
            Access::own(Logins::new(config.login, &url, socket, network.clone(), Clock::system()), reach)
        }
    };
    let carrier = match config.transport {
        Transport::Http => Carrier::Http(Arc::new(Remote::new(url, network, access, out.clone()))),
        Transport::WebSocket => Carrier::Socket(Arc::new(Socket::new(url, network, access, out.clone()))),
    };
    let (ended, leaving) = (CancellationToken::new(), CancellationToken::new());
    let bridge =
        Arc::new(Bridge { carrier, out, timeout: config.timeout, in_flight: Mutex::default(), ended, leaving });
    let mut running = JoinSet::new();
    let read = bridge.read(input, &mut running).await;
    bridge.ended.cancel();
    let rest = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, rest).await.is_err() {
        bridge.leaving.cancel();
        let rest = async { while running.join_next().await.is_some() {} };
        tokio::time::timeout(LAST_WORDS, rest).await.unwrap_or_default();
    }
    running.shutdown().await;
    // Whatever the server still says on its own goes nowhere.
    bridge.carrier.end().await;
    drop(bridge);
    // Whoever read stdout may have gone first, and then there is nothing left to say.
    tokio::time::timeout(LAST_WORDS, writer).await.map(drop).unwrap_or_default();
    read
}

/// Logs a person in, whatever there was before, and keeps what comes of it. `device` shows a code to be typed in elsewhere.
pub async fn log_in(url: &Url, login: LoginConfig, network: NetworkConfig, device: bool) -> Result<(), BridgeError> {
    let (socket, url) = (is_socket(url), address(url)?);
    let network = Network::new(network);
    let (challenge, open) = challenge(&url, &network).await?;
    let reach = if device { Reach::Device } else { Reach::Terminal };
    Logins::new(login, &url, socket, network, Clock::system()).log_in(&challenge, open, reach).await?;
    Ok(())
}

/// Forgets the logins at a server, and tells the provider. Whether there was one.
pub async fn log_out(url: &Url, login: LoginConfig, network: NetworkConfig) -> Result<bool, BridgeError> {
    let (socket, url) = (is_socket(url), address(url)?);
    Ok(Logins::new(login, &url, socket, Network::new(network), Clock::system()).log_out().await?)
}

/// What a server says to somebody without a token, and whether it answers them.
async fn challenge(url: &Url, network: &Network) -> Result<(Challenge, bool), BridgeError> {
    let server = |error: &dyn std::error::Error| BridgeError::Server(error.to_string());
    let body = br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#.to_vec();
    let request = http::Request::post(url.as_str())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let request = request.body(body).map_err(|error| server(&error))?;
    let http = network.http().await.map_err(LoginError::from)?;
    let answer =
        http.send(request).await.map_err(|error| BridgeError::Server(crate::error::Chain(&error).to_string()))?;
    Ok((Challenge::read(answer.headers()), answer.status().is_success()))
}

fn is_socket(url: &Url) -> bool {
    matches!(url.scheme(), "ws" | "wss")
}

/// The endpoint as HTTP names it, if a token may go there.
pub fn address(url: &Url) -> Result<Url, BridgeError> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BridgeError::Userinfo);
    }
    let text = match url.scheme() {
        "wss" => url.as_str().replacen("wss", "https", 1),
        "ws" => url.as_str().replacen("ws", "http", 1),
        _ => url.to_string(),
    };
    let address = Url::parse(&text).ok().filter(crate::http_client::is_https_or_loopback);
    address.ok_or_else(|| BridgeError::Insecure(url.clone()))
}

/// A message as one line: JSON has no line feeds but between its parts. What is none does not belong on stdout.
fn one_line(mut message: Vec<u8>) -> Option<Vec<u8>> {
    if !is_message(&message) {
        tracing::warn!("the server sent what is no JSON object or array; it is left out");
        return None;
    }
    message.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    Some(message)
}

/// Whether it is a JSON object or array, in UTF-8.
fn is_message(message: &[u8]) -> bool {
    let text = std::str::from_utf8(message).unwrap_or_default();
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with(['{', '[']))
}

impl Bridge {
    /// Reads messages to their end, and has each carried.
    async fn read(
        self: &Arc<Self>,
        input: impl AsyncBufRead + Unpin,
        running: &mut JoinSet<()>,
    ) -> Result<(), BridgeError> {
        let (places, held) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(HELD)));
        let mut lines = Lines::new(input);
        // What must have arrived before the next message is sent.
        let mut before: Option<futures_util::future::Shared<oneshot::Receiver<()>>> = None;
        loop {
            let line = match lines.next().await? {
                Read::End => return Ok(()),
                Read::TooLong => {
                    self.say(RpcError::new(code::INVALID_REQUEST, lines::TOO_LONG).to_body(None)).await;
                    continue;
                }
                Read::Line(line) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Read::Line(line) => line,
            };
            // However long it waits for others here, it has been asked now.
            let deadline = Instant::now() + self.timeout;
            let line = match Line::read(line) {
                Ok(line) => line,
                Err(wrong) => {
                    self.say(wrong).await;
                    continue;
                }
            };
            if line.method.as_deref() == Some("notifications/cancelled") && !self.cancel(&line) {
                continue;
            }
            // INVARIANT: the semaphores are never closed.
            let Ok(room) = Arc::clone(&held).acquire_owned().await else { return Ok(()) };
            let (wait, mut done) = (before.clone(), None);
            // Everything after it is said in the revision that it comes to.
            if matches!(line.method.as_deref(), Some("initialize" | "notifications/initialized")) {
                let (sender, receiver) = oneshot::channel::<()>();
                before = Some(receiver.shared());
                done = Some(sender);
            }
            let (bridge, places) = (Arc::clone(self), Arc::clone(&places));
            let given_up = self.begins(&line);
            running.spawn(async move {
                let turn = async {
                    if let Some(wait) = wait {
                        wait.await.unwrap_or_default();
                    }
                    // What a request waits for may be the answer to a question of the server's, which must not wait for a
                    // place.
                    if line.wants_nothing() { None } else { places.acquire_owned().await.ok() }
                };
                bridge.carry(&line, given_up, deadline, turn).await;
                drop((room, done));
            });
            while running.try_join_next().is_some() {}
        }
    }

    /// Notes that a request is on its way, so that it can be given up from now on.
    fn begins(&self, line: &Line) -> CancellationToken {
        let given_up = CancellationToken::new();
        if let Some(id) = &line.id {
            let in_flight = InFlight { given_up: given_up.clone(), modern: line.is_modern() };
            self.in_flight().insert(line::key(id), in_flight);
        }
        given_up
    }

    /// Carries one message there, and its answers back, once it is its turn.
    async fn carry<T>(
        &self,
        line: &Line,
        given_up: CancellationToken,
        deadline: Instant,
        turn: impl Future<Output = T>,
    ) {
        let mut answers = Answers::new(line, Some(&self.out));
        // Nobody waits for the end of what goes on until somebody ends it.
        let leaving = if line.listens() { &self.ended } else { &self.leaving };
        let sent = async {
            tokio::select! {
                sent = self.exchange(line, &mut answers, deadline, turn) => sent,
                () = leaving.cancelled() => Err(CarryError::Leaving),
            }
        };
        let sent = given_up.run_until_cancelled(sent).await;
        if let Some(id) = &line.id {
            self.in_flight().remove(&line::key(id));
        }
        // Who has cancelled a request wants no answer.
        if let Some(sent) = sent {
            self.close(line, answers.left, sent).await;
        }
    }

    async fn exchange<T>(
        &self,
        line: &Line,
        answers: &mut Answers<'_>,
        deadline: Instant,
        turn: impl Future<Output = T>,
    ) -> Result<(), CarryError> {
        let late = |other: fn(Duration) -> CarryError| match self.carrier.waiting() {
            Some(page) => CarryError::Waiting(page),
            None => other(self.timeout),
        };
        let Ok(_place) = tokio::time::timeout_at(deadline, turn).await else { return Err(late(CarryError::Behind)) };
        let acknowledged = Arc::clone(&answers.acknowledged);
        let sending = self.carrier.send(line, answers);
        tokio::pin!(sending);
        if let Ok(sent) = tokio::time::timeout_at(deadline, &mut sending).await {
            return sent;
        }
        if line.listens() && acknowledged.load(Ordering::Relaxed) {
            return sending.await;
        }
        let error = late(CarryError::Timeout);
        if matches!(error, CarryError::Timeout(_)) {
            self.forsake(line);
        }
        Err(error)
    }

    /// Answers what is not answered, if anything wants to be.
    async fn close(&self, line: &Line, left: Vec<Box<RawValue>>, sent: Result<(), CarryError>) {
        let error = match sent {
            Err(error) if line.wants_nothing() => return tracing::warn!(%error, "a message could not be carried"),
            Err(error) => error,
            Ok(()) => CarryError::Ended,
        };
        let wrong = RpcError::new(error.code(), error.words(self.carrier.url()));
        let mut bodies = left.iter().map(|id| wrong.clone().to_body(Some(id)));
        if line.id.is_some() {
            if let Some(body) = bodies.next() {
                self.say(body).await;
            }
        } else if !left.is_empty() {
            let bodies: Vec<Vec<u8>> = bodies.collect();
            self.say([b"[".to_vec(), bodies.join(&b","[..]), b"]".to_vec()].concat()).await;
        }
    }

    /// Tells the server that nobody waits for that any longer, where the end of the stream does not say it.
    fn forsake(&self, line: &Line) {
        let socket = matches!(self.carrier, Carrier::Socket(_));
        let Some(id) = &line.id else { return };
        // A session's beginning cannot be cancelled.
        if line.method.as_deref() == Some("initialize") || line.is_modern() && !socket {
            return;
        }
        let mut params = json!({"requestId": id, "reason": "no answer in time"});
        if let (Some(revision), Some(params)) = (&line.revision, params.as_object_mut()) {
            params.insert("_meta".to_owned(), json!({"io.modelcontextprotocol/protocolVersion": revision}));
        }
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).to_string();
        let Ok(line) = Line::read(body.into_bytes()) else { return };
        let carrier = self.carrier.clone();
        tokio::spawn(async move {
            let mut answers = Answers::new(&line, None);
            let told = tokio::time::timeout(FORSAKE, carrier.send(&line, &mut answers)).await;
            if !matches!(told, Ok(Ok(()))) {
                tracing::debug!("the server could not be told that nobody waits any longer");
            }
        });
    }

    /// Gives up what `notifications/cancelled` names. Whether the server has to be told of it as well: over HTTP the stream's
    /// end says it in the modern era, and nothing but the notification in the others.
    fn cancel(&self, line: &Line) -> bool {
        let named = line.cancels.as_deref().and_then(|id: &RawValue| self.in_flight().remove(&line::key(id)));
        let Some(InFlight { given_up, modern }) = named else { return true };
        given_up.cancel();
        !modern || matches!(self.carrier, Carrier::Socket(_))
    }

    async fn say(&self, message: Vec<u8>) {
        // With stdout gone there is nobody to say it to.
        self.out.send(message).await.unwrap_or_default();
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashMap<String, InFlight>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier {
    fn url(&self) -> &Url {
        match self {
            Self::Http(remote) => remote.url(),
            Self::Socket(socket) => socket.url(),
        }
    }

    fn waiting(&self) -> Option<Url> {
        match self {
            Self::Http(remote) => remote.waiting(),
            Self::Socket(socket) => socket.waiting(),
        }
    }

    async fn send(&self, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        match self {
            Self::Http(remote) => remote.send(line, answers).await,
            Self::Socket(socket) => socket.send(line, answers).await,
        }
    }

    async fn end(&self) {
        match self {
            Self::Http(remote) => remote.end().await,
            Self::Socket(socket) => socket.end(),
        }
    }
}
