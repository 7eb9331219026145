//! News of what changes behind the edge: lists and single resources. A modern client asks for them by a request that lasts
//! (`subscriptions/listen`); a legacy one names resources (`resources/subscribe`) and hears of them on its own channel, or on
//! the stream that it opens by GET. What a legacy client over HTTP has named is kept by the process that it told.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message as _;
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;

use super::Edge;
use super::dispatch::{Answer, Call, Carried};
use super::offers;
use super::places::Share;
use super::rpc::{self, outgoing_without_end};
use crate::digest::sha256_hex;
use crate::mcp::code;
use crate::mcp::message::{self, RpcError, notification};
use crate::pb::mcp::v1::changed::What;
use crate::pb::mcp::v1::{Changed, ChangedList, WatchRequest};

/// How many resources one client may watch.
const URIS_MOST: usize = 64;
/// How many legacy clients' resources are kept.
const CLIENTS_MOST: usize = 1024;
/// How many listen at once. Each is a stream of the one connection to the service, of which not every service takes more
/// than a hundred.
const LISTENERS_MOST: usize = 64;
/// How many of one caller's.
const OF_ONE_MOST: usize = 16;
/// How often the token of who listens is looked at again.
const LOOK: Duration = Duration::from_secs(25);
/// How long the service may take to begin.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited before a stream that broke is opened again, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// What legacy clients watch, by who they are.
#[derive(Debug)]
pub(super) struct Subscriptions {
    kept: Cache<String, Arc<Subscription>>,
    /// Those that somebody follows, which must not be forgotten meanwhile.
    followed: Mutex<HashMap<String, Weak<Subscription>>>,
}

/// What one client watches.
#[derive(Debug, Default)]
struct Subscription {
    /// What it has named.
    named: watch::Sender<BTreeSet<String>>,
    /// What of it is followed by now.
    followed: watch::Sender<BTreeSet<String>>,
}

/// Why somebody hears no more.
pub(super) enum Over {
    /// The connection or the service ends.
    Ending,
    /// The client has gone.
    Gone,
    /// The token is not good any more.
    Token(String),
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self { kept: Cache::new(CLIENTS_MOST), followed: Mutex::default() }
    }

    fn of(&self, key: &str) -> Arc<Subscription> {
        let followed = self.followed().get(key).and_then(Weak::upgrade);
        followed.unwrap_or_else(|| {
            let made = self.kept.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default()));
            made.unwrap_or_else(|never| match never {})
        })
    }

    /// The same for whoever follows it from now on; none if somebody does already.
    fn follow(&self, key: &str) -> Option<Arc<Subscription>> {
        let subscription = self.of(key);
        let mut followed = self.followed();
        if subscription.named.receiver_count() > 0 {
            return None;
        }
        followed.retain(|_, subscription| subscription.strong_count() > 0);
        followed.insert(key.to_owned(), Arc::downgrade(&subscription));
        Some(subscription)
    }

    /// Whether somebody follows it.
    pub(super) fn is_followed(&self, key: &str) -> bool {
        self.of(key).named.receiver_count() > 0
    }

    /// Forgets what a channel watched that is gone.
    pub(super) fn forget(&self, number: u64) {
        self.kept.remove(&channel(number));
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<String, Weak<Subscription>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a resource to what a client watches, or takes it out; whether there was room. Where somebody follows already, it
    /// is followed as well by then.
    async fn change(&self, key: &str, uri: &str, watched: bool) -> bool {
        let (subscription, mut fits) = (self.of(key), true);
        subscription.named.send_if_modified(|uris| {
            if watched && !uris.contains(uri) && uris.len() >= URIS_MOST {
                fits = false;
                return false;
            }
            if watched { uris.insert(uri.to_owned()) } else { uris.remove(uri) }
        });
        if fits && subscription.named.receiver_count() > 0 {
            let mut followed = subscription.followed.subscribe();
            // A service that does not answer is tried again by whoever follows.
            let begun = followed.wait_for(|uris| uris.contains(uri) == watched);
            drop(tokio::time::timeout(OPEN_PATIENCE, begun).await);
        }
        fits
    }
}

/// Who a legacy client is, as far as its subscriptions go: its session, or its channel.
pub(super) fn key(call: &Call<'_>) -> Option<String> {
    match call.carried {
        Carried::Http(headers, Some(_)) => headers.get("mcp-session-id").map(sha256_hex),
        Carried::Channel { number, .. } => Some(channel(number)),
        Carried::Http(_, None) | Carried::Itself => None,
    }
}

fn channel(number: u64) -> String {
    format!("channel:{number}")
}

/// `resources/subscribe` and `resources/unsubscribe`.
pub(super) async fn subscribe(edge: &Edge, call: &Call<'_>, uri: &str, watched: bool) -> Result<Value, RpcError> {
    let wrong = |text: &'static str| RpcError::new(code::INVALID_PARAMS, text);
    if watched && known(edge, call, vec![uri.to_owned()]).is_empty() {
        return Err(offers::no_resource(uri, false));
    }
    if call.carried.is_a_channel() || !edge.sealed.is_apart() {
        let key =
            key(call).ok_or_else(|| wrong("this needs a session: send the Mcp-Session-Id of `initialize` along"))?;
        if edge.subscriptions.change(&key, uri, watched).await {
            return Ok(json!({}));
        }
        return Err(wrong("64 resources are watched already, which is the most that one client may"));
    }
    Err(wrong(
        "this server has several replicas, and none knows what was said to another; use a WebSocket, or a client of MCP 2026-07-28",
    ))
}

/// What a modern client wants to hear of.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

#[derive(Deserialize)]
struct ListenParams {
    notifications: Filter,
}

/// `subscriptions/listen`: says what is listened to, then what changes, until the end.
pub(super) async fn listen(
    edge: &Edge,
    call: &Call<'_>,
    id: &RawValue,
    params: Option<&RawValue>,
) -> Result<Answer, RpcError> {
    let wrong = |text: &'static str| RpcError::new(code::INVALID_PARAMS, text);
    let params = params.and_then(|params| serde_json::from_str::<ListenParams>(params.get()).ok());
    let Some(ListenParams { notifications: asked }) = params else {
        return Err(wrong(
            "`params.notifications` must say what to listen to: toolsListChanged and so on, true or false",
        ));
    };
    if asked.resource_subscriptions.len() > URIS_MOST {
        return Err(wrong("64 resources at most can be listened to"));
    }
    if !call.aside.is_open() {
        return Err(wrong("the answer is a stream: send `Accept: application/json, text/event-stream`"));
    }
    let _listening = begin(edge, call.who())?;
    let offered = edge.server.offers;
    let watch = WatchRequest {
        tools: asked.tools_list_changed && offered.tools_news,
        prompts: asked.prompts_list_changed && offered.prompts_news,
        resources: asked.resources_list_changed && offered.resources_news,
        uris: if offered.resource_news { known(edge, call, asked.resource_subscriptions) } else { Vec::new() },
    };
    let about = |mut params: Map<String, Value>| {
        params.insert("_meta".to_owned(), json!({"io.modelcontextprotocol/subscriptionId": id}));
        Value::Object(params)
    };
    let mut accepted = Map::new();
    let flags = [
        ("toolsListChanged", watch.tools),
        ("promptsListChanged", watch.prompts),
        ("resourcesListChanged", watch.resources),
    ];
    accepted.extend(flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name.to_owned(), true.into())));
    if !watch.uris.is_empty() {
        accepted.insert("resourceSubscriptions".to_owned(), watch.uris.clone().into());
    }
    // Whoever is told that it listens must miss nothing from then on.
    let mut source = Source::new(edge, call, watch.clone());
    drop(tokio::time::timeout(OPEN_PATIENCE, source.opened()).await);
    let first = about(Map::from_iter([("notifications".to_owned(), accepted.into())]));
    if !call.aside.say(notification("notifications/subscriptions/acknowledged", &first)).await {
        return Err(RpcError::new(code::INTERNAL_ERROR, "the client went away"));
    }
    let (_keep, watched) = watch::channel(watch);
    match follow(source, watched, |_| {}, |changed| news(changed, about)).await {
        Over::Token(why) => Ok(Answer::TokenRefused(why)),
        Over::Ending | Over::Gone => {
            let end = edge.server.ended(json!({"io.modelcontextprotocol/subscriptionId": id}));
            Ok(Answer::Body(message::result(id, &end)))
        }
    }
}

/// Tells a legacy client what changes: the lists, and the resources that it has named.
pub(super) async fn tell(edge: &Edge, call: &Call<'_>, key: &str) -> Over {
    let offered = edge.server.offers;
    let all = |uris: &BTreeSet<String>| WatchRequest {
        uris: uris.iter().cloned().collect(),
        tools: offered.tools_news,
        prompts: offered.prompts_news,
        resources: offered.resources_news,
    };
    let Some(subscription) = edge.subscriptions.follow(key) else { return Over::Gone };
    let mut named = subscription.named.subscribe();
    let (wanted, watched) = watch::channel(all(&named.borrow_and_update()));
    let changes = async {
        while named.changed().await.is_ok() {
            wanted.send_replace(all(&named.borrow_and_update()));
        }
        std::future::pending::<Over>().await
    };
    let opened = |wanted: &WatchRequest| {
        subscription.followed.send_replace(wanted.uris.iter().cloned().collect());
    };
    let source = Source::new(edge, call, watched.borrow().clone());
    tokio::select! {
        over = follow(source, watched, opened, |changed| news(changed, Value::Object)) => over,
        over = changes => over,
    }
}

/// Those of the resources that the caller may read.
fn known(edge: &Edge, call: &Call<'_>, uris: Vec<String>) -> Vec<String> {
    let may = |uri: &String| {
        offers::resource(edge, uri).is_some_and(|(spec, _)| offers::holds(edge, call, &spec.annotations.scope))
    };
    uris.into_iter().filter(may).collect()
}

/// Takes a place among those who listen.
pub(super) fn begin(edge: &Edge, who: &str) -> Result<Share, RpcError> {
    // Each keeps a request busy, and the rest is for those that end.
    let most = (edge.config.in_flight_max / 4).clamp(1, LISTENERS_MOST);
    edge.listeners.take(who, OF_ONE_MOST, most).ok_or_else(|| {
        let data = json!({"reason": "BUSY", "retry_after_seconds": 30});
        RpcError::new(429, "too many listen already; try again later").with_http(429).with_data(data)
    })
}

/// The service's stream of changes. It is opened again when it breaks or when something else is wanted; the old one goes when the
/// new one is there, so that nothing is missed between them.
struct Source<'a> {
    edge: &'a Edge,
    call: &'a Call<'a>,
    wanted: WatchRequest,
    stream: Option<Streaming<Bytes>>,
    /// The one that is being opened. A service may take its time: until something has changed, if it likes.
    opening: Option<BoxFuture<'a, Option<Streaming<Bytes>>>>,
    again: Option<Instant>,
    pause: Duration,
    /// Whether something may have changed while nothing was followed.
    missed: bool,
}

/// What a source has to say.
enum News {
    /// What is wanted is followed now.
    Opened,
    /// Something has changed.
    Changed(Changed),
}

impl<'a> Source<'a> {
    fn new(edge: &'a Edge, call: &'a Call<'a>, wanted: WatchRequest) -> Self {
        let opening = Some(open(edge, call, wanted.clone()).boxed());
        Self { edge, call, wanted, stream: None, opening, again: None, pause: PAUSE, missed: false }
    }

    /// Waits until the first stream is there, or cannot be had now.
    async fn opened(&mut self) {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            self.take(opened);
        }
    }

    fn take(&mut self, opened: Option<Streaming<Bytes>>) {
        match opened {
            Some(stream) => self.stream = Some(stream),
            None if self.stream.is_none() => self.later(),
            // The old one is still there.
            None => self.again = Some(Instant::now() + self.pause),
        }
    }

    fn later(&mut self) {
        self.missed = true;
        self.again = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MOST);
    }

    fn want(&mut self, wanted: WatchRequest) {
        self.wanted = wanted;
        self.again = None;
        self.opening = Some(open(self.edge, self.call, self.wanted.clone()).boxed());
    }

    /// The next news. Nothing is lost if it is not waited for.
    async fn next(&mut self) -> News {
        loop {
            let opening = async {
                match &mut self.opening {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                match &mut self.stream {
                    Some(stream) => stream.message().await.ok().flatten(),
                    None => std::future::pending().await,
                }
            };
            let again = async {
                match self.again {
                    Some(again) => tokio::time::sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = changed => match changed.map(Changed::decode) {
                    Some(Ok(changed)) => {
                        self.pause = PAUSE;
                        return News::Changed(changed);
                    }
                    Some(Err(_)) => {}
                    None => {
                        self.stream = None;
                        if self.opening.is_none() {
                            self.later();
                        }
                    }
                },
                opened = opening => {
                    self.opening = None;
                    let there = opened.is_some();
                    self.take(opened);
                    if there {
                        return News::Opened;
                    }
                }
                () = again => self.want(self.wanted.clone()),
            }
        }
    }
}

/// Follows what changes, to the end of whoever listens.
async fn follow(
    mut source: Source<'_>,
    mut watched: watch::Receiver<WatchRequest>,
    opened: impl Fn(&WatchRequest),
    told: impl Fn(Changed) -> Option<Vec<u8>>,
) -> Over {
    let Source { edge, call, .. } = source;
    let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let say = async |changed: Changed| match told(changed) {
        Some(message) => call.aside.say(message).await,
        None => true,
    };
    loop {
        tokio::select! {
            () = call.origin.closing.cancelled() => return Over::Ending,
            () = call.aside.closed() => return Over::Gone,
            _ = look.tick() => {
                if let Err(error) = call.caller.believe(edge, call.origin).await {
                    let error: crate::error::Error = error.into();
                    return Over::Token(error.message().to_owned());
                }
            }
            Ok(()) = watched.changed() => source.want(watched.borrow_and_update().clone()),
            news = source.next() => {
                let changes = match news {
                    News::Changed(changed) => vec![changed],
                    News::Opened => {
                        opened(&source.wanted);
                        // What changed while nothing was followed is not known, so it may be anything.
                        if std::mem::take(&mut source.missed) { all_of(source.wanted.clone()) } else { Vec::new() }
                    }
                };
                for changed in changes {
                    if !say(changed).await {
                        return Over::Gone;
                    }
                }
            }
        }
    }
}

/// A change of everything that is watched.
fn all_of(watched: WatchRequest) -> Vec<Changed> {
    let lists = [
        (watched.tools, ChangedList::Tools),
        (watched.prompts, ChangedList::Prompts),
        (watched.resources, ChangedList::Resources),
    ];
    let lists = lists.into_iter().filter(|(on, _)| *on).map(|(_, list)| What::List(list.into()));
    let uris = watched.uris.into_iter().map(What::Uri);
    lists.chain(uris).map(|what| Changed { what: Some(what) }).collect()
}

async fn open(edge: &Edge, call: &Call<'_>, wanted: WatchRequest) -> Option<Streaming<Bytes>> {
    let method = edge.annotations.watches()?;
    let request = outgoing_without_end(call, wanted.encode_to_vec().into())?;
    match edge.news_link.server_streaming(rpc::path(method).ok()?, request).await {
        Ok(stream) => Some(stream.into_inner()),
        Err(status) => {
            tracing::debug!(code = ?status.code(), message = status.message(), "what changes cannot be followed");
            None
        }
    }
}

/// A change as a notification.
fn news(changed: Changed, about: impl Fn(Map<String, Value>) -> Value) -> Option<Vec<u8>> {
    let (method, params) = match changed.what? {
        What::Uri(uri) => ("notifications/resources/updated", Map::from_iter([("uri".to_owned(), uri.into())])),
        What::List(list) => {
            let method = match ChangedList::try_from(list).ok()? {
                ChangedList::Unspecified => return None,
                ChangedList::Tools => "notifications/tools/list_changed",
                ChangedList::Prompts => "notifications/prompts/list_changed",
                ChangedList::Resources => "notifications/resources/list_changed",
            };
            (method, Map::new())
        }
    };
    Some(notification(method, &about(params)))
}
