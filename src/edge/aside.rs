//! What is said to a client while its request is worked on: how far it is, lines for its log, and questions. Where that can
//! be said at all, and how, the transport knows.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::transcode::{number, to_serde};
use crate::mcp::client::level_name;
use crate::mcp::message::notification;
use crate::pb::mcp::v1::notice::Kind;
use crate::pb::mcp::v1::{LogLevel, Notice};

/// How many messages may wait for a client that reads slowly. What finds no room is left out: the answer matters more.
const WAITING_MOST: usize = 64;
/// How often a second it is said at most how far a request is.
const PROGRESS_MOST: u32 = 50;

/// A message that is said beside an answer.
#[derive(Debug)]
pub(super) struct Said {
    /// The id of the request that it is about, as it was written.
    pub(super) about: Arc<str>,
    /// The message.
    pub(super) message: Vec<u8>,
}

/// Where such messages come out.
pub(super) type Ear = mpsc::Receiver<Said>;

/// A beginning and an end.
pub(super) fn way() -> (mpsc::Sender<Said>, Ear) {
    mpsc::channel(WAITING_MOST)
}

/// An end where nothing ever comes out.
pub(super) fn deaf() -> Ear {
    mpsc::channel(1).1
}

/// The way to the client of one request.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    to: Option<mpsc::Sender<Said>>,
    about: Arc<str>,
}

/// What a client wants to hear of one request.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// How far it is, by that name.
    pub(super) progress: Option<Box<RawValue>>,
    /// Lines for its log from that level on.
    pub(super) log: Option<LogLevel>,
}

/// What a client is told while one request is worked on.
pub(super) struct Teller<'a> {
    aside: &'a Aside,
    wants: &'a Wants,
    last: Option<f64>,
    /// Since when words on that are counted, and how many there were.
    counted: (Instant, u32),
}

impl Aside {
    /// A way, and where it ends.
    pub(super) fn new(about: &RawValue) -> (Self, Ear) {
        let (to, ear) = way();
        (Self::to(to, about.get()), ear)
    }

    /// One that ends where others end too.
    pub(super) fn to(to: mpsc::Sender<Said>, about: &str) -> Self {
        Self { to: Some(to), about: about.into() }
    }

    /// None: there is nobody, or nobody who could hear anything but the answer.
    pub(super) fn none() -> Self {
        Self { to: None, about: "".into() }
    }

    /// Whether anything can be said.
    pub(super) fn is_open(&self) -> bool {
        self.to.as_ref().is_some_and(|to| !to.is_closed())
    }

    /// Waits until nothing can be said any more.
    pub(super) async fn closed(&self) {
        match &self.to {
            Some(to) => to.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Says what may be left out.
    fn mention(&self, message: Vec<u8>) {
        if let Some(to) = &self.to {
            // A full or closed way: see WAITING_MOST.
            to.try_send(Said { about: Arc::clone(&self.about), message }).unwrap_or_default();
        }
    }

    /// Says what must be heard; whether it will be.
    pub(super) async fn say(&self, message: Vec<u8>) -> bool {
        match &self.to {
            Some(to) => to.send(Said { about: Arc::clone(&self.about), message }).await.is_ok(),
            None => false,
        }
    }
}

impl<'a> Teller<'a> {
    pub(super) fn new(aside: &'a Aside, wants: &'a Wants) -> Self {
        Self { aside, wants, last: None, counted: (Instant::now(), 0) }
    }

    /// Passes on what a service says on the way, if the client wants to hear it.
    pub(super) fn tell(&mut self, notice: Notice) {
        match notice.kind {
            Some(Kind::Progress(progress)) => {
                let Some(token) = &self.wants.progress else { return };
                // MCP, "Progress": the value grows each time, and the receiver is not flooded.
                if self.counted.0.elapsed() >= Duration::from_secs(1) {
                    self.counted = (Instant::now(), 0);
                }
                let grows = self.last.is_none_or(|last| progress.progress > last);
                if !progress.progress.is_finite() || !grows || self.counted.1 >= PROGRESS_MOST {
                    return;
                }
                self.counted.1 += 1;
                self.last = Some(progress.progress);
                let mut params = json!({"progressToken": token, "progress": number(progress.progress)});
                if let Some(params) = params.as_object_mut() {
                    if let Some(total) = progress.total {
                        params.insert("total".to_owned(), number(total));
                    }
                    if !progress.message.is_empty() {
                        params.insert("message".to_owned(), progress.message.into());
                    }
                }
                self.aside.mention(notification("notifications/progress", &params));
            }
            Some(Kind::Log(line)) => {
                let level = line.level();
                if self.wants.log.is_none_or(|least| graveness(level) < graveness(least)) {
                    return;
                }
                let data = line.data.map_or(Value::Null, to_serde);
                let mut params = json!({"level": level_name(level), "data": data});
                if let (Some(params), false) = (params.as_object_mut(), line.logger.is_empty()) {
                    params.insert("logger".to_owned(), line.logger.into());
                }
                self.aside.mention(notification("notifications/message", &params));
            }
            None => {}
        }
    }
}

fn graveness(level: LogLevel) -> i32 {
    if level == LogLevel::Unspecified { LogLevel::Info.into() } else { level.into() }
}
