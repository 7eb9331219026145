//! The server on the other side: one POST for each message, and its answer as JSON or as a stream of events.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::line::Line;
use super::sse::{Events, TooLarge};
use super::{Config, TokenError};
use crate::error::Chain;
use crate::http_client::{Pooled, pooled};
use crate::tls::{self, TlsError};

/// The most bytes of an answer that is no stream.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// How long a connection is kept without a request: people think between two questions.
const IDLE: Duration = Duration::from_secs(60);
/// How often a connection that could not be made is tried again, and how long is waited before the first time; it doubles.
const CONNECT_AGAIN: u32 = 4;
const CONNECT_PAUSE: Duration = Duration::from_millis(250);

/// The way to the server. Nothing is connected, and no CA read, before it is first needed.
pub(super) struct Remote {
    config: Config,
    client: OnceCell<Pooled>,
}

/// Takes what comes back.
pub(super) trait Take {
    /// Takes one message, without line feeds.
    fn take(&mut self, message: Vec<u8>) -> impl Future<Output = ()> + Send;
}

/// Why a message was not carried, or brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error("the CA cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the request cannot be put together")]
    Request(#[from] http::Error),
    #[error("the server cannot be reached")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("no answer in time")]
    Timeout(Duration),
    #[error("the server answered {0}")]
    Status(StatusCode, Option<Value>, Option<u64>),
    #[error("the server wants a token")]
    NoToken,
}

impl RemoteError {
    /// The JSON-RPC code: HTTP's own status where there is one, or the one that fits. Positive numbers are applications'.
    pub(super) fn code(&self) -> i32 {
        match self {
            Self::Status(status, ..) => status.as_u16().into(),
            Self::NoToken | Self::Token(_) => 401,
            Self::Timeout(_) => 504,
            Self::Tls(_) | Self::Request(_) => 500,
            Self::Connect(_) => 503,
            Self::Broken(_) | Self::TooLarge(_) => 502,
        }
    }

    /// What is told to whoever asked: what is wrong, and what they can do.
    pub(super) fn words(&self) -> String {
        let why = Chain(self);
        match self {
            Self::NoToken => {
                "the server wants to know who you are: set MCP_AUTH_TOKEN, or give --token-file".to_owned()
            }
            Self::Token(_) => format!("{why}; mend it, and ask again"),
            Self::Status(StatusCode::UNAUTHORIZED, said, _) => {
                let said = words_of(said.as_ref()).unwrap_or_else(|| "it was refused".to_owned());
                format!(
                    "your access token is not good any more ({said}); get a new one and start the bridge again, or put it into the file of --token-file"
                )
            }
            Self::Status(StatusCode::FORBIDDEN, said, _) => {
                words_of(said.as_ref()).unwrap_or_else(|| "the server refuses this caller".to_owned())
            }
            Self::Status(StatusCode::NOT_FOUND, None, _) => {
                "there is no MCP server at this address; is its path right, such as /mcp?".to_owned()
            }
            Self::Status(status, said, wait) => {
                let said = words_of(said.as_ref()).unwrap_or_else(|| format!("the server answered {status}"));
                match wait {
                    Some(wait) => format!("{said} (try again in {wait} s)"),
                    None => said,
                }
            }
            Self::Timeout(most) => format!(
                "the server did not answer within {} s; look whether it was done before trying again",
                most.as_secs()
            ),
            Self::Connect(_) => format!(
                "{why}; nothing was asked of it. Is the address right, is it up, and is its certificate from a CA that is known here (--ca)?"
            ),
            Self::Broken(_) => {
                format!("{why} before the answer was there; look whether it was done before trying again")
            }
            Self::Tls(_) | Self::Request(_) | Self::TooLarge(_) => why.to_string(),
        }
    }
}

/// What an error's body says in words.
fn words_of(body: Option<&Value>) -> Option<String> {
    let said =
        body?.pointer("/error/message").or_else(|| body?.get("error_description")).or_else(|| body?.get("error"))?;
    said.as_str().map(str::to_owned)
}

impl Remote {
    pub(super) fn new(config: Config) -> Self {
        Self { config, client: OnceCell::new() }
    }

    /// Sends a message, and hands over whatever comes back, one message after another.
    pub(super) async fn send(
        &self,
        line: &Line,
        negotiated: Option<&str>,
        taker: &mut impl Take,
    ) -> Result<(), RemoteError> {
        let most = self.config.timeout;
        tokio::time::timeout(most, self.exchange(line, negotiated, taker))
            .await
            .map_err(|_| RemoteError::Timeout(most))?
    }

    async fn exchange(&self, line: &Line, negotiated: Option<&str>, taker: &mut impl Take) -> Result<(), RemoteError> {
        let response = self.request(line, negotiated).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if response.status().is_success() && kind.starts_with("text/event-stream") {
            let (mut body, mut events) = (response.into_body(), Events::default());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| RemoteError::Broken(error.into()))?;
                let Some(bytes) = frame.data_ref() else { continue };
                for event in events.take(bytes)? {
                    taker.take(one_line(event)).await;
                }
            }
            return Ok(());
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(RemoteError::Broken)?.to_bytes();
        if parts.status.is_success() && (body.is_empty() || line.id.is_none() && !body.starts_with(b"[")) {
            return Ok(());
        }
        // A refusal that names the request is its answer as it is, and so is a batch's.
        if line.is_answered_by(&body) || parts.status.is_success() && serde_json::from_slice::<Value>(&body).is_ok() {
            taker.take(one_line(body.to_vec())).await;
            return Ok(());
        }
        let wait = parts.headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        if parts.status == StatusCode::UNAUTHORIZED && self.config.token.is_none() {
            return Err(RemoteError::NoToken);
        }
        let said =
            said.or_else(|| parts.status.is_success().then(|| json!({"error": "the server's answer is no JSON"})));
        Err(RemoteError::Status(parts.status, said, wait))
    }

    /// Sends the request; again only where no connection could be made, so that nothing is done twice.
    async fn request(&self, line: &Line, negotiated: Option<&str>) -> Result<Response<Incoming>, RemoteError> {
        let mut pause = CONNECT_PAUSE;
        for attempt in 0.. {
            let request = self.put_together(line, negotiated)?;
            match self.client().await?.request(request).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() && attempt < CONNECT_AGAIN => {
                    tracing::debug!(error = %Chain(&error), "the server cannot be reached yet");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) if error.is_connect() => return Err(RemoteError::Connect(error)),
                Err(error) => return Err(RemoteError::Broken(error.into())),
            }
        }
        // INVARIANT: the last attempt returns.
        Err(RemoteError::Timeout(self.config.timeout))
    }

    fn put_together(&self, line: &Line, negotiated: Option<&str>) -> Result<Request<Full<Bytes>>, RemoteError> {
        let mut request = Request::post(self.config.url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in line.headers(negotiated) {
            request = request.header(name, value);
        }
        if let Some(token) = &self.config.token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.current()?.expose())).map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        Ok(request.body(Full::new(Bytes::from(line.body.clone())))?)
    }

    async fn client(&self) -> Result<&Pooled, RemoteError> {
        let connect = async || {
            let ca = self.config.ca.clone();
            // Reading the system's CAs takes a while, and is done where nothing waits for it.
            let tls = tokio::task::spawn_blocking(move || tls::public_client(ca.as_deref())).await;
            let tls = tls.map_err(|panic| RemoteError::Broken(panic.into()))??;
            Ok::<Pooled, RemoteError>(pooled(tls, IDLE))
        };
        self.client.get_or_try_init(connect).await
    }
}

/// A message as one line: JSON has no line feeds but between its parts.
fn one_line(mut message: Vec<u8>) -> Vec<u8> {
    message.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    message
}
