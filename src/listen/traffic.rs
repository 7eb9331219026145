//! The requests of one connection and the answers to them: what runs, what is being read, and what nobody reads.
//!
//! TCP tells of a client that reads nothing at all. Under HTTP/2 a client may keep reading and still take nothing of an
//! answer, by never opening that stream's window; hyper then holds the answer for as long as the connection lives. So an
//! answer is handed over in small pieces, and each must be asked for within a while of the one before.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

/// The most bytes of an answer that are handed over at once: HTTP/2's own size of a frame (RFC 9113, section 4.2).
const PIECE: usize = 16 * 1024;

/// What a connection is at.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    heard: AtomicU64,
    answered: AtomicU64,
    running: AtomicUsize,
    answers: Mutex<HashMap<u64, Option<Instant>>>,
}

/// A request that is worked on, until it is dropped.
pub(super) struct Running(Arc<Traffic>);

/// An answer's body on its way to the client.
pub(super) struct Answer {
    body: axum::body::Body,
    rest: Bytes,
    id: u64,
    traffic: Arc<Traffic>,
    _running: Option<Running>,
}

/// A request's body, which must have arrived by a certain time.
pub(super) struct Arriving {
    body: Incoming,
    by: Instant,
    late: Option<Pin<Box<Sleep>>>,
}

impl Traffic {
    /// Notes a request.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// How many requests have come so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether a request has no answer yet.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Whether an answer is not handed over yet.
    pub(super) fn is_answering(&self) -> bool {
        !self.answers().is_empty()
    }

    /// Whether the client has taken nothing of some answer for that long.
    pub(super) fn is_stalled(&self, patience: Duration) -> bool {
        self.answers().values().flatten().any(|since| since.elapsed() > patience)
    }

    /// Follows an answer until it is handed over.
    pub(super) fn follow(self: &Arc<Self>, body: axum::body::Body, running: Option<Running>) -> Answer {
        let id = self.answered.fetch_add(1, Ordering::Relaxed);
        self.answers().insert(id, Some(Instant::now()));
        Answer { body, rest: Bytes::new(), id, traffic: Arc::clone(self), _running: running }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Option<Instant>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answer {
    /// The next piece, and what remains of its frame.
    fn piece(&mut self, mut whole: Bytes) -> Frame<Bytes> {
        if whole.len() > PIECE {
            self.rest = whole.split_off(PIECE);
        }
        Frame::data(whole)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let rest = std::mem::take(&mut self.rest);
        let frame = if rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(rest))))
        };
        let waits = frame.is_ready().then(Instant::now);
        self.traffic.answers().insert(self.id, waits);
        frame.map(|frame| {
            Some(frame?.map(|frame| match frame.into_data() {
                Ok(data) => self.piece(data),
                Err(trailers) => trailers,
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (whole, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(whole.lower().saturating_add(rest));
        if let Some(upper) = whole.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.traffic.answers().remove(&self.id);
    }
}

impl Arriving {
    /// A body that must have arrived within that time from now.
    pub(super) fn new(body: Incoming, within: Duration) -> Self {
        Self { body, by: Instant::now() + within, late: None }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() {
            let by = self.by;
            let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
            if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err("the request's body took too long to arrive".into())));
            }
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Arriving {
    /// The body as the router takes it; one that is empty costs nothing.
    pub(super) fn into_body(self) -> axum::body::Body {
        if self.body.is_end_stream() {
            axum::body::Body::empty()
        } else {
            axum::body::Body::new(self.map_err(|error| error))
        }
    }
}
