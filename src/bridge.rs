//! The bridge: MCP over stdin and stdout on this side, over HTTP on the other. Claude Desktop and other programs that start
//! their servers themselves reach a remote one through it.
//!
//! It carries messages as they are and never needs to know what they mean: of a request it reads the id, the method and what HTTP
//! wants said in headers. Every request gets an answer, whatever fails, with words that tell a person what to do. Nothing
//! but MCP leaves on stdout. It connects when it is first asked something, so it is ready at once.

mod line;
mod lines;
mod remote;
mod sse;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::mcp::code;
use crate::mcp::message::RpcError;

use line::Line;
use lines::{Lines, Read};
use remote::{Remote, Take};

pub use token::{Token, TokenError};

/// How many requests are on their way at once; further ones wait on stdin.
const AT_ONCE: usize = 64;
/// How long running requests may take to be answered once stdin has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a bridge leads to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The MCP endpoint.
    pub url: Url,
    /// The caller's token, if one is known.
    pub token: Option<Token>,
    /// A file of CA certificates (PEM) to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// Why a bridge cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The URL.
    #[error("`{0}` must be https://…, or http:// to a loopback address: a token would be read on the way")]
    Insecure(Url),
    /// Standard input or output.
    #[error("standard input or output")]
    Io(#[from] std::io::Error),
}

/// What is shared by the requests that are on their way.
struct Bridge {
    remote: Remote,
    /// The revision that `initialize` came to, for the header that later requests carry.
    negotiated: Mutex<Option<String>>,
    out: mpsc::Sender<Vec<u8>>,
    in_flight: Mutex<HashMap<String, CancellationToken>>,
}

/// What comes back for one message.
struct Taker<'a> {
    bridge: &'a Bridge,
    line: &'a Line,
    /// Whether its answer has come.
    answered: bool,
}

impl Take for Taker<'_> {
    async fn take(&mut self, message: Vec<u8>) {
        self.answered |= self.line.is_answered_by(&message);
        if self.line.method.as_deref() == Some("initialize") {
            self.bridge.remember(&message);
        }
        self.bridge.say(message).await;
    }
}

/// Carries messages until `input` ends.
pub async fn run(
    config: Config,
    input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin + Send + 'static,
) -> Result<(), BridgeError> {
    if !crate::http_client::is_https_or_loopback(&config.url) {
        return Err(BridgeError::Insecure(config.url));
    }
    let (out, mut messages) = mpsc::channel::<Vec<u8>>(AT_ONCE);
    let writer = tokio::spawn(async move {
        while let Some(mut message) = messages.recv().await {
            message.push(b'\n');
            output.write_all(&message).await?;
            output.flush().await?;
        }
        Ok::<(), std::io::Error>(())
    });
    let (negotiated, in_flight) = (Mutex::default(), Mutex::default());
    let bridge = Arc::new(Bridge { remote: Remote::new(config), negotiated, out, in_flight });
    let (places, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let mut lines = Lines::new(input);
    loop {
        let line = match lines.next().await? {
            Read::End => break,
            Read::TooLong => {
                bridge.say(RpcError::new(code::INVALID_REQUEST, lines::TOO_LONG).to_body(None)).await;
                continue;
            }
            Read::Line(line) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Read::Line(line) => line,
        };
        let line = match Line::read(line) {
            Ok(line) => line,
            Err(wrong) => {
                bridge.say(wrong).await;
                continue;
            }
        };
        if line.method.as_deref() == Some("notifications/cancelled") {
            bridge.cancel(&line);
        }
        // Everything after it is said in the revision that it comes to.
        if line.method.as_deref() == Some("initialize") {
            bridge.carry(line).await;
            continue;
        }
        // INVARIANT: the semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let bridge = Arc::clone(&bridge);
        running.spawn(async move {
            bridge.carry(line).await;
            drop(place);
        });
        while running.try_join_next().is_some() {}
    }
    let rest = async { while running.join_next().await.is_some() {} };
    tokio::time::timeout(FAREWELL, rest).await.unwrap_or_default();
    running.shutdown().await;
    drop(bridge);
    // Whoever read stdout may have gone first, and then there is nothing left to say.
    drop(writer.await);
    Ok(())
}

impl Bridge {
    /// Carries one message there, and its answer back.
    async fn carry(&self, line: Line) {
        let given_up = CancellationToken::new();
        let key = line.id.as_deref().map(|id| id.get().to_owned());
        if let Some(key) = &key {
            self.in_flight().insert(key.clone(), given_up.clone());
        }
        // Who has cancelled a request wants no answer.
        given_up.run_until_cancelled(self.exchange(&line)).await;
        if let Some(key) = &key {
            self.in_flight().remove(key);
        }
    }

    async fn exchange(&self, line: &Line) {
        let negotiated = self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut taker = Taker { bridge: self, line, answered: false };
        let result = self.remote.send(line, negotiated.as_deref(), &mut taker).await;
        let answered = taker.answered;
        let Some(id) = line.id.as_deref().filter(|_| !answered) else {
            if let Err(error) = result {
                tracing::warn!(%error, "a message could not be carried");
            }
            return;
        };
        let (code, text) = match result {
            Err(error) => (error.code(), error.words()),
            Ok(()) => (502, "the server ended its answer before it was whole; try again".to_owned()),
        };
        self.say(RpcError::new(code, text).to_body(Some(id))).await;
    }

    /// Remembers the revision that an answer to `initialize` names.
    fn remember(&self, answer: &[u8]) {
        let answer: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
        let revision = answer.as_ref().and_then(|answer| answer.pointer("/result/protocolVersion")?.as_str());
        if let Some(revision) = revision {
            *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = Some(revision.to_owned());
        }
    }

    /// Gives up what `notifications/cancelled` names: closing its HTTP request is how the server hears of it.
    fn cancel(&self, line: &Line) {
        if let Some(given_up) = line.cancels.as_deref().and_then(|id: &RawValue| self.in_flight().remove(id.get())) {
            given_up.cancel();
        }
    }

    async fn say(&self, message: Vec<u8>) {
        // With stdout gone there is nobody to say it to.
        self.out.send(message).await.unwrap_or_default();
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
