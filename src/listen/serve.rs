//! HTTP/1.1 or HTTP/2 over one connection, for as long as it keeps its bounds and its peer is believed.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::Connection;
use super::peer::Peer;
use super::places::Place;
use super::stream::{Cut, Stream};
use super::traffic::{Answer, Arriving, Traffic};

/// How long a request's headers may take, and how long a new connection may stay silent.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request's headers.
const HEADERS_MAX: usize = 64 * 1024;
/// How long a request's body may take; routes may allow less.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
const READER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection may be open without a request.
const IDLE_MOST: Duration = Duration::from_secs(300);
/// How old a connection may get before it is closed in order; clients open a new one, and balancers can move them.
const AGE_MOST: Duration = Duration::from_secs(3600);
/// The most requests at once on one HTTP/2 connection.
const STREAMS_MOST: u32 = 256;
/// How often a silent HTTP/2 connection is tried.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How often a connection's bounds are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How long a connection without a running request may take to end, once it is to end.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long answers may take to be read, once the connection is to end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long running requests of a peer that is not believed any more may take. New ones are refused at once.
const PEER_GRACE: Duration = Duration::from_secs(2);

/// How long what runs on a connection that is no HTTP any more may take, once it is to end. The shutdown's own grace counts
/// besides.
const SOCKET_GRACE: Duration = Duration::from_secs(30);

/// Why a connection is to end.
enum End {
    /// The service shuts down, or the connection is old or idle: what runs may finish.
    InOrder,
    /// Its peer is not believed any more.
    Refused,
}

/// Serves a connection to its end. The place is given back with the connection, whoever owns it after an upgrade.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Connection,
    mut peer: Option<Peer>,
    place: Place,
    router: axum::Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (traffic, refused) = (Arc::new(Traffic::default()), Arc::new(AtomicBool::new(false)));
    let (cut, gone) = (Arc::new(Cut::default()), CancellationToken::new());
    let stream = Stream::new(stream, READER_PATIENCE, Arc::clone(&cut), place, gone.clone().drop_guard());
    let mut end = pin!(end(&connection, peer.as_mut(), &shutdown));

    let (followed, refuses, facts) = (Arc::clone(&traffic), Arc::clone(&refused), connection.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let running = followed.begin();
        let (followed, router) = (Arc::clone(&followed), router.clone());
        let refuses = refuses.load(Ordering::Relaxed);
        request.extensions_mut().insert(facts.clone());
        async move {
            let answer = if refuses {
                refusal(&request)
            } else {
                let request = request.map(|body| Arriving::new(body, BODY_TIMEOUT).into_body());
                router.oneshot(request).await.unwrap_or_else(|never| match never {})
            };
            // What streams is still being worked on when its headers are out.
            let is_stream = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
            let running = is_stream.then_some(running);
            Ok::<Response<Answer>, Infallible>(answer.map(|body| followed.follow(body, running)))
        }
    });
    let ended = {
        let builder = builder();
        let mut http = Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        tokio::select! {
            ended = http.as_mut() => Some(ended),
            overdue = overdue(&traffic) => return Err(overdue),
            why = end.as_mut() => {
                refused.store(matches!(why, End::Refused), Ordering::Relaxed);
                // Answers that would last are ended in order.
                connection.closing().cancel();
                http.as_mut().graceful_shutdown();
                let last = async {
                    match why {
                        End::Refused => tokio::time::sleep(PEER_GRACE).await,
                        End::InOrder => finished(&traffic).await,
                    }
                };
                return tokio::select! {
                    ended = http.as_mut() => ended.map_err(io::Error::other),
                    () = last => Ok(()),
                };
            }
        }
    };
    if let Some(Err(error)) = ended {
        return Err(io::Error::other(error));
    }
    // Unless the stream is gone by now, it has become something else than HTTP, and its owner is held to the same.
    if let Some(why) = gone.run_until_cancelled(end).await {
        connection.closing().cancel();
        let grace = if matches!(why, End::Refused) { PEER_GRACE } else { SOCKET_GRACE };
        tokio::time::timeout(grace, gone.cancelled()).await.unwrap_or_default();
        cut.cut();
    }
    Ok(())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MOST)
        .max_header_list_size(u32::try_from(HEADERS_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(HEADER_TIMEOUT);
    builder
}

/// Waits until the connection is to end.
async fn end(connection: &Connection, peer: Option<&mut Peer>, shutdown: &CancellationToken) -> End {
    let refused = async {
        match peer {
            Some(peer) => peer.refused().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => End::InOrder,
        () = tokio::time::sleep(AGE_MOST) => End::InOrder,
        why = refused => {
            let name = connection.peer().map(tracing::field::display);
            tracing::warn!(peer = name, error = %why, "a peer's certificate is not believed any more; its connection is closed");
            End::Refused
        }
    }
}

/// Waits until a bound is broken that neither TCP nor hyper keeps.
async fn overdue(traffic: &Traffic) -> io::Error {
    let timed_out = |what| io::Error::new(io::ErrorKind::TimedOut, what);
    tokio::time::sleep(HEADER_TIMEOUT).await;
    let (mut heard, mut idle) = (traffic.heard(), Duration::ZERO);
    if heard == 0 {
        return timed_out("no request came");
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if traffic.is_stalled(READER_PATIENCE) {
            return timed_out("the client does not read its answer");
        }
        let quiet = traffic.heard() == heard && !traffic.is_running() && !traffic.is_answering();
        idle = if quiet { idle + LOOK } else { Duration::ZERO };
        heard = traffic.heard();
        if idle >= IDLE_MOST {
            return timed_out("no further request came");
        }
    }
}

/// Waits until what runs has had its time. A client that sends nothing, or half a request, must not hold the process.
async fn finished(traffic: &Traffic) {
    while traffic.is_running() {
        tokio::time::sleep(GOODBYE).await;
    }
    let answers = async {
        while traffic.is_answering() {
            tokio::time::sleep(GOODBYE / 10).await;
        }
    };
    tokio::time::timeout(LAST_ANSWERS, answers).await.unwrap_or_default();
    tokio::time::sleep(GOODBYE).await;
}

/// The answer to a request that came after its connection's peer was refused: in gRPC's words, or in HTTP's, where 421
/// lets a client try again on another connection (RFC 9110, section 15.5.20).
fn refusal(request: &Request<Incoming>) -> Response<axum::body::Body> {
    const WHY: &str = "the certificate of this connection is not accepted any more; connect again with a good one";
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(b"application/grpc") {
        return tonic::Status::unauthenticated(WHY).into_http();
    }
    let mut response = Response::new(axum::body::Body::from(WHY));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
