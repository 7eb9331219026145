//! The page on which a person decides on a change that waits, under a login of their own.
//!
//! Three requests: the link sends the browser to the identity provider, the provider sends it back, and the form says yes
//! or no. The edge keeps nothing between them: what must be kept is sealed, in a cookie on the way to the provider and in
//! the form on the way back, each bound to the other. It decides nothing either: the core is sent the person's own access
//! token and the ID token of this very login, and checks both.

pub mod login;
mod page;

use std::sync::Arc;

use ::http::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, StatusCode};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use serde::{Deserialize, Serialize};

use tokio_util::sync::CancellationToken;

use super::aside::Aside;
use super::caller::{Caller, Origin};
use super::dispatch::{self, Call};
use super::{Edge, http, rpc};
use crate::clock::Clock;
use crate::grpc::status::Refusal;
use crate::identity::bearer::Bearer;
use crate::identity::oidc::TokenError;
use crate::listen::Connection;
use crate::pb::mcp::v1 as pb;
use crate::seal::Seal;

use login::Login;
use page::Shown;

/// How long a login may take.
const LOGIN_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// How long the form may be looked at. The core wants a login of the last five minutes.
const DECIDE_WITHIN: SignedDuration = SignedDuration::from_secs(300);
/// The most bytes of a form: it carries two tokens.
const FORM_MAX: usize = 64 * 1024;
/// The bytes of what nobody may guess.
const SECRET_LEN: usize = 24;

/// The page's own parts.
#[derive(Debug)]
pub struct Approvals {
    login: Login,
    seal: Seal,
    clock: Clock,
}

/// What is kept in a cookie while the person is at the provider.
#[derive(Serialize, Deserialize)]
struct Away {
    id: String,
    state: String,
    nonce: String,
    verifier: String,
    until: Timestamp,
}

/// What is kept in the form while the person looks at it.
#[derive(Serialize, Deserialize)]
struct Here {
    id: String,
    /// What the browser's cookie must hold.
    seat: String,
    access_token: String,
    id_token: String,
    until: Timestamp,
}

/// Where a request of the browser's comes from, and what it carries.
struct Browser {
    connection: Option<Connection>,
    headers: HeaderMap,
}

/// Who has logged in.
struct Person {
    caller: Caller,
    origin: Origin,
}

/// A page instead of what was asked for.
struct Refused(StatusCode, String);

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into())
    }
}

impl Approvals {
    /// Puts the parts together.
    pub fn new(login: Login, seal: Seal, clock: Clock) -> Self {
        Self { login, seal, clock }
    }

    fn seal<T: Serialize>(&self, what: &str, value: &T) -> String {
        URL_SAFE_NO_PAD.encode(self.seal.close(what.as_bytes(), &serde_json::to_vec(value).unwrap_or_default()))
    }

    fn open<T: for<'de> Deserialize<'de>>(&self, what: &str, sealed: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        serde_json::from_slice(&self.seal.open(what.as_bytes(), &sealed)?).ok()
    }

    fn until(&self, length: SignedDuration) -> Timestamp {
        self.clock.now().saturating_add(length).unwrap_or(Timestamp::MAX)
    }
}

/// The page's routes, below `at`.
pub(super) fn routes(edge: &Arc<Edge>, at: &str) -> Router {
    if edge.approvals.is_none() {
        return Router::new();
    }
    Router::new()
        .route(&format!("{at}/approvals/callback"), get(callback))
        .route(&format!("{at}/approvals/decide"), post(decide))
        .route(&format!("{at}/approvals/{{id}}"), get(begin))
        .with_state(Arc::clone(edge))
}

/// Whether a path is the page's.
pub(super) fn is_page(path: &str) -> bool {
    path.ends_with("/approvals/decide")
}

/// Where a person decides on a request; nowhere if this edge has no page for it.
pub(super) fn url_of(edge: &Edge, id: &str) -> Option<String> {
    edge.approvals.as_ref().map(|_| format!("{}/{id}", base(edge)))
}

/// The page's URL as browsers see it.
fn base(edge: &Edge) -> String {
    let url = &edge.config.public_url;
    format!("{}{}/approvals", url.origin().ascii_serialization(), prefix(url.path()))
}

/// What stands before `/mcp` in the public URL's path.
pub(super) fn prefix(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').map_or("", |(prefix, _)| prefix)
}

/// `GET /approvals/{id}`: off to the provider.
async fn begin(State(edge): State<Arc<Edge>>, Path(id): Path<String>) -> Response {
    answer(start(&edge, &id).await)
}

async fn start(edge: &Edge, id: &str) -> Result<Response, Refused> {
    let approvals = parts(edge)?;
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refused::new(StatusCode::NOT_FOUND, "This is no link to a request. Ask for it once more."));
    }
    let (state, nonce) = (format!("{id}.{}", secret()?), format!("{id}.{}", secret()?));
    let begun = approvals.login.begin(&format!("{}/callback", base(edge)), &state, &nonce).await.map_err(no_login)?;
    let until = approvals.until(LOGIN_WITHIN);
    let away = Away { id: id.to_owned(), state, nonce, verifier: begun.verifier, until };
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(begun.url.as_str()).map_err(|_| broken())?;
    response.headers_mut().insert(LOCATION, location);
    set_cookie(&mut response, id, &approvals.seal("away", &away), LOGIN_WITHIN)?;
    Ok(response)
}

/// `GET /approvals/callback`: back from the provider.
async fn callback(
    State(edge): State<Arc<Edge>>,
    connection: Option<Extension<Connection>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let browser = Browser { connection: connection.map(|Extension(connection)| connection), headers };
    answer(arrive(&edge, query.as_deref().unwrap_or_default(), &browser).await)
}

async fn arrive(edge: &Edge, query: &str, browser: &Browser) -> Result<Response, Refused> {
    let (approvals, headers) = (parts(edge)?, &browser.headers);
    let again = || {
        Refused::new(
            StatusCode::BAD_REQUEST,
            "This login was not begun here, or took too long. Open the link once more.",
        )
    };
    let one = |name| one(query.as_bytes(), name).map_err(|Twice| again());
    let state = one("state")?.ok_or_else(again)?;
    let id = state.split('.').next().unwrap_or_default();
    let away: Away = cookie(headers, id).and_then(|sealed| approvals.open("away", &sealed)).ok_or_else(again)?;
    if !same(&away.state, &state) || approvals.clock.now() > away.until {
        return Err(again());
    }
    // Another provider's answer is none (RFC 9207).
    if one("iss")?.is_some_and(|issuer| issuer != approvals.login.issuer()) {
        return Err(again());
    }
    if let Some(error) = one("error")? {
        tracing::info!(error, "the identity provider refused a login for an approval");
        return Err(Refused::new(StatusCode::FORBIDDEN, "The identity provider has refused the login."));
    }
    let code = one("code")?.ok_or_else(again)?;
    let redirect = format!("{}/callback", base(edge));
    let tokens = approvals.login.finish(&redirect, code, away.verifier).await.map_err(no_login)?;
    let login = edge.verifier.login(approvals.login.issuer(), &tokens.id_token, approvals.login.client()).await;
    let login = login.map_err(|error| refused_login(&error))?;
    if !same(login.nonce(), &away.nonce) {
        return Err(again());
    }
    let person = Person::of(edge, &tokens.access_token, browser).await?;
    let principal = &person.caller.principal;
    if principal.subject() != login.subject() || principal.issuer() != login.issuer() {
        return Err(again());
    }
    let request = pb::GetApprovalRequest { id: away.id.clone() };
    let found: pb::GetApprovalResponse = person.call(edge, "GetApproval", &request).await?;
    let seat = secret()?;
    let here = Here {
        id: away.id,
        seat: seat.clone(),
        access_token: tokens.access_token,
        id_token: tokens.id_token,
        until: approvals.until(DECIDE_WITHIN),
    };
    let approval = found.approval.unwrap_or_default();
    let sealed = approval.yours_to_decide.then(|| approvals.seal("here", &here));
    let shown = Shown { approval: &approval, who: principal.name(), form: sealed.as_deref() };
    let mut response = page::request(&shown, &format!("{}/decide", base(edge)));
    set_cookie(&mut response, &here.id, &seat, DECIDE_WITHIN)?;
    Ok(response)
}

/// `POST /approvals/decide`: yes or no.
async fn decide(
    State(edge): State<Arc<Edge>>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let browser = Browser { connection: connection.map(|Extension(connection)| connection), headers };
    answer(conclude(&edge, &browser, body).await)
}

async fn conclude(edge: &Edge, browser: &Browser, body: Body) -> Result<Response, Refused> {
    let (approvals, headers) = (parts(edge)?, &browser.headers);
    let again = || {
        Refused::new(
            StatusCode::BAD_REQUEST,
            "This form is not from here, or was open too long. Open the link once more.",
        )
    };
    let origin = edge.config.public_url.origin().ascii_serialization();
    if headers.get(ORIGIN).is_none_or(|sent| sent.as_bytes() != origin.as_bytes()) {
        return Err(Refused::new(StatusCode::FORBIDDEN, "This form was sent from another page."));
    }
    let body = Limited::new(body, FORM_MAX).collect();
    let body = tokio::time::timeout(http::BODY_TIMEOUT, body).await.map_err(|_| again())?;
    let form = body.map_err(|_| again())?.to_bytes();
    let one = |name| one(&form, name).map_err(|Twice| again());
    let here: Here = one("sealed")?.and_then(|sealed| approvals.open("here", &sealed)).ok_or_else(again)?;
    let seat = cookie(headers, &here.id).ok_or_else(again)?;
    if !same(&seat, &here.seat) || approvals.clock.now() > here.until {
        return Err(again());
    }
    let verdict = match one("verdict")?.as_deref() {
        Some("approve") => pb::Verdict::Approve,
        Some("decline") => pb::Verdict::Decline,
        _ => return Err(again()),
    };
    let person = Person::of(edge, &here.access_token, browser).await?;
    let note = one("note")?.unwrap_or_default();
    let request = pb::DecideRequest { id: here.id.clone(), verdict: verdict.into(), note, login: here.id_token };
    let decided: pb::DecideResponse = person.call(edge, "Decide", &request).await?;
    let approval = decided.approval.unwrap_or_default();
    let mut response =
        page::request(&Shown { approval: &approval, who: person.caller.principal.name(), form: None }, "");
    set_cookie(&mut response, &here.id, "", SignedDuration::ZERO)?;
    Ok(response)
}

impl Person {
    async fn of(edge: &Edge, access_token: &str, browser: &Browser) -> Result<Self, Refused> {
        let address = http::address(edge, browser.connection.as_ref(), &browser.headers);
        let bearer = Bearer::from_authorization(&format!("Bearer {access_token}"));
        // A token that nobody could send is none of this service's.
        let bearer = bearer.ok_or_else(|| refused_login(&TokenError::Malformed))?;
        // What is asked here ends by itself, whatever becomes of the connection.
        let origin = Origin { closing: CancellationToken::new(), ..Origin::of(browser.connection.as_ref(), address) };
        let caller = Caller::of(edge, bearer, &origin).await.map_err(|error| refused_login(&error))?;
        Ok(Self { caller, origin })
    }

    /// Calls the core's approvals as that person.
    async fn call<A: Message + Default>(
        &self,
        edge: &Edge,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Refused> {
        let path = PathAndQuery::try_from(format!("/mcp.v1.Approvals/{method}")).map_err(|_| broken())?;
        let message = Bytes::from(request.encode_to_vec());
        let call = Call {
            caller: &self.caller,
            origin: &self.origin,
            carried: dispatch::Carried::Itself,
            aside: &Aside::none(),
        };
        let request = rpc::outgoing(edge, &call, message).ok_or_else(broken)?;
        let sent = tokio::time::timeout(edge.call_timeout(self.origin.until), edge.link.unary(path, request)).await;
        let late = || Refused::new(StatusCode::GATEWAY_TIMEOUT, "The service took too long to answer.");
        match sent.map_err(|_| late())? {
            Ok(answer) => A::decode(answer.into_inner()).map_err(|_| broken()),
            Err(status) => {
                let refusal = Refusal::of(&status);
                tracing::info!(
                    method,
                    who = self.caller.principal.id(),
                    reason = refusal.reason,
                    "an approval was refused"
                );
                Err(told(&refusal))
            }
        }
    }
}

/// A refusal of the core's, for a person.
fn told(refusal: &Refusal) -> Refused {
    let status = match refusal.code {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => StatusCode::FORBIDDEN,
        tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_GATEWAY,
    };
    // What is no word of the service's own is none of the person's business.
    let known = !refusal.reason.is_empty() && status != StatusCode::BAD_GATEWAY;
    let text =
        if known { page::sentence(&refusal.message) } else { "The service cannot answer at the moment.".to_owned() };
    Refused(status, text)
}

fn parts(edge: &Edge) -> Result<&Approvals, Refused> {
    edge.approvals.as_ref().ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "There is nothing here."))
}

fn answer(result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(|Refused(status, text)| page::message(status, &text))
}

fn broken() -> Refused {
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "The service met a fault of its own.")
}

fn no_login(error: login::LoginError) -> Refused {
    tracing::warn!(error = %crate::error::Chain(&error), "a login for an approval failed");
    Refused::new(StatusCode::BAD_GATEWAY, "The identity provider cannot be asked at the moment, or refused. Try again.")
}

fn refused_login(error: &(dyn std::error::Error + 'static)) -> Refused {
    tracing::warn!(error = %crate::error::Chain(error), "the tokens of a login for an approval were refused");
    Refused::new(StatusCode::FORBIDDEN, "The tokens of this login are not accepted here.")
}

/// A name that is in a query or form more than once.
struct Twice;

/// The one value of a name in a query or form.
fn one(form: &[u8], name: &str) -> Result<Option<String>, Twice> {
    let mut values = url::form_urlencoded::parse(form).filter(|(key, _)| key == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(std::borrow::Cow::into_owned)),
        _ => Err(Twice),
    }
}

fn secret() -> Result<String, Refused> {
    let mut bytes = [0; SECRET_LEN];
    rand::fill(&mut bytes).map_err(|_| broken())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn same(one: &str, other: &str) -> bool {
    verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// The cookie's name: each request its own, so that two can be open at once. `__Host-` keeps other hosts from setting it
/// (RFC 6265bis, section 4.1.3.2).
fn cookie_name(id: &str) -> String {
    format!("__Host-approval-{id}")
}

fn cookie(headers: &HeaderMap, id: &str) -> Option<String> {
    let name = cookie_name(id);
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn set_cookie(response: &mut Response, id: &str, value: &str, length: SignedDuration) -> Result<(), Refused> {
    // Lax: the provider's redirect is a navigation from another site, and the cookie must come along.
    let (name, seconds) = (cookie_name(id), length.as_secs());
    let cookie = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}");
    let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| broken())?;
    cookie.set_sensitive(true);
    response.headers_mut().append(SET_COOKIE, cookie);
    page::harden(response);
    Ok(())
}
