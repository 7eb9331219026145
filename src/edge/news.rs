//! News of what changes behind the edge: lists and single resources. A modern client asks for them by a request that lasts
//! (`subscriptions/listen`); a legacy one names resources (`resources/subscribe`) and hears of them on its own channel, or on
//! the stream that it opens by GET. What a legacy client over HTTP has named is kept by the process that it told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use prost::Message as _;
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Edge;
use super::dispatch::{Answer, Call, Carried};
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
/// How often the token of who listens is looked at again.
const LOOK: Duration = Duration::from_secs(25);
/// How long the service may take to begin.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited before a stream that broke is opened again, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// What legacy clients watch, by who they are.
#[derive(Debug)]
pub(super) struct Subscriptions(Cache<String, Arc<Subscription>>);

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

/// A place among those who listen; each keeps one of the edge's requests busy.
pub(super) struct Listening<'e>(&'e Edge);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self(Cache::new(CLIENTS_MOST))
    }

    fn of(&self, key: &str) -> Arc<Subscription> {
        let made = self.0.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        made.unwrap_or_else(|never| match never {})
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
        Carried::Channel { number, .. } => Some(format!("channel:{number}")),
        Carried::Http(_, None) | Carried::Itself => None,
    }
}

/// `resources/subscribe` and `resources/unsubscribe`.
pub(super) async fn subscribe(edge: &Edge, call: &Call<'_>, uri: &str, watched: bool) -> Result<Value, RpcError> {
    let wrong = |text: &'static str| RpcError::new(code::INVALID_PARAMS, text);
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
    let _listening = begin(edge)?;
    let offered = edge.server.offers;
    let watch = WatchRequest {
        tools: asked.tools_list_changed && offered.tools_news,
        prompts: asked.prompts_list_changed && offered.prompts_news,
        resources: asked.resources_list_changed && offered.resources_news,
        uris: if offered.resource_news { asked.resource_subscriptions } else { Vec::new() },
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
    let opened = tokio::time::timeout(OPEN_PATIENCE, open(edge, call, &watch)).await.unwrap_or_default();
    let first = about(Map::from_iter([("notifications".to_owned(), accepted.into())]));
    if !call.aside.say(notification("notifications/subscriptions/acknowledged", &first)).await {
        return Err(RpcError::new(code::INTERNAL_ERROR, "the client went away"));
    }
    let (_keep, watched) = watch::channel(watch);
    match follow(edge, call, watched, opened, |_| {}, |changed| news(changed, about)).await {
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
    let subscription = edge.subscriptions.of(key);
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
    tokio::select! {
        over = follow(edge, call, watched, None, opened, |changed| news(changed, Value::Object)) => over,
        over = changes => over,
    }
}

/// Takes a place among those who listen.
pub(super) fn begin(edge: &Edge) -> Result<Listening<'_>, RpcError> {
    use std::sync::atomic::Ordering;
    // A quarter of the places: the rest is for requests that end.
    let most = (edge.config.in_flight_max / 4).max(1);
    if edge.listening.fetch_add(1, Ordering::Relaxed) >= most {
        edge.listening.fetch_sub(1, Ordering::Relaxed);
        let data = json!({"reason": "BUSY", "retry_after_seconds": 30});
        return Err(RpcError::new(429, "too many listen already; try again later").with_data(data));
    }
    Ok(Listening(edge))
}

/// Follows what changes, opening the stream again when it breaks or something else is wanted.
async fn follow(
    edge: &Edge,
    call: &Call<'_>,
    mut watched: watch::Receiver<WatchRequest>,
    mut stream: Option<tonic::Streaming<bytes::Bytes>>,
    opened: impl Fn(&WatchRequest),
    told: impl Fn(Changed) -> Option<Vec<u8>>,
) -> Over {
    let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut pause, mut again, mut broke) = (PAUSE, Instant::now(), false);
    let say = async |changed: Changed| match told(changed) {
        Some(message) => call.aside.say(message).await,
        None => true,
    };
    if stream.is_some() {
        watched.mark_unchanged();
    }
    loop {
        if stream.is_none() && Instant::now() >= again {
            let wanted = watched.borrow_and_update().clone();
            stream = open(edge, call, &wanted).await;
            if stream.is_none() {
                again = Instant::now() + pause;
                pause = (pause * 2).min(PAUSE_MOST);
            } else {
                opened(&wanted);
                // What changed while nothing was followed is not known, so it may be anything.
                let missed = if std::mem::take(&mut broke) { all_of(wanted) } else { Vec::new() };
                for changed in missed {
                    if !say(changed).await {
                        return Over::Gone;
                    }
                }
            }
        }
        tokio::select! {
            () = call.closing.cancelled() => return Over::Ending,
            () = call.aside.closed() => return Over::Gone,
            Ok(()) = watched.changed() => {
                // The old stream goes when the new one is there, so that nothing is missed between them.
                let wanted = watched.borrow_and_update().clone();
                match tokio::time::timeout(OPEN_PATIENCE, open(edge, call, &wanted)).await {
                    Ok(Some(new)) => {
                        while let Some(Some(changed)) = next(&mut stream).now_or_never() {
                            if !say(changed).await {
                                return Over::Gone;
                            }
                        }
                        stream = Some(new);
                        opened(&wanted);
                    }
                    _ => (stream, again, broke) = (None, Instant::now() + pause, true),
                }
            }
            () = tokio::time::sleep_until(again), if stream.is_none() => {}
            changed = next(&mut stream) => match changed {
                Some(changed) => {
                    pause = PAUSE;
                    if !say(changed).await {
                        return Over::Gone;
                    }
                }
                None => (stream, again, broke) = (None, Instant::now() + pause, true),
            },
            _ = look.tick() => {
                let verified = edge.verifier.verify(call.bearer, call.address, call.certificate.as_ref()).await;
                if let Err(error) = verified {
                    let error: crate::error::Error = error.into();
                    return Over::Token(error.message().to_owned());
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

async fn open(edge: &Edge, call: &Call<'_>, wanted: &WatchRequest) -> Option<tonic::Streaming<bytes::Bytes>> {
    let method = edge.annotations.watches()?;
    let request = outgoing_without_end(call, wanted.encode_to_vec().into())?;
    match edge.link.server_streaming(rpc::path(method).ok()?, request).await {
        Ok(stream) => Some(stream.into_inner()),
        Err(status) => {
            tracing::debug!(code = ?status.code(), message = status.message(), "what changes cannot be followed");
            None
        }
    }
}

/// The next change; it never comes where there is no stream. None where the stream has ended.
async fn next(stream: &mut Option<tonic::Streaming<bytes::Bytes>>) -> Option<Changed> {
    match stream {
        None => std::future::pending().await,
        Some(stream) => Changed::decode(stream.message().await.ok()??).ok(),
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
