//! A login in the person's own browser: authorization code with PKCE (RFC 7636), sent back to a port of this machine
//! (RFC 8252), with the provider's name checked (RFC 9207).

use std::convert::Infallible;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oauth2::{CsrfToken, PkceCodeChallenge, Scope};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use url::Url;

use super::attempt::Open;
use super::discovery::AuthorizationServer;
use super::grant::{self, Wish};
use super::{Config, LoginError, OFFLINE, Reach, can_pkce, client, opener, page, plain};
use crate::bridge::store::{Client, Login, Store};
use crate::clock::Clock;
use crate::error::Chain;
use crate::http_client::HttpClient;

/// How long the page that ends a login may take to reach the browser.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came back from the browser is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The provider, or the person, refused.
    #[error("the provider says `{code}`{}", .description.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// RFC 6749, section 4.1.2.1.
        code: String,
        /// For people.
        description: Option<String>,
    },
    /// It comes from another provider, or does not say from whom.
    #[error("the answer should come from `{expected}` and says `{named}`; somebody may be mixing up providers")]
    Issuer {
        /// Who was asked.
        expected: String,
        /// Who it says that it is.
        named: String,
    },
    /// It has no code.
    #[error("the answer has neither a code nor an error")]
    Empty,
}

/// What the browser brings (RFC 6749, section 4.1.2).
#[derive(Debug, Default)]
struct Answer {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    description: Option<String>,
}

/// An answer, and who waits to be told what came of it.
type Brought = (Answer, oneshot::Sender<String>);

pub(super) async fn ask(
    http: &HttpClient,
    wish: &Wish<'_>,
    config: &Config,
    before: Option<Client>,
    store: &Store,
    clock: &Clock,
    reach: Reach,
) -> Result<Login, LoginError> {
    let server = wish.server;
    if !can_pkce(server, config) {
        return Err(LoginError::Pkce);
    }
    let authorization = server.authorization_endpoint.as_ref().ok_or(LoginError::Endpoint("authorization_endpoint"))?;
    let token = server.token_endpoint.as_ref().ok_or(LoginError::Endpoint("token_endpoint"))?;
    let left = Open::left_behind(store, wish, clock.now());
    let (listener, mut open) = match continued(left).await {
        Some(both) => both,
        None => {
            let (listener, redirect) = listen(&config.redirect, before.as_ref()).await?;
            let client = client::client(http, server, config, before, &redirect).await?;
            (listener, begin(wish, client, token, authorization, clock))
        }
    };
    open.tell(store)?;
    let (sender, mut answers) = mpsc::channel::<Brought>(1);
    let mut connections = JoinSet::new();
    // Some browsers answer before the program that opens them has ended.
    let page = open.url.clone();
    (config.tell)(&format!("log in in the browser; if none opens, open {page}"));
    let opening = opener::open(&page);
    tokio::pin!(opening);
    let (answer, told) = loop {
        tokio::select! {
            opened = &mut opening, if !open.opened => {
                match opened {
                    Ok(()) => {}
                    Err(error) if reach != Reach::Terminal || server.device_authorization_endpoint.is_some() => {
                        return Err(LoginError::NoBrowser(error));
                    }
                    Err(_) => (config.tell)("no browser can be opened from here; open it yourself on this machine"),
                }
                open.opened = true;
                open.tell(store)?;
            }
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (path, state, sender) = (open.client.redirect.path().to_owned(), open.state.clone(), sender.clone());
                let service = service_fn(move |request| serve(request, path.clone(), state.clone(), sender.clone()));
                let serving = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                // Browsers open connections that they do not use.
                connections.spawn(async move { drop(tokio::time::timeout(super::PERSON, serving).await) });
            }
            Some(brought) = answers.recv() => break brought,
        }
    };
    let finished = finish(http, wish, open, token, answer, clock).await;
    let page = match &finished {
        Ok(_) => page::done(),
        Err(error) => page::failed(&Chain(error).to_string()),
    };
    drop((told.send(page), listener));
    let rest = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(FAREWELL, rest).await.unwrap_or_default();
    finished
}

async fn finish(
    http: &HttpClient,
    wish: &Wish<'_>,
    open: Open,
    token: &Url,
    answer: Answer,
    clock: &Clock,
) -> Result<Login, LoginError> {
    let code = answer.code(wish.server)?;
    Ok(grant::exchange(http, wish, open.client, token, code, open.verifier, clock.now()).await?)
}

/// Goes on with a login whose program has ended, if its port is free.
async fn continued(left: Option<Open>) -> Option<(TcpListener, Open)> {
    let open = left?;
    let listener = TcpListener::bind(address(&open.client.redirect, open.client.redirect.port()?)).await.ok()?;
    Some((listener, open))
}

fn begin(wish: &Wish<'_>, client: Client, token: &Url, authorization: &Url, clock: &Clock) -> Open {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let asked = grant::authorization_client(&client, token, authorization);
    let mut request = asked.authorize_url(CsrfToken::new_random).set_pkce_challenge(challenge);
    request = request.add_scopes(wish.scopes.iter().cloned().map(Scope::new));
    if let Some(resource) = &wish.resource {
        request = request.add_extra_param("resource", resource);
    }
    // OpenID Connect Core 1.0, section 11: without it the scope is left out of account.
    if wish.scopes.iter().any(|scope| scope == OFFLINE) {
        request = request.add_extra_param("prompt", "consent");
    }
    let (url, state) = request.url();
    Open::new(wish, client, url, state.secret().clone(), verifier.secret().clone(), clock.now())
}

/// Listens where the browser will be sent back to: at the port that is configured, else at the one that the client was
/// registered with, else at any.
async fn listen(redirect: &Url, before: Option<&Client>) -> Result<(TcpListener, Url), LoginError> {
    let wrong = |source| LoginError::Listen(redirect.to_string(), source);
    let earlier = before.and_then(|client| client.redirect.port());
    let listener = match (redirect.port(), earlier) {
        (Some(port), _) => TcpListener::bind(address(redirect, port)).await.map_err(wrong)?,
        (None, Some(port)) => match TcpListener::bind(address(redirect, port)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(address(redirect, 0)).await.map_err(wrong)?,
        },
        (None, None) => TcpListener::bind(address(redirect, 0)).await.map_err(wrong)?,
    };
    let mut redirect = redirect.clone();
    let port = listener.local_addr().map_err(wrong)?.port();
    // INVARIANT: it is an http URL with a host.
    redirect.set_port(Some(port)).unwrap_or_default();
    Ok((listener, redirect))
}

fn address(redirect: &Url, port: u16) -> (std::net::IpAddr, u16) {
    match redirect.host() {
        Some(url::Host::Ipv6(address)) => (address.into(), port),
        Some(url::Host::Ipv4(address)) => (address.into(), port),
        _ => (std::net::Ipv4Addr::LOCALHOST.into(), port),
    }
}

/// One request of the browser. Only an answer with the state that was sent counts; anything else changes nothing.
async fn serve(
    request: Request<Incoming>,
    path: String,
    state: String,
    sender: mpsc::Sender<Brought>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != path || request.method() != Method::GET {
        return Ok(page::response(StatusCode::NOT_FOUND, page::failed("there is nothing here")));
    }
    let answer = Answer::read(request.uri().query().unwrap_or_default());
    if answer.state.as_deref() != Some(state.as_str()) {
        let text = "this page is not of the login that is waited for; begin again";
        return Ok(page::response(StatusCode::BAD_REQUEST, page::failed(text)));
    }
    let (told, page) = oneshot::channel();
    let sent = sender.send((answer, told)).await.is_ok();
    let page = if sent { page.await.ok() } else { None };
    Ok(page::response(StatusCode::OK, page.unwrap_or_else(|| page::failed("this login is over already"))))
}

impl Answer {
    fn read(query: &str) -> Self {
        let mut answer = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "code" => &mut answer.code,
                "state" => &mut answer.state,
                "iss" => &mut answer.iss,
                "error" => &mut answer.error,
                "error_description" => &mut answer.description,
                _ => continue,
            };
            // What is said twice is not what was sent (RFC 6749, section 3.1); the first is held against what is expected.
            place.get_or_insert(value.into_owned());
        }
        answer
    }

    /// The code, if the answer comes from whoever was asked. An error from somebody else is not believed either.
    fn code(self, server: &AuthorizationServer) -> Result<String, AnswerError> {
        let expected = &server.issuer;
        let named = match self.iss {
            Some(named) if named == *expected => None,
            Some(named) => Some(plain(&named)),
            None => server.authorization_response_iss_parameter_supported.then(|| "nothing".to_owned()),
        };
        if let Some(named) = named {
            return Err(AnswerError::Issuer { expected: plain(expected), named });
        }
        match (self.error, self.code) {
            (Some(code), _) => {
                Err(AnswerError::Refused { code: plain(&code), description: self.description.as_deref().map(plain) })
            }
            (None, Some(code)) => Ok(code),
            (None, None) => Err(AnswerError::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_if_it_is_from_whom_was_asked() {
        let server = |says: bool| AuthorizationServer {
            issuer: "https://x.example".to_owned(),
            authorization_response_iss_parameter_supported: says,
            ..AuthorizationServer::default()
        };
        let code = |query: &str, says: bool| Answer::read(query).code(&server(says));
        for (query, says) in [
            ("code=a&iss=https%3A%2F%2Fx.example", true),
            ("code=a&iss=https%3A%2F%2Fx.example", false),
            ("code=a", false),
        ] {
            assert_eq!(code(query, says).ok().as_deref(), Some("a"), "{query}");
        }
        for (query, says) in [
            ("code=a", true),
            ("code=a&iss=", false),
            ("code=a&iss=https%3A%2F%2Fx.example%2F", true),
            ("code=a&iss=https%3A%2F%2Fevil.example", false),
            ("code=a&iss=https%3A%2F%2Fevil.example&iss=https%3A%2F%2Fx.example", false),
            ("error=access_denied&iss=https%3A%2F%2Fevil.example", false),
        ] {
            assert!(matches!(code(query, says), Err(AnswerError::Issuer { .. })), "{query}");
        }
        assert!(matches!(code("", false), Err(AnswerError::Empty)));
        let refused = code("error=access_denied&error_description=no%20way&code=a", false);
        assert!(
            matches!(refused, Err(AnswerError::Refused { code, description }) if code == "access_denied" && description.as_deref() == Some("no way"))
        );
    }

    #[tokio::test]
    async fn the_browser_is_sent_back_to_where_somebody_listens() {
        let redirect = Url::parse("http://127.0.0.1/callback").expect("a URL");
        let (listener, found) = listen(&redirect, None).await.expect("a port");
        assert_eq!(found.port(), listener.local_addr().map(|address| address.port()).ok());
        assert!(matches!(listen(&found, None).await, Err(LoginError::Listen(..))), "it is taken");
    }
}
