//! One client on a channel of its own, such as a WebSocket or a pipe: messages both ways, in any order. Calls run side by side, so
//! answers come as they are ready; what is said on the way to an answer comes before it. `notifications/cancelled` gives up
//! a call of the same channel. What carries the messages, and how it ends, is the channel's own business.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::http::StatusCode;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::aside::{self, Aside, Ear, Said};
use super::batch::GivenUp;
use super::caller::{Caller, Origin};
use super::dispatch::{Call, Carried};
use super::reply::{self, Reply, reply};
use super::session::Begun;
use super::{Edge, news};
use crate::limit::Subject;
use crate::mcp::client::Can;
use crate::mcp::code;
use crate::mcp::envelope::{self, EnvelopeError, Message, Received};
use crate::mcp::era::Era;
use crate::mcp::message::{RpcError, negotiated};

/// How many calls run side by side; further ones wait here, where they can still be given up.
const CALLS_MOST: usize = 16;
/// How many wait; further messages wait in the channel.
const WAITING_MOST: usize = 256;

/// A conversation.
pub(super) struct Conversation {
    edge: Arc<Edge>,
    /// The protocol's name, as the conventions for telemetry have it.
    name: &'static str,
    origin: Arc<Origin>,
    caller: Arc<Caller>,
    /// What `initialize` came to.
    begun: Option<Begun>,
    /// The requests that are worked on, by id as it was written, and how each is given up.
    in_flight: HashMap<String, CancellationToken>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// How many of them are calls, which end by themselves; what is listened to does not.
    calls: usize,
    waiting: VecDeque<BoxFuture<'static, Finished>>,
    aside: mpsc::Sender<Said>,
    ear: Ear,
    ready: VecDeque<Reply>,
    number: u64,
    /// What tells a legacy client of changes, from its `initialize` on.
    news: Option<BoxFuture<'static, Option<Reply>>>,
}

/// How often it is looked whether there is a place among those who listen.
const NEWS_PAUSE: Duration = Duration::from_secs(5);
/// The id under which changes are told: no request has it.
const NEWS: &str = "";

/// A request, or a batch of them, that is not worked on any more.
struct Finished {
    ids: Vec<String>,
    /// None if it was given up: nobody waits for an answer.
    reply: Option<Reply>,
    lasting: bool,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.edge.subscriptions.forget(self.number);
    }
}

impl Conversation {
    pub(super) fn new(edge: Arc<Edge>, name: &'static str, origin: Arc<Origin>, caller: Arc<Caller>) -> Self {
        let (aside, ear) = aside::way();
        let (in_flight, running) = (HashMap::new(), FuturesUnordered::new());
        let (waiting, ready) = (VecDeque::new(), VecDeque::new());
        let number = edge.channels.fetch_add(1, Ordering::Relaxed);
        Self {
            edge,
            name,
            origin,
            caller,
            begun: None,
            in_flight,
            running,
            calls: 0,
            waiting,
            aside,
            ear,
            ready,
            number,
            news: None,
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Goes on with another token of the same caller.
    pub(super) fn renew(&mut self, caller: Arc<Caller>) {
        self.caller = caller;
    }

    /// Whether another message can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MOST
    }

    /// Whether nothing is worked on that ends by itself, and nothing waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.calls == 0 && self.waiting.is_empty() && self.ready.is_empty()
    }

    /// Whether nothing at all is worked on.
    pub(super) fn is_over(&self) -> bool {
        self.running.is_empty() && self.is_idle()
    }

    /// Waits for the next message to send, or for the end of something that has none. Nothing comes while nothing is worked
    /// on, and nothing is lost if it is not waited for.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(reply) = self.ready.pop_front() {
                return Some(reply);
            }
            tokio::select! {
                biased;
                // INVARIANT: there is always one sender, this conversation's own.
                Some(said) = self.ear.recv() => self.heard(said),
                Some(reply) = async { Some(self.news.as_mut()?.await) }, if self.news.is_some() => {
                    self.news = None;
                    self.ready.extend(reply);
                }
                Some(finished) = self.running.next(), if !self.running.is_empty() => {
                    // What was said before the answer goes out before it.
                    while let Ok(said) = self.ear.try_recv() {
                        self.heard(said);
                    }
                    for id in &finished.ids {
                        self.in_flight.remove(id);
                    }
                    if !finished.lasting {
                        self.calls -= 1;
                        if let Some(next) = self.waiting.pop_front() {
                            self.calls += 1;
                            self.running.push(next);
                        }
                    }
                    self.ready.extend(finished.reply);
                    if self.ready.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    /// What is said of a request that was given up interests nobody any more.
    fn heard(&mut self, said: Said) {
        let waits = || self.in_flight.get(&*said.about).is_some_and(|given_up| !given_up.is_cancelled());
        if &*said.about == NEWS || waits() {
            self.ready.push_back(Reply::Message(said.message));
        }
    }

    /// Takes a message.
    pub(super) async fn take(&mut self, text: Bytes) {
        let received = match envelope::read(&text) {
            Ok(received) => received,
            Err(wrong) => return self.malformed(&wrong).await,
        };
        match received {
            Received::One(Message::Request(request)) => {
                if request.method == "initialize" {
                    // A modern client has no such method, and is told so.
                    let legacy = Era::of_frame(&request.method, request.params, None);
                    if legacy.is_ok_and(|spoken| !spoken.era.is_modern()) {
                        let (revision, can) = (negotiated(request.params), Can::of_initialize(request.params));
                        self.begun = Some(Begun { revision, can });
                        self.tell_news();
                    }
                }
                let (id, lasting) = (request.id.get().to_owned(), request.method == "subscriptions/listen");
                self.begin(vec![id], text.clone(), lasting);
            }
            Received::One(Message::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancel(params);
                }
            }
            Received::One(Message::Response(response)) => {
                let who = self.caller.principal.id();
                if !self.edge.questions.take(&self.edge.sealed, who, &response).await {
                    let text = "this is no answer to a question that this server has asked and still waits for";
                    self.ready.push_back(Reply::Message(RpcError::new(code::INVALID_REQUEST, text).to_body(None)));
                }
            }
            Received::Many(_) if !self.has_batches() => self.malformed(&EnvelopeError::Batch).await,
            Received::Many(messages) => {
                let mut ids = Vec::new();
                for message in &messages {
                    match message {
                        Ok(Message::Request(request)) => ids.push(request.id.get().to_owned()),
                        Ok(Message::Notification { method, params }) if method == "notifications/cancelled" => {
                            self.cancel(*params);
                        }
                        _ => {}
                    }
                }
                self.begin(ids, text.clone(), false);
            }
        }
    }

    /// What carries each request, with what was agreed by now.
    fn carried(&self) -> Carried<'static> {
        Carried::Channel { name: self.name, number: self.number, begun: self.begun }
    }

    /// Begins to tell of changes, where the service behind tells of any.
    fn tell_news(&mut self) {
        if !self.edge.server.offers.news() {
            return;
        }
        let (edge, caller, aside) = (Arc::clone(&self.edge), Arc::clone(&self.caller), self.aside.clone());
        let (origin, carried) = (Arc::clone(&self.origin), self.carried());
        let news = async move {
            let call = Call { caller: &caller, origin: &origin, carried, aside: &Aside::to(aside, NEWS) };
            let key = news::key(&call)?;
            let _listening = loop {
                match news::begin(&edge, call.who()) {
                    Ok(listening) => break listening,
                    // Nobody is refused who has only said hello: the news come when there is a place.
                    Err(_) => tokio::time::sleep(NEWS_PAUSE).await,
                }
            };
            // The channel looks at its token itself, and may have a newer one than this.
            news::tell(&edge, &call, &key).await;
            None
        };
        self.news = Some(news.boxed());
    }

    fn has_batches(&self) -> bool {
        // Before `initialize` a client is taken for one of the revision that has them.
        self.begun.is_none_or(|begun| Era::Legacy(begun.revision).has_batches())
    }

    /// Refuses what is no message; it counts as a request that the edge answers by itself.
    async fn malformed(&mut self, wrong: &EnvelopeError<'_>) {
        let (address, who) = (self.origin.address, self.caller.principal.id());
        let refusal = match self.edge.limits.other(Subject::of(who)).await {
            Err(exceeded) => reply::limited(&self.edge, address, &exceeded, None),
            Ok(()) => {
                let words = "no message of MCP";
                self.edge.refused(StatusCode::BAD_REQUEST, "MESSAGE_MALFORMED", address, Some(who), words);
                reply::malformed(wrong)
            }
        };
        self.ready.push_back(Reply::Message(refusal));
    }

    /// Begins to work on a request, or a batch of them.
    fn begin(&mut self, ids: Vec<String>, text: Bytes, lasting: bool) {
        let mut seen = HashSet::new();
        if ids.iter().any(|id| self.in_flight.contains_key(id) || !seen.insert(id)) {
            // Of a batch every request is answered so: none is begun.
            let wrong =
                RpcError::new(code::INVALID_REQUEST, "a request with this `id`, or one beside it, is still worked on");
            for id in ids {
                let id = RawValue::from_string(id).ok();
                self.ready.push_back(Reply::Message(wrong.to_body(id.as_deref())));
            }
            return;
        }
        let given_up: GivenUp = ids.iter().map(|id| (id.clone(), CancellationToken::new())).collect();
        self.in_flight.extend(given_up.clone());
        let (edge, caller, aside) = (Arc::clone(&self.edge), Arc::clone(&self.caller), self.aside.clone());
        let (origin, carried) = (Arc::clone(&self.origin), self.carried());
        let span = tracing::info_span!(target: "request", "request", request.id = uuid::Uuid::new_v4().to_string());
        let work = async move {
            // What is said on the way is said of one request, so nothing is of a batch.
            let aside = match ids.as_slice() {
                [id] => Aside::to(aside, id),
                _ => Aside::none(),
            };
            let call = Call { caller: &caller, origin: &origin, carried, aside: &aside };
            let work = std::panic::AssertUnwindSafe(answer(&edge, &text, &call, &given_up));
            let reply = work.catch_unwind().await.unwrap_or_else(|_| {
                let fault = RpcError::new(code::INTERNAL_ERROR, "the service met a fault of its own");
                let answer = |id: &String| fault.to_body(RawValue::from_string(id.clone()).ok().as_deref());
                Some(Reply::Message(one_or_batch(ids.iter().map(answer).collect())))
            });
            Finished { ids, reply, lasting }
        };
        let work = work.instrument(span).boxed();
        if lasting {
            self.running.push(work);
        } else if self.calls < CALLS_MOST {
            self.calls += 1;
            self.running.push(work);
        } else {
            self.waiting.push_back(work);
        }
    }

    /// Gives up a call that the client wants no answer to any more (MCP, "Cancellation"). What it began to change is
    /// finished all the same.
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
}

/// A single answer as it is, several as the batch that they are.
fn one_or_batch(mut answers: Vec<Vec<u8>>) -> Vec<u8> {
    match answers.len() {
        1 => answers.pop().unwrap_or_default(),
        _ => [b"[".as_slice(), &answers.join(&b','), b"]"].concat(),
    }
}

/// Answers a request or a batch. None where nothing wants an answer.
async fn answer(edge: &Edge, text: &[u8], call: &Call<'_>, given_up: &GivenUp) -> Option<Reply> {
    match envelope::read(text) {
        Ok(Received::One(Message::Request(request))) => match given_up.get(request.id.get()) {
            Some(given_up) => given_up.run_until_cancelled(reply(edge, &request, call)).await,
            None => Some(reply(edge, &request, call).await),
        },
        Ok(Received::Many(messages)) => super::batch::answer(edge, messages, call, given_up).await,
        _ => None,
    }
}
