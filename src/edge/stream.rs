//! An answer over HTTP: plain where nothing is said before it, a stream of events (WHATWG HTML, "Server-sent events") from the
//! moment on when something is. So a refusal keeps its status, and only who hears something on the way gets a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CACHE_CONTROL, HeaderName};
use ::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use serde_json::value::RawValue;
use tracing::Instrument;

use super::aside::{self, Aside, Ear};
use super::dispatch::Answer;
use super::reply::{self, Reply};
use super::{Edge, error, http};
use crate::mcp::code;
use crate::mcp::message::RpcError;

/// How often a stream on which nothing is said shows that it lives: proxies cut what is silent for a minute.
const ALIVE: Duration = Duration::from_secs(15);

/// The work on a request.
pub(super) type Work = BoxFuture<'static, Result<Answer, RpcError>>;

/// What a request's answer needs to be known of it.
pub(super) struct About {
    pub(super) edge: Arc<Edge>,
    pub(super) id: Box<RawValue>,
    pub(super) address: Option<IpAddr>,
    pub(super) who: String,
}

/// Work that goes on when nobody waits for it any more.
pub(super) fn by_itself(work: impl Future<Output = Result<Answer, RpcError>> + Send + 'static) -> Work {
    let task = tokio::spawn(work.in_current_span());
    async move {
        match task.await {
            Ok(answer) => answer,
            Err(fault) => match fault.try_into_panic() {
                // As it would have gone on had it not been by itself: whoever catches panics has been told of it already.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(RpcError::new(code::INTERNAL_ERROR, "the service ends").with_http(503)),
            },
        }
    }
    .boxed()
}

/// Answers with whatever comes first: the answer, or something before it.
pub(super) async fn respond(about: About, mut work: Work, mut ear: Ear) -> Response {
    let first = tokio::select! {
        biased;
        answer = &mut work => match ear.try_recv() {
            // It was said just before, so it goes out before.
            Ok(said) => {
                work = std::future::ready(answer).boxed();
                said
            }
            Err(_) => return http::respond(&about, answer),
        },
        Some(said) = ear.recv() => said,
    };
    let running = Running { about, work: Some(work), ear, ready: VecDeque::from([first.message]) };
    sse(events(running))
}

/// Opens a stream that answers no request: it lasts for as long as the work that speaks on it.
pub(super) fn open<W: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Aside) -> W) -> Response {
    let (to, ear) = aside::way();
    let speaking = Some(work(Aside::to(to, "")).boxed());
    sse(futures_util::stream::unfold((speaking, ear), |(mut speaking, mut ear)| async move {
        loop {
            let over = async {
                match &mut speaking {
                    Some(work) => work.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                said = ear.recv() => return Some((Ok(event(said?.message)), (speaking, ear))),
                () = over => speaking = None,
            }
        }
    }))
}

fn event(message: Vec<u8>) -> Event {
    // INVARIANT: a message was made by a JSON serializer, so it is UTF-8 and one line.
    Event::default().event("message").data(String::from_utf8(message).unwrap_or_default())
}

fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that gathered events would keep them from whoever waits (nginx, `proxy_buffering`).
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A request whose answer is a stream.
struct Running {
    about: About,
    work: Option<Work>,
    ear: Ear,
    ready: VecDeque<Vec<u8>>,
}

fn events(running: Running) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(running, |mut running| async move {
        let message = running.next().await?;
        Some((Ok(event(message)), running))
    })
}

impl Running {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            let work = self.work.as_mut()?;
            tokio::select! {
                biased;
                Some(said) = self.ear.recv() => self.ready.push_back(said.message),
                answer = std::panic::AssertUnwindSafe(work).catch_unwind() => {
                    self.work = None;
                    while let Ok(said) = self.ear.try_recv() {
                        self.ready.push_back(said.message);
                    }
                    let last = self.last(answer.unwrap_or_else(|_| {
                        Err(RpcError::new(code::INTERNAL_ERROR, "the service met a fault of its own"))
                    }));
                    self.ready.push_back(last);
                }
            }
        }
    }

    /// The answer as a message: the status of the response is gone already.
    fn last(&self, answer: Result<Answer, RpcError>) -> Vec<u8> {
        let About { edge, id, address, who } = &self.about;
        match reply::of(edge, *address, who, id, answer) {
            Reply::Message(message) => message,
            Reply::TokenRefused(why) => RpcError::new(error::code_of(StatusCode::UNAUTHORIZED), why).to_body(Some(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_panic_in_work_of_its_own_is_an_answer_and_the_next_request_is_served() {
        let fault = async || {
            by_itself(async { panic!("a fault of ours") }).await.map(drop).map_err(|wrong| wrong.code.to_string())?;
            Ok::<_, String>("nothing")
        };
        let router = Router::new().route("/fault", get(fault)).route("/sound", get(async || "sound"));
        let router = router.layer(CatchPanicLayer::custom(error::panicked));
        for (path, status, part) in [("/fault", 500, "-32603"), ("/sound", 200, "sound")] {
            let request = ::http::Request::get(path).body(Body::empty()).expect("a request");
            let answer = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            assert_eq!(answer.status().as_u16(), status, "{path}");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert!(std::str::from_utf8(&body).expect("text").contains(part), "{path}: {body:?}");
        }
    }
}
