//! The server on the other side over HTTP: one POST for each message, and its answer as JSON or as a stream of events, which is
//! gone on with where it broke if the server can do that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::access::{Access, AccessError, Held};
use super::error::CarryError;
use super::line::Line;
use super::login::challenge::Challenge;
use super::network::Network;
use super::parameters::Parameters;
use super::session::{Said, Session};
use super::sse::Events;
use super::{Answers, is_message, one_line};
use crate::error::Chain;

/// The most bytes of an answer that is no stream.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// How often a connection that could not be made is tried again, and how long is waited before the first time; it doubles.
pub(super) const CONNECT_AGAIN: u32 = 4;
pub(super) const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// How often a request that was refused is sent again with another token.
pub(super) const TOKENS: u32 = 2;
/// How long a stream that broke is left alone, unless the server says something else, and how often it may break in a row.
const STREAM_PAUSE: Duration = Duration::from_secs(1);
const STREAM_AGAIN: u32 = 20;
/// The longest pause between two tries to listen, and how long a stream stays open that is worth coming back to at once.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);
const LISTEN_WORTH: Duration = Duration::from_secs(10);
/// How long a stream is read on behind its answer, so that its connection can be used again.
const REST: Duration = Duration::from_millis(500);
/// How long the end of a session may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// The header of a session's id.
const SESSION: &str = "mcp-session-id";
/// What ends the beginning of a session.
pub(super) const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The way to the server.
pub(super) struct Remote {
    url: Url,
    network: Network,
    access: Access,
    session: Session,
    parameters: Arc<Parameters>,
    /// Held while a session is begun anew.
    anew: tokio::sync::Mutex<()>,
    out: mpsc::Sender<Vec<u8>>,
    listening: AtomicBool,
    /// Told when a session was begun anew.
    begun_anew: Notify,
    ended: CancellationToken,
}

impl Remote {
    pub(super) fn new(url: Url, network: Network, access: Access, out: mpsc::Sender<Vec<u8>>) -> Self {
        let (session, parameters, anew) = (Session::default(), Arc::default(), tokio::sync::Mutex::default());
        let listening = AtomicBool::default();
        Self {
            url,
            network,
            access,
            session,
            parameters,
            anew,
            out,
            listening,
            begun_anew: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The page that somebody has to log in at, if a login waits for it.
    pub(super) fn waiting(&self) -> Option<Url> {
        self.access.waiting()
    }

    /// Nothing more is listened to, and the server may forget the session.
    pub(super) async fn end(&self) {
        self.ended.cancel();
        let said = self.session.said();
        if said.id.is_none() {
            return;
        }
        let goodbye = async {
            let held = self.access.current().await?;
            let request = Request::delete(self.url.as_str());
            let request = request.header("mcp-protocol-version", said.negotiated.unwrap_or_default());
            let request = with(request, said.id.as_ref(), held.as_ref())?.body(Full::default())?;
            drop(self.network.pooled().await?.request(request).await);
            Ok::<(), CarryError>(())
        };
        // A server that is gone needs no farewell.
        drop(tokio::time::timeout(FAREWELL, goodbye).await);
    }

    /// Sends a message, and hands over whatever comes back, one message after another.
    pub(super) async fn send(self: &Arc<Self>, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let sent = self.exchange(line, answers).await;
        if sent.is_ok() && line.method.as_deref() == Some("notifications/initialized") {
            self.listen();
        }
        sent
    }

    async fn exchange(self: &Arc<Self>, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let initialize = line.method.as_deref() == Some("initialize");
        if initialize {
            self.session.begins(line);
        }
        if line.is_modern() && line.method.as_deref() == Some("tools/list") {
            answers.teaches = Some(Arc::clone(&self.parameters));
        }
        let (mut tokens, mut anew) = (0, false);
        loop {
            let said = self.session.said();
            let held = self.access.current().await?;
            let response = self.post(line, &said, held.as_ref()).await?;
            if wants_another_token(&response) && tokens < TOKENS {
                tokens += 1;
                match self.access.another(held.as_ref(), Challenge::read(response.headers())).await {
                    Ok(_) => continue,
                    // What the server says of the token that was given is said in its words.
                    Err(AccessError::Given) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // A modern message is of no session.
            if response.status() == StatusCode::NOT_FOUND && said.id.is_some() && !line.is_modern() && !anew {
                anew = true;
                self.begin_anew(said.generation).await?;
                continue;
            }
            let id = response.headers().get(SESSION).cloned();
            self.take(response, line, answers).await?;
            if initialize && let Some(answer) = &answers.answer {
                self.session.is_named(id);
                self.session.answered(answer);
            }
            return Ok(());
        }
    }

    /// The server has forgotten the session: it is begun again as the client began it, whoever notices first.
    async fn begin_anew(self: &Arc<Self>, generation: u64) -> Result<(), CarryError> {
        let _one = self.anew.lock().await;
        let Some(line) = self.session.initialize() else { return Ok(()) };
        if !self.session.begins_anew(generation) {
            return Ok(());
        }
        tracing::info!("the server has forgotten the session; it is begun again");
        self.session.is_named(None);
        let held = self.access.current().await?;
        let response = self.post(&line, &self.session.said(), held.as_ref()).await?;
        let id = response.headers().get(SESSION).cloned();
        let mut answers = Answers::new(&line, None);
        self.take(response, &line, &mut answers).await?;
        let Some(answer) = &answers.answer else { return Err(CarryError::Ended) };
        self.session.is_named(id);
        self.session.answered(answer);
        let Ok(line) = Line::read(INITIALIZED.to_vec()) else { return Ok(()) };
        let response = self.post(&line, &self.session.said(), held.as_ref()).await?;
        self.take(response, &line, &mut Answers::new(&line, None)).await?;
        // What was listened to is of the session that is gone.
        self.begun_anew.notify_waiters();
        self.listen();
        Ok(())
    }

    /// Takes an answer, whatever it is.
    async fn take(
        &self,
        response: Response<Incoming>,
        line: &Line,
        answers: &mut Answers<'_>,
    ) -> Result<(), CarryError> {
        if is_stream(&response) {
            return self.follow(response.into_body(), line, answers).await;
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(CarryError::Broken)?.to_bytes();
        if parts.status.is_success() && (body.is_empty() || line.wants_nothing()) {
            return Ok(());
        }
        // A refusal that names the request is its answer as it is, and so is a batch's; but of a token that was refused the
        // bridge knows more than the server: how it got it, and how the person gets another.
        let token_refused = parts.status == StatusCode::UNAUTHORIZED;
        if !token_refused && line.is_answered_by(&body) || parts.status.is_success() && is_message(&body) {
            answers.take(body.to_vec()).await;
            return Ok(());
        }
        let wait = parts.headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.or_else(|| {
            parts.status.is_success().then(|| json!({"error": "the server's answer is no JSON object or array"}))
        });
        Err(CarryError::Status(parts.status, said, wait))
    }

    /// Reads a stream up to the answer. If it ends before, and its events have ids, it is gone on with.
    async fn follow(&self, mut body: Incoming, line: &Line, answers: &mut Answers<'_>) -> Result<(), CarryError> {
        let (mut events, mut broken) = (Events::default(), 0);
        loop {
            let before = events.last_id().map(<[u8]>::to_owned);
            let read = read(&mut body, &mut events, answers).await;
            if answers.is_answered() {
                tokio::spawn(async move {
                    let rest = async { while body.frame().await.is_some() {} };
                    tokio::time::timeout(REST, rest).await.unwrap_or_default();
                });
                return Ok(());
            }
            broken = if events.last_id() == before.as_deref() { broken + 1 } else { 1 };
            // Streams of the modern era cannot be gone on with, and what wants no answer misses nothing.
            let done = line.wants_nothing() || line.is_modern() || broken > STREAM_AGAIN;
            let Some(last) = events.last_id().filter(|_| !done) else { return read };
            let last = HeaderValue::from_bytes(last).map_err(http::Error::from)?;
            tokio::time::sleep(events.retry().unwrap_or(STREAM_PAUSE)).await;
            events.again();
            let response = match self.get(Some(last)).await {
                Ok(response) if is_stream(&response) => response,
                Ok(_) => return read.and(Err(CarryError::Ended)),
                Err(error) => return Err(error),
            };
            body = response.into_body();
        }
    }

    /// Listens for what a server of an older revision says of its own accord, if it says anything. One that does not is not
    /// asked again before its session is begun anew.
    fn listen(self: &Arc<Self>) {
        if self.session.said().negotiated.is_none() || self.listening.swap(true, Ordering::Relaxed) {
            return;
        }
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            let ended = remote.ended.clone();
            ended.run_until_cancelled(remote.hear()).await;
            remote.listening.store(false, Ordering::Relaxed);
        });
    }

    async fn hear(&self) {
        let (mut events, mut failed) = (Events::default(), 0_u32);
        loop {
            let last = events.last_id().and_then(|last| HeaderValue::from_bytes(last).ok());
            events.again();
            let (said, begun) = (self.session.said(), Instant::now());
            let mut worth = false;
            match self.get(last).await {
                Ok(response) if is_stream(&response) => {
                    let mut body = response.into_body();
                    tokio::select! {
                        heard = self.pass_on(&mut body, &mut events) => worth = heard || begun.elapsed() > LISTEN_WORTH,
                        // An event's id means nothing to another session.
                        () = self.begun_anew.notified() => (worth, events) = (true, Events::default()),
                    }
                }
                Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                // Of a session that it has forgotten it says the same, and the next request begins that anew.
                Ok(response) if response.status() == StatusCode::NOT_FOUND && said.id.is_none() => return,
                Ok(_) | Err(_) => {}
            }
            failed = if worth { 0 } else { failed.saturating_add(1) };
            let pause = STREAM_PAUSE * 2_u32.pow(failed.saturating_sub(1).min(6));
            let pause = match events.retry() {
                Some(retry) if worth => retry,
                Some(retry) => pause.max(retry),
                None => pause,
            };
            tokio::select! {
                () = tokio::time::sleep(pause.min(LISTEN_PAUSE_MAX)) => {}
                () = self.begun_anew.notified() => events = Events::default(),
            }
        }
    }

    /// Passes on what comes until the stream ends; whether anything did.
    async fn pass_on(&self, body: &mut Incoming, events: &mut Events) -> bool {
        let mut heard = false;
        while let Ok(Some(found)) = next(body, events).await {
            for event in found {
                heard = true;
                if let Some(message) = one_line(event) {
                    // With stdout gone there is nobody to say it to.
                    self.out.send(message).await.unwrap_or_default();
                }
            }
        }
        heard
    }

    /// Asks for a stream, from behind an event if one is named.
    async fn get(&self, last: Option<HeaderValue>) -> Result<Response<Incoming>, CarryError> {
        let held = self.access.current().await?;
        self.connect_and(|| {
            let mut request = Request::get(self.url.as_str()).header(ACCEPT, "text/event-stream");
            let said = self.session.said();
            if let Some(negotiated) = said.negotiated {
                request = request.header("mcp-protocol-version", negotiated);
            }
            if let Some(last) = &last {
                request = request.header("last-event-id", last);
            }
            with(request, said.id.as_ref(), held.as_ref())?.body(Full::default())
        })
        .await
    }

    async fn post(&self, line: &Line, said: &Said, held: Option<&Held>) -> Result<Response<Incoming>, CarryError> {
        self.connect_and(|| {
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(self.url.as_str())
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream");
            for (name, value) in line.headers(said.negotiated.as_deref(), &self.parameters) {
                request = request.header(name, value);
            }
            let id = said.id.as_ref().filter(|_| !line.is_modern());
            with(request, id, held)?.body(Full::new(Bytes::from(line.body.clone())))
        })
        .await
    }

    /// Sends the request; again only where no connection could be made, so that nothing is done twice.
    async fn connect_and(
        &self,
        request: impl Fn() -> Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<Response<Incoming>, CarryError> {
        let mut pause = CONNECT_PAUSE;
        for attempt in 0.. {
            match self.network.pooled().await?.request(request()?).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() && attempt < CONNECT_AGAIN => {
                    tracing::debug!(error = %Chain(&error), "the server cannot be reached yet");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) if error.is_connect() => return Err(CarryError::Connect(error.into())),
                Err(error) => return Err(CarryError::Broken(error.into())),
            }
        }
        // INVARIANT: the last attempt returns.
        Err(CarryError::Ended)
    }
}

/// Adds who asks, and in which session.
fn with(
    mut request: http::request::Builder,
    id: Option<&HeaderValue>,
    held: Option<&Held>,
) -> Result<http::request::Builder, http::Error> {
    if let Some(id) = id {
        request = request.header(SESSION, id);
    }
    if let Some(held) = held {
        request = request.header(AUTHORIZATION, authorization(held)?);
    }
    Ok(request)
}

/// The header of a token.
pub(super) fn authorization(held: &Held) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", held.bearer.expose()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether another token may help.
fn wants_another_token<T>(response: &Response<T>) -> bool {
    match response.status() {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::FORBIDDEN => Challenge::read(response.headers()).is_insufficient_scope(),
        _ => false,
    }
}

fn is_stream<T>(response: &Response<T>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    response.status().is_success() && kind.to_ascii_lowercase().starts_with("text/event-stream")
}

/// Reads a stream until it ends, or has answered.
async fn read(body: &mut Incoming, events: &mut Events, answers: &mut Answers<'_>) -> Result<(), CarryError> {
    while let Some(found) = next(body, events).await? {
        for event in found {
            answers.take(event).await;
        }
        if answers.is_answered() {
            break;
        }
    }
    Ok(())
}

/// The next events of a stream; nothing once it has ended.
async fn next(body: &mut Incoming, events: &mut Events) -> Result<Option<Vec<Vec<u8>>>, CarryError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CarryError::Broken(error.into()))?;
        if let Some(bytes) = frame.data_ref() {
            return Ok(Some(events.take(bytes)?));
        }
    }
    Ok(None)
}
