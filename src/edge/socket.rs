//! MCP over a WebSocket (RFC 6455): one text frame is one message, both ways.
//!
//! The token comes in the `Authorization` header of the upgrade, or in the first message, `{"token": "…"}`, from clients that
//! can set no header. A later one of the same kind renews it. Until a good token is there nothing else is looked at. Calls
//! run side by side, so answers come in the order in which they are ready. `notifications/cancelled` gives up a call of
//! the same socket. A socket ends with its token, with its peer's silence, and with the service, each time by a close frame
//! that says why.
//!
//! | close | means |
//! | --- | --- |
//! | 1001 | the service ends, or the connection is old: connect again |
//! | 1003, 1009 | a binary frame; a message that is too large |
//! | 1013 | what tokens are verified by does not answer: come back later |
//! | 4001 | the token is missing, refused or at its end |
//! | 4002 | the first message is no token |

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, StatusCode};
use axum::body::Body;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, MissedTickBehavior};

use super::bearer::{self, Presented};
use super::caller::{Caller, Origin};
use super::client_address::ClientAddress;
use super::conversation::Conversation;
use super::reply::{self, Reply};
use super::{Edge, error, http};
use crate::error::Code;
use crate::identity::bearer::Bearer;
use crate::listen::Connection;
use crate::mcp::envelope::{self, Message};
use crate::telemetry::OpenStream;

/// How long the first message may take, if it must hold the token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the other end is asked whether it is there, and the token whether it is still good.
const PING: Duration = Duration::from_secs(25);
/// How long what is listened to may take to say that it ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the other end may be silent.
const SILENT: Duration = Duration::from_secs(75);
/// The subprotocol that some clients ask for.
const SUBPROTOCOL: &str = "mcp";

const GOING_AWAY: u16 = 1001;
const UNSUPPORTED: u16 = 1003;
const TOO_LARGE: u16 = 1009;
const TRY_AGAIN_LATER: u16 = 1013;
const UNAUTHORISED: u16 = 4001;
const MALFORMED: u16 = 4002;

/// Why a socket ends: the close frame's code and words.
type Close = (u16, String);

/// A socket that has a caller.
struct Session {
    edge: Arc<Edge>,
    conversation: Conversation,
}

/// The message that holds a token, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenMessage {
    token: String,
}

/// `GET /ws`, and `GET /mcp` with an upgrade.
pub(super) async fn upgrade(
    State(edge): State<Arc<Edge>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request<Body>,
) -> Response {
    if edge.whole {
        return error::whole();
    }
    let Ok(upgrade) = upgrade else {
        // A GET without an upgrade opens a stream of events, where there is anything to hear.
        return if request.uri().path().ends_with("/ws") {
            let status = StatusCode::UPGRADE_REQUIRED;
            let text = "this is a WebSocket endpoint: connect over HTTP/1.1 with `Upgrade: websocket`";
            error::rpc(status, None, error::code_of(status), text)
        } else {
            http::listen(edge, request).await
        };
    };
    let address = request.extensions().get::<ClientAddress>().and_then(|known| known.0);
    if let Err(exceeded) = edge.limits.listens(address) {
        return http::limited(&edge, address, &exceeded, None);
    }
    // A channel outlives its request, so no deadline of that request counts.
    let origin = Origin { until: None, ..Origin::of(request.extensions().get::<Connection>(), address) };
    let caller = match bearer::present(&edge, request.headers(), &origin).await {
        Presented::Token(caller) => Some(Arc::new(caller)),
        Presented::Nothing => None,
        refused => return http::not_presented(&edge, address, refused, None),
    };
    let (origin, most) = (Arc::new(origin), edge.config.body_max);
    upgrade.protocols([SUBPROTOCOL]).max_message_size(most).max_frame_size(most).on_upgrade(async move |mut socket| {
        let stream = OpenStream::count("socket");
        let (code, reason) = match first(&edge, &mut socket, &origin, caller).await {
            Ok(caller) => Session::new(edge, origin, caller).run(&mut socket).await,
            Err(close) => close,
        };
        // Who has gone needs no farewell.
        let farewell = Frame::Close(Some(CloseFrame { code, reason: reason.into() }));
        let said = async {
            if socket.send(farewell).await.is_ok() {
                while socket.recv().await.is_some() {}
            }
        };
        tokio::time::timeout(Duration::from_secs(2), said).await.unwrap_or_default();
        drop(stream);
    })
}

/// Waits for a token, unless the upgrade had one.
async fn first(
    edge: &Edge,
    socket: &mut WebSocket,
    origin: &Origin,
    caller: Option<Arc<Caller>>,
) -> Result<Arc<Caller>, Close> {
    if let Some(caller) = caller {
        return Ok(caller);
    }
    let refused = |status, reason, code, text: &str| {
        edge.refused(status, reason, origin.address, None, text);
        (code, text.to_owned())
    };
    let text = async {
        loop {
            match socket.recv().await {
                Some(Ok(Frame::Text(text))) => return Some(text),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(Frame::Binary(_) | Frame::Close(_)) | Err(_)) | None => return None,
            }
        }
    };
    let text = tokio::select! {
        () = origin.closing.cancelled() => return Err(going_away()),
        text = tokio::time::timeout(TOKEN_TIMEOUT, text) => text.map_err(|_| {
            refused(StatusCode::UNAUTHORIZED, "TOKEN_MISSING", UNAUTHORISED, "no token came in time")
        })?,
    };
    let said = text.and_then(|text| serde_json::from_str::<TokenMessage>(&text).ok());
    let Some(TokenMessage { token }) = said else {
        let text = "the first message must be {\"token\": \"…\"}, unless the upgrade had an Authorization header";
        return Err(refused(StatusCode::BAD_REQUEST, "TOKEN_MALFORMED", MALFORMED, text));
    };
    verified(edge, &token, origin).await
}

/// Verifies a token that came in a message.
async fn verified(edge: &Edge, token: &str, origin: &Origin) -> Result<Arc<Caller>, Close> {
    let Some(bearer) = Bearer::from_authorization(&format!("Bearer {token}")) else {
        let text = "the token cannot be one";
        edge.refused(StatusCode::BAD_REQUEST, "TOKEN_MALFORMED", origin.address, None, text);
        return Err((MALFORMED, text.to_owned()));
    };
    let caller = Caller::of(edge, bearer, origin).await;
    caller.map(Arc::new).map_err(|error| not_verified(edge, origin.address, error.into()))
}

fn not_verified(edge: &Edge, address: Option<IpAddr>, error: crate::error::Error) -> Close {
    let later = error.code() == Code::Unavailable;
    let status = if later { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNAUTHORIZED };
    edge.refused(status, error.reason(), address, None, error.message());
    if !later {
        edge.limits.bad_token(address);
    }
    (if later { TRY_AGAIN_LATER } else { UNAUTHORISED }, short(error.message()))
}

fn going_away() -> Close {
    (GOING_AWAY, "the connection is closed in order; connect again".to_owned())
}

/// As much as a close frame has room for (RFC 6455, section 5.5).
fn short(text: &str) -> String {
    text.get(..text.floor_char_boundary(120)).unwrap_or_default().to_owned()
}

impl Session {
    fn new(edge: Arc<Edge>, origin: Arc<Origin>, caller: Arc<Caller>) -> Self {
        let conversation = Conversation::new(Arc::clone(&edge), "websocket", origin, caller);
        Self { edge, conversation }
    }

    /// Serves the socket to its end; why it ends.
    async fn run(mut self, socket: &mut WebSocket) -> Close {
        let closing = self.conversation.origin().closing.clone();
        let mut tick = tokio::time::interval(PING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let done: Result<(), Close> = tokio::select! {
                () = closing.cancelled() => {
                    self.finish(socket).await;
                    // What is listened to ends with the service, and says so.
                    drop(tokio::time::timeout(LAST_WORDS, self.end(socket)).await);
                    return going_away();
                }
                reply = self.conversation.next() => tell(socket, reply).await,
                frame = socket.recv(), if self.conversation.has_room() => {
                    heard = Instant::now();
                    match frame {
                        Some(Ok(Frame::Text(text))) => self.message(socket, text).await,
                        Some(Ok(Frame::Binary(_))) => Err((UNSUPPORTED, "messages are text".to_owned())),
                        Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => Ok(()),
                        Some(Ok(Frame::Close(_))) | None => Err((1000, String::new())),
                        Some(Err(_)) => Err((TOO_LARGE, "a frame that cannot be taken, or a message that is too large".to_owned())),
                    }
                }
                _ = tick.tick() => self.look(socket, heard).await,
            };
            if let Err(close) = done {
                // What was begun is answered, unless nobody is there any more.
                if close.0 != 1000 {
                    self.finish(socket).await;
                }
                return close;
            }
        }
    }

    /// Whether the other end is still there, and its token still good.
    async fn look(&mut self, socket: &mut WebSocket, heard: Instant) -> Result<(), Close> {
        if heard.elapsed() > SILENT && self.conversation.is_idle() {
            return Err((GOING_AWAY, "nothing was heard for a while".to_owned()));
        }
        self.believe().await?;
        socket.send(Frame::Ping(bytes::Bytes::new())).await.map_err(|_| gone())
    }

    /// Looks at the token again: a socket does not outlive it.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "what runs is not Sync, so a shared reference cannot be sent")]
    async fn believe(&mut self) -> Result<(), Close> {
        let (caller, origin) = (self.conversation.caller(), self.conversation.origin());
        let believed = caller.believe(&self.edge, origin).await;
        believed.map_err(|error| not_verified(&self.edge, origin.address, error.into()))
    }

    async fn message(&mut self, socket: &mut WebSocket, text: Utf8Bytes) -> Result<(), Close> {
        if let Ok(TokenMessage { token }) = serde_json::from_str(&text) {
            return self.renew(&token).await;
        }
        let address = self.conversation.origin().address;
        if let Err(exceeded) = self.edge.limits.request(address) {
            let id = readable_id(&text);
            let body = reply::limited(&self.edge, address, &exceeded, id.as_deref());
            return send(socket, body).await;
        }
        self.believe().await?;
        self.conversation.take(text.into()).await;
        Ok(())
    }

    /// Takes a new token of the same caller.
    async fn renew(&mut self, token: &str) -> Result<(), Close> {
        let caller = verified(&self.edge, token, self.conversation.origin()).await?;
        if caller.principal.id() != self.conversation.caller().principal.id() {
            let text = "the new token is another caller's; open another connection for it";
            self.edge.refused(
                StatusCode::UNAUTHORIZED,
                "TOKEN_OF_ANOTHER",
                self.conversation.origin().address,
                None,
                text,
            );
            return Err((UNAUTHORISED, text.to_owned()));
        }
        self.conversation.renew(caller);
        Ok(())
    }

    /// Waits for the end of what does not end by itself.
    async fn end(&mut self, socket: &mut WebSocket) {
        while !self.conversation.is_over() {
            let reply = self.conversation.next().await;
            if tell(socket, reply).await.is_err() {
                return;
            }
        }
    }

    /// Answers what runs, and begins nothing more.
    async fn finish(&mut self, socket: &mut WebSocket) {
        while !self.conversation.is_idle() {
            let reply = self.conversation.next().await;
            if tell(socket, reply).await.is_err_and(|(code, _)| code == 1000) {
                return;
            }
        }
    }
}

async fn tell(socket: &mut WebSocket, reply: Option<Reply>) -> Result<(), Close> {
    match reply {
        Some(Reply::Message(body)) => send(socket, body).await,
        Some(Reply::TokenRefused(why)) => Err((UNAUTHORISED, short(&why))),
        None => Ok(()),
    }
}

fn gone() -> Close {
    (1000, String::new())
}

async fn send(socket: &mut WebSocket, body: Vec<u8>) -> Result<(), Close> {
    // INVARIANT: what is sent was made by a JSON serializer, so it is UTF-8.
    let text = String::from_utf8(body).unwrap_or_default();
    socket.send(Frame::Text(text.into())).await.map_err(|_| gone())
}

/// The id of a request, if it has one that can be read.
fn readable_id(text: &str) -> Option<Box<RawValue>> {
    match envelope::parse(text.as_bytes()) {
        Ok(Message::Request(request)) => Some(request.id.to_owned()),
        _ => None,
    }
}
