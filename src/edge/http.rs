//! `POST /mcp`: from HTTP to one message, and from its answer back to HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::aside::{self, Aside};
use super::bearer::{self, Presented};
use super::challenge::{self, Challenge};
use super::client_address::{ClientAddress, client_address, is_proxy};
use super::dispatch::{self, Answer, Call, Carried};
use super::reply::Reply;
use super::session::{self, Begun};
use super::{Edge, approvals, batch, error, headers, news, places, stream};
use crate::error::Code;
use crate::identity::thumbprint::Thumbprint;
use crate::limit::{Exceeded, Subject};
use crate::listen::Connection;
use crate::mcp::code;
use crate::mcp::envelope::{self, EnvelopeError, Message, OwnedRequest, Received};
use crate::mcp::era::{self, Era, LEGACY, MODERN};
use crate::mcp::message::RpcError;
use crate::telemetry;

/// How much of a refused request's body is read away, and for how long.
const DRAIN_MAX: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a body may take to arrive.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Refuses requests that a browser was tricked into sending: a name that is not ours (DNS rebinding), or a page that is
/// not listed. A missing `Origin` is fine: programs send none. Before that, addresses that ask too often.
pub(super) async fn guard(State(edge): State<Arc<Edge>>, mut request: Request<Body>, next: Next) -> Response {
    let address = address(&edge, request.extensions().get::<Connection>(), request.headers());
    if let Err(exceeded) = edge.limits.request(address) {
        return after(request.into_body(), limited(&edge, address, &exceeded, None)).await;
    }
    request.extensions_mut().insert(ClientAddress(address));
    match refuse_stranger(&edge, &request) {
        Some(message) => {
            let status = StatusCode::FORBIDDEN;
            edge.refused(status, "STRANGER", address, None, message);
            after(request.into_body(), error::rpc(status, None, error::code_of(status), message)).await
        }
        None => next.run(request).await,
    }
}

fn refuse_stranger(edge: &Edge, request: &Request<Body>) -> Option<&'static str> {
    let connection = request.extensions().get::<Connection>();
    let remote = connection.and_then(Connection::remote);
    // Plain HTTP is for loopback and for declared proxies; whoever else gets here would send a token in the clear.
    if edge.config.is_in_the_clear()
        && !remote.is_some_and(|remote| is_proxy(remote.ip(), &edge.config.trusted_proxies))
    {
        return Some("plain HTTP is served to declared proxies only; call over HTTPS");
    }
    let allowed = &edge.config.allowed_clients;
    let within = |address: IpAddr| allowed.iter().any(|network| network.contains(&address));
    if !allowed.is_empty() && !address(edge, connection, request.headers()).is_some_and(within) {
        return Some("calls are not taken from this address");
    }
    if !host_allowed(edge, request.uri(), request.headers()) {
        return Some("this host name is not served here; it must be the one in public_url, or one of allowed_hosts");
    }
    // The page for approvals sends its form home, and looks itself where that came from.
    let at_home = approvals::is_page(request.uri().path());
    if let Some(origin) = request.headers().get(ORIGIN)
        && !at_home
        && !edge.config.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        return Some("this origin is not allowed to call; it must be one of allowed_origins");
    }
    None
}

/// The address that a request comes from, past the declared proxies.
pub(super) fn address(edge: &Edge, connection: Option<&Connection>, headers: &HeaderMap) -> Option<IpAddr> {
    let remote = connection.and_then(Connection::remote);
    client_address(remote, headers, &edge.config.trusted_proxies, edge.config.forwarded_by)
}

fn host_allowed(edge: &Edge, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), ..) => authority.as_str(),
        (None, Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return false,
    };
    let name = |host: &str| {
        host.rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(name, _)| name)
            .to_ascii_lowercase()
    };
    let host = name(host);
    let own = edge.config.public_url.host_str().map(str::to_ascii_lowercase);
    own.as_deref() == Some(&host) || edge.config.allowed_hosts.iter().any(|allowed| name(allowed) == host)
}

/// `GET /readyz`: whether the process takes work. Who shows a good token is told of each part by name.
pub(super) async fn readyz(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response {
    let (status, word) = edge.health.answer();
    if request.headers().contains_key(::http::header::AUTHORIZATION) {
        let (connection, headers) = (request.extensions().get::<Connection>(), request.headers());
        let (address, certificate) = (address(&edge, connection, headers), certificate(connection));
        // A balancer's probe is never refused for a token: it is told what a stranger is told. A flood is, as elsewhere.
        if edge.limits.request(address).is_ok()
            && let Presented::Token(..) = bearer::present(&edge, headers, address, certificate.as_ref()).await
        {
            return (status, axum::Json(edge.health.report())).into_response();
        }
    }
    (status, word).into_response()
}

/// `POST /mcp`
pub(super) async fn mcp(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let address = parts.extensions.get::<ClientAddress>().and_then(|known| known.0);
    if let Err(exceeded) = edge.limits.listens(address) {
        let id = read_away(body).await;
        return limited(&edge, address, &exceeded, id.as_deref());
    }
    let certificate = certificate(parts.extensions.get::<Connection>());
    let (bearer, principal) = match bearer::present(&edge, &parts.headers, address, certificate.as_ref()).await {
        Presented::Token(bearer, principal) => (bearer, principal),
        refused => {
            let id = read_away(body).await;
            return not_presented(&edge, address, refused, id.as_deref());
        }
    };
    let who = principal.id();
    if let Some(refusal) = refuse_encoding(&parts.headers) {
        edge.refused(refusal.status(), "ENCODING_REFUSED", address, Some(who), "neither plain nor JSON");
        return after(body, refusal).await;
    }
    let body = match read(body, edge.config.body_max).await {
        Ok(body) => body,
        Err(refusal) => {
            edge.refused(refusal.status(), "BODY_REFUSED", address, Some(who), "too large, too slow or broken off");
            return refusal;
        }
    };
    let begun = match session_of(&edge, principal.id(), &parts.headers) {
        Ok(begun) => begun,
        Err(refusal) => return *refusal,
    };
    let closing = closing(parts.extensions.get::<Connection>());
    let until = parts.extensions.get::<Connection>().and_then(Connection::until);
    let (aside, carried) = (Aside::none(), Carried::Http(&parts.headers, begun));
    let call = Call {
        bearer: &bearer,
        principal: &principal,
        address,
        certificate,
        carried,
        aside: &aside,
        closing: &closing,
        until,
    };
    let request = match envelope::read(&body) {
        Ok(Received::One(Message::Request(request))) => OwnedRequest::from(request),
        Ok(Received::Many(messages)) if has_batches(&parts.headers) => {
            return match batch::answer(&edge, messages, &call, &batch::GivenUp::new()).await {
                Some(Reply::Message(body)) => error::json_response(StatusCode::OK, body),
                Some(Reply::TokenRefused(why)) => challenge::refuse(&edge, &Challenge::Invalid(&why), None),
                None => StatusCode::ACCEPTED.into_response(),
            };
        }
        // No core hears of it, so it is counted here.
        other => {
            if let Err(exceeded) = edge.limits.other(Subject::of(principal.id())).await {
                return limited(&edge, address, &exceeded, None);
            }
            let refused = |wrong: &EnvelopeError<'_>| {
                edge.refused(StatusCode::BAD_REQUEST, "MESSAGE_MALFORMED", address, Some(who), "no message of MCP");
                malformed(wrong)
            };
            return match other {
                Err(wrong) => refused(&wrong),
                Ok(Received::Many(_)) => refused(&EnvelopeError::Batch),
                Ok(Received::One(_)) if let Err(wrong) = check_revision(&parts.headers) => self::refused(&wrong, None),
                // None of the notifications that exist asks anything of a server that keeps no state.
                Ok(Received::One(Message::Notification { .. })) => StatusCode::ACCEPTED.into_response(),
                Ok(Received::One(Message::Response(response))) if !is_modern(&parts.headers) => {
                    answered(&edge, principal.id(), &response).await
                }
                Ok(Received::One(_)) => error::rpc(
                    StatusCode::BAD_REQUEST,
                    None,
                    code::INVALID_REQUEST,
                    "this revision of MCP has no responses of clients",
                ),
            };
        }
    };
    // Nobody needs the bytes any more, and the work may take long.
    drop(body);
    let id = request.id().to_owned();
    // Only a whole request takes a place: a slow body holds nothing but its own connection.
    let Some(place) = places::enter(&edge, who).await else {
        edge.refused(StatusCode::TOO_MANY_REQUESTS, "BUSY", address, Some(who), "too many requests at once");
        return error::busy(&id);
    };
    let (aside, ear) = if accepts_events(&parts.headers) { Aside::new(&id) } else { (Aside::none(), aside::deaf()) };
    let (is_modern, who) = (is_modern(&parts.headers), who.to_owned());
    let work = {
        let edge = Arc::clone(&edge);
        async move {
            let _place = place;
            let carried = Carried::Http(&parts.headers, begun);
            let (bearer, principal) = (&bearer, &principal);
            let call =
                Call { bearer, principal, address, certificate, carried, aside: &aside, closing: &closing, until };
            dispatch::dispatch(&edge, &request.as_request(), &call).await
        }
    };
    // Closing the connection gives up a modern request (2026-07-28, Streamable HTTP), which the work's end with its response
    // does by itself. It does not give up a legacy one (2025-11-25, "Streamable HTTP"), so that one works by itself.
    let work: stream::Work = if is_modern { work.boxed() } else { stream::by_itself(work) };
    let about = stream::About { edge, id, address, who };
    stream::respond(about, work, ear).await
}

/// The answer to a request, where nothing was said before it.
pub(super) fn respond(about: &stream::About, answer: Result<Answer, RpcError>) -> Response {
    let stream::About { edge, id, address, who } = about;
    let (address, who) = (*address, Some(who.as_str()));
    match answer {
        Ok(Answer::Body(body)) => error::json_response(StatusCode::OK, body),
        Ok(Answer::Session(body, session)) => {
            let mut response = error::json_response(StatusCode::OK, body);
            if let Ok(session) = HeaderValue::try_from(session) {
                response.headers_mut().insert(SESSION, session);
            }
            response
        }
        Ok(Answer::Limited(exceeded)) => limited(edge, address, &exceeded, Some(id)),
        Ok(Answer::Challenge(scope)) => {
            edge.refused(StatusCode::FORBIDDEN, "SCOPE_MISSING", address, who, &scope);
            challenge::refuse(edge, &Challenge::Scope(&scope), Some(id))
        }
        Ok(Answer::TokenRefused(why)) => {
            edge.refused(StatusCode::UNAUTHORIZED, "TOKEN_REFUSED", address, who, &why);
            challenge::refuse(edge, &Challenge::Invalid(&why), Some(id))
        }
        Err(wrong) => {
            let text = format!("JSON-RPC error {}", wrong.code);
            edge.refused(StatusCode::OK, "PROTOCOL_ERROR", address, who, &text);
            refused(&wrong, Some(id))
        }
    }
}

/// The header that names a session of a legacy client.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The session that a legacy request names. One that is unknown is answered so that the client begins another.
fn session_of(edge: &Edge, who: &str, headers: &HeaderMap) -> Result<Option<Begun>, Box<Response>> {
    let Some(id) = headers.get(SESSION).filter(|_| edge.has_sessions() && !is_modern(headers)) else {
        return Ok(None);
    };
    let begun = id.to_str().ok().and_then(|id| session::read(&edge.sealed, who, id));
    begun.map(Some).ok_or_else(|| {
        let status = StatusCode::NOT_FOUND;
        let text = "this session is unknown or over; begin another one by `initialize`";
        Box::new(error::rpc(status, None, error::code_of(status), text))
    })
}

/// A revision that is named must be one that is served (Streamable HTTP). Of a request its own reading says so.
fn check_revision(headers: &HeaderMap) -> Result<(), RpcError> {
    headers::one(headers, "mcp-protocol-version").and_then(|named| named.map_or(Ok(()), era::check))
}

/// Takes a legacy client's answer to a question of ours.
async fn answered(edge: &Edge, who: &str, response: &envelope::Response<'_>) -> Response {
    if edge.questions.take(&edge.sealed, who, response).await {
        return StatusCode::ACCEPTED.into_response();
    }
    let text = "this is no answer to a question that this server has asked and still waits for";
    error::rpc(StatusCode::BAD_REQUEST, None, code::INVALID_REQUEST, text)
}

fn is_modern(headers: &HeaderMap) -> bool {
    headers.get("mcp-protocol-version").is_some_and(|revision| revision.as_bytes() == MODERN.as_bytes())
}

/// Whether a client takes a stream of events.
fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|accept| {
        accept.to_str().is_ok_and(|accept| {
            accept.split(',').any(|kind| {
                kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
            })
        })
    })
}

/// Whether a client of that header may send batches. One without it is taken for one of 2025-03-26.
fn has_batches(headers: &HeaderMap) -> bool {
    headers.get("mcp-protocol-version").is_none_or(|revision| {
        LEGACY.into_iter().any(|known| known.as_bytes() == revision.as_bytes() && Era::Legacy(known).has_batches())
    })
}

/// What ends with the connection.
fn closing(connection: Option<&Connection>) -> CancellationToken {
    connection.map_or_else(CancellationToken::new, |connection| connection.closing().clone())
}

/// `GET /mcp` without an upgrade: the stream on which a legacy client hears what changes.
pub(super) async fn listen(edge: Arc<Edge>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let address = parts.extensions.get::<ClientAddress>().and_then(|known| known.0);
    if edge.whole || !edge.server.offers.news() || !accepts_events(&parts.headers) || is_modern(&parts.headers) {
        return error::method_not_allowed().await;
    }
    if let Err(exceeded) = edge.limits.listens(address) {
        return limited(&edge, address, &exceeded, None);
    }
    let certificate = certificate(parts.extensions.get::<Connection>());
    let (bearer, principal) = match bearer::present(&edge, &parts.headers, address, certificate.as_ref()).await {
        Presented::Token(bearer, principal) => (bearer, principal),
        refused => return not_presented(&edge, address, refused, None),
    };
    if let Err(wrong) = check_revision(&parts.headers) {
        return refused(&wrong, None);
    }
    let begun = match session_of(&edge, principal.id(), &parts.headers) {
        Ok(Some(begun)) => begun,
        Ok(None) => {
            let (status, text) = (StatusCode::BAD_REQUEST, "send the Mcp-Session-Id that `initialize` gave");
            return error::rpc(status, None, error::code_of(status), text);
        }
        Err(refusal) => return *refusal,
    };
    if let Err(exceeded) = edge.limits.other(Subject::of(principal.id())).await {
        return limited(&edge, address, &exceeded, None);
    }
    let closing = closing(parts.extensions.get::<Connection>());
    let until = parts.extensions.get::<Connection>().and_then(Connection::until);
    let session = parts.headers.get(SESSION).map(crate::digest::sha256_hex).unwrap_or_default();
    if edge.subscriptions.is_followed(&session) {
        // 2025-11-25, "Streamable HTTP": a message goes out on one stream.
        let (status, text) = (StatusCode::CONFLICT, "this session has a stream already");
        return error::rpc(status, None, error::code_of(status), text);
    }
    let listening = match news::begin(&edge, principal.id()) {
        Ok(listening) => listening,
        Err(busy) => return refused(&busy, None),
    };
    stream::open(move |aside| async move {
        let carried = Carried::Http(&parts.headers, Some(begun));
        let (bearer, principal) = (&bearer, &principal);
        let call = Call { bearer, principal, address, certificate, carried, aside: &aside, closing: &closing, until };
        let _listening = listening;
        if let Some(key) = news::key(&call) {
            drop(news::tell(&edge, &call, &key).await);
        }
    })
}

/// The thumbprint of the certificate that the connection was made with.
pub(super) fn certificate(connection: Option<&Connection>) -> Option<Thumbprint> {
    connection.and_then(Connection::certificate_sha256).map(Thumbprint::from)
}

/// The refusal of a request that is over a limit of the edge.
pub(super) fn limited(edge: &Edge, address: Option<IpAddr>, exceeded: &Exceeded, id: Option<&RawValue>) -> Response {
    let limit = exceeded.limit().name();
    telemetry::record_limited("edge", limit);
    edge.refused(StatusCode::TOO_MANY_REQUESTS, exceeded.limit().reason(), address, None, limit);
    if let Some(left_out) = edge.limits.log_stranger() {
        tracing::info!(limit, address = address.map(tracing::field::display), left_out, "a request is over a limit");
    }
    error::limited(exceeded, id)
}

/// The refusal of a caller without a good token.
pub(super) fn not_presented(
    edge: &Edge,
    address: Option<IpAddr>,
    presented: Presented,
    id: Option<&RawValue>,
) -> Response {
    match presented {
        Presented::Refused(refused) if refused.code() == Code::Unavailable => {
            edge.refused(StatusCode::SERVICE_UNAVAILABLE, refused.reason(), address, None, refused.message());
            error::unavailable(refused.message(), refused.wait(), id)
        }
        Presented::Refused(refused) => {
            edge.limits.bad_token(address);
            edge.refused(StatusCode::UNAUTHORIZED, refused.reason(), address, None, refused.message());
            if let Some(left_out) = edge.limits.log_stranger() {
                tracing::info!(reason = refused.reason(), why = refused.message(), left_out, "a token was refused");
            }
            challenge::refuse(edge, &Challenge::Invalid(refused.message()), id)
        }
        Presented::Malformed => {
            edge.refused(
                StatusCode::BAD_REQUEST,
                "AUTHORIZATION_MALFORMED",
                address,
                None,
                "a header that cannot be read",
            );
            challenge::refuse(edge, &Challenge::Malformed, id)
        }
        Presented::Nothing | Presented::Token(..) => {
            edge.refused(StatusCode::UNAUTHORIZED, "TOKEN_MISSING", address, None, "no token");
            challenge::refuse(edge, &Challenge::Missing, id)
        }
    }
}

/// Answers once a small body has been read away.
async fn after(body: Body, response: Response) -> Response {
    drop(read_away(body).await);
    response
}

/// Reads a small body away: some HTTP/2 clients lose an answer that comes before they have sent all of theirs. A large or
/// slow one is not waited for. The id of the request in it, by which a client knows what the refusal is about.
async fn read_away(body: Body) -> Option<Box<RawValue>> {
    let read = tokio::time::timeout(DRAIN_TIMEOUT, Limited::new(body, DRAIN_MAX).collect()).await;
    let bytes = read.ok()?.ok()?.to_bytes();
    match envelope::parse(&bytes) {
        Ok(Message::Request(request)) => Some(request.id.to_owned()),
        _ => None,
    }
}

fn refused(wrong: &RpcError, id: Option<&RawValue>) -> Response {
    let status = StatusCode::from_u16(wrong.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = error::json_response(status, wrong.to_body(id));
    let wait = wrong.data.as_ref().and_then(|data| data.get("retry_after_seconds")?.as_u64());
    if let (StatusCode::TOO_MANY_REQUESTS, Some(wait)) = (status, wait) {
        response.headers_mut().insert(::http::header::RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

fn malformed(wrong: &EnvelopeError<'_>) -> Response {
    let (code, id) = error::of_envelope(wrong);
    error::rpc(StatusCode::BAD_REQUEST, id, code, wrong.to_string())
}

/// Only JSON as it is: a compressed body could grow without bounds.
fn refuse_encoding(headers: &HeaderMap) -> Option<Response> {
    let refuse = |message| {
        Some(error::rpc(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            None,
            error::code_of(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            message,
        ))
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return refuse("compressed bodies are not taken; send plain JSON");
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        None
    } else {
        refuse("send `Content-Type: application/json`")
    }
}

async fn read(body: Body, most: usize) -> Result<Vec<u8>, Response> {
    let status = |status: StatusCode, message: String| error::rpc(status, None, error::code_of(status), message);
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(wrong)) if wrong.is::<LengthLimitError>() => {
            Err(status(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes")))
        }
        Ok(Err(_)) => Err(status(StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Err(_) => Err(status(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive".to_owned())),
    }
}
