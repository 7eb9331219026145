//! MCP over stdin and stdout: one line is one message, both ways, from the program that has started this one.
//!
//! There is no token: who has started the process is whom it serves. Calls run side by side, so answers come in the order in
//! which they are ready, and `notifications/cancelled` gives one up. It ends with its input; what was begun by then is answered.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::dispatch::{Call, Carried};
use super::reply::{self, Reply};
use super::{Edge, socket};
use crate::identity::Principal;
use crate::identity::bearer::Bearer;
use crate::lines::{Lines, Read, TOO_LONG};
use crate::mcp::code;
use crate::mcp::envelope::{self, EnvelopeError, Message, Received};
use crate::mcp::era::Era;
use crate::mcp::message::{RpcError, negotiated};

/// How long what runs may take to be answered once nobody asks any more. A change is finished and recorded all the same.
const FAREWELL: Duration = Duration::from_secs(10);
/// How many calls run side by side; further ones wait in the pipe.
const CALLS_MOST: usize = 16;

/// The program on the other end.
struct Session<W> {
    edge: Arc<Edge>,
    secret: Bearer,
    person: Arc<Principal>,
    output: W,
    /// The revision that `initialize` came to.
    negotiated: Option<&'static str>,
    /// The requests that are worked on, by id as it was written, and how each is given up.
    in_flight: HashMap<String, CancellationToken>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
}

/// A request that is not worked on any more.
struct Finished {
    ids: Vec<String>,
    /// None if it was given up: nobody waits for an answer.
    reply: Option<Reply>,
}

/// Serves until the input ends, or until `stop`. `secret` says for whom, to the service behind.
pub async fn serve(
    edge: Arc<Edge>,
    secret: Bearer,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin,
    stop: CancellationToken,
) -> io::Result<()> {
    let person = edge.verifier.verify(&secret, None, None).await.map_err(io::Error::other)?;
    let (in_flight, running) = (HashMap::new(), FuturesUnordered::new());
    let mut session = Session { edge, secret, person, output, negotiated: None, in_flight, running };
    // A line that is half read must not be lost over an answer that is ready, so it is read elsewhere.
    let (lines, mut read) = mpsc::channel(1);
    let reader = tokio::spawn(async move {
        let mut input = Lines::new(BufReader::new(input));
        loop {
            let line = input.next().await;
            let ends = matches!(line, Ok(Read::End) | Err(_));
            if lines.send(line).await.is_err() || ends {
                return;
            }
        }
    });
    let served = session.run(&mut read, &stop).await;
    reader.abort();
    served
}

impl<W: AsyncWrite + Send + Unpin> Session<W> {
    async fn run(&mut self, lines: &mut mpsc::Receiver<io::Result<Read>>, stop: &CancellationToken) -> io::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.finish().await,
                Some(finished) = self.running.next(), if !self.running.is_empty() => self.finished(finished).await?,
                line = lines.recv(), if self.running.len() < CALLS_MOST => match line.transpose()? {
                    Some(Read::Line(line)) if line.iter().all(u8::is_ascii_whitespace) => {}
                    Some(Read::Line(line)) => self.message(line).await?,
                    Some(Read::TooLong) => self.refuse(&RpcError::new(code::INVALID_REQUEST, TOO_LONG)).await?,
                    Some(Read::End) | None => return self.finish().await,
                },
            }
        }
    }

    async fn message(&mut self, line: Vec<u8>) -> io::Result<()> {
        if line.len() > self.edge.config.body_max {
            let text = format!("a message may have {} bytes at most", self.edge.config.body_max);
            return self.refuse(&RpcError::new(code::INVALID_REQUEST, text)).await;
        }
        let received = match envelope::read(&line) {
            Ok(received) => received,
            Err(wrong) => {
                let body = reply::malformed(&wrong);
                return self.say(body).await;
            }
        };
        let ids = match received {
            Received::One(Message::Request(request)) => {
                if request.method == "initialize" {
                    self.negotiated = Some(negotiated(request.params));
                }
                vec![request.id.get().to_owned()]
            }
            Received::One(Message::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancel(params);
                }
                return Ok(());
            }
            Received::One(Message::Response) => {
                let text = "this server asks nothing, so it takes no responses";
                return self.refuse(&RpcError::new(code::INVALID_REQUEST, text)).await;
            }
            // Before `initialize` a client is taken for one of the revision that has them.
            Received::Many(_) if self.negotiated.is_some_and(|revision| !Era::Legacy(revision).has_batches()) => {
                let body = reply::malformed(&EnvelopeError::Batch);
                return self.say(body).await;
            }
            Received::Many(messages) => {
                let mut ids = Vec::new();
                for message in messages.iter().filter_map(|message| message.as_ref().ok()) {
                    match message {
                        Message::Request(request) => ids.push(request.id.get().to_owned()),
                        Message::Notification { method, params } if method == "notifications/cancelled" => {
                            self.cancel(*params);
                        }
                        _ => {}
                    }
                }
                ids
            }
        };
        self.begin(ids, line).await
    }

    /// Begins to work on a request, or a batch of them.
    async fn begin(&mut self, ids: Vec<String>, line: Vec<u8>) -> io::Result<()> {
        let mut seen = std::collections::HashSet::new();
        if let Some(id) = ids.iter().find(|id| self.in_flight.contains_key(*id) || !seen.insert(*id)) {
            let wrong = RpcError::new(code::INVALID_REQUEST, "a request with this `id` is still worked on");
            let body = wrong.to_body(RawValue::from_string(id.clone()).ok().as_deref());
            return self.say(body).await;
        }
        let given_up = CancellationToken::new();
        for id in &ids {
            self.in_flight.insert(id.clone(), given_up.clone());
        }
        let (edge, secret, person) = (Arc::clone(&self.edge), self.secret.clone(), Arc::clone(&self.person));
        let negotiated = self.negotiated;
        let span = tracing::info_span!(target: "request", "request", request.id = uuid::Uuid::new_v4().to_string());
        let work = async move {
            let carried = Carried::Socket(negotiated);
            let call = Call { bearer: &secret, principal: &person, address: None, certificate: None, carried };
            let work = std::panic::AssertUnwindSafe(socket::answer(&edge, &line, &call));
            let reply = given_up.run_until_cancelled(futures_util::FutureExt::catch_unwind(work)).await;
            let reply = reply.map(|reply| {
                reply.unwrap_or_else(|_| {
                    let fault = RpcError::new(code::INTERNAL_ERROR, "the service met a fault of its own");
                    let id = ids.first().and_then(|id| RawValue::from_string(id.clone()).ok());
                    Some(Reply::Message(fault.to_body(id.as_deref())))
                })
            });
            Finished { ids, reply: reply.flatten() }
        };
        self.running.push(Box::pin(work.instrument(span)));
        Ok(())
    }

    /// Gives up a call that the client wants no answer to any more. What it began to change is finished all the same.
    fn cancel(&self, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            request_id: &'a RawValue,
        }
        let named = params.and_then(|params| serde_json::from_str::<Cancelled<'_>>(params.get()).ok());
        // One that is unknown, or over, is no mistake: the two have crossed.
        if let Some(given_up) = named.and_then(|named| self.in_flight.get(named.request_id.get())) {
            given_up.cancel();
        }
    }

    async fn finished(&mut self, finished: Finished) -> io::Result<()> {
        for id in &finished.ids {
            self.in_flight.remove(id);
        }
        match finished.reply {
            Some(Reply::Message(body)) => self.say(body).await,
            // The secret of this process is good as long as it runs.
            Some(Reply::TokenRefused(why)) => self.refuse(&RpcError::new(code::INTERNAL_ERROR, why)).await,
            None => Ok(()),
        }
    }

    /// Answers what runs, and begins nothing more.
    async fn finish(&mut self) -> io::Result<()> {
        let answered = async {
            while let Some(finished) = self.running.next().await {
                self.finished(finished).await?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, answered).await.unwrap_or(Ok(()))
    }

    async fn refuse(&mut self, wrong: &RpcError) -> io::Result<()> {
        self.say(wrong.to_body(None)).await
    }

    async fn say(&mut self, mut body: Vec<u8>) -> io::Result<()> {
        body.push(b'\n');
        self.output.write_all(&body).await?;
        self.output.flush().await
    }
}
