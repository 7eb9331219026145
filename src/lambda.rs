//! The service as a function of AWS Lambda: the edge's own router, to which the platform hands single requests.
//!
//! One function takes requests of API Gateway (REST and HTTP APIs) and of function URLs, decides as a `TOKEN` authorizer of a REST
//! API, and closes what has ended when a schedule's event comes. Between two events the process is frozen, and may be ended there: what
//! an event was about is on disk, and what it left in telemetry is sent, before it is answered; nothing is relied on that would
//! go on by itself. Each answer is there before the platform, or the gateway in front of it, stops waiting: what does not answer in time
//! (a file system, a receiver of telemetry) is not waited for.
//! Sources: AWS Lambda developer guide, "Runtime API" and "Lambda execution environment lifecycle".

mod authorizer;
mod event;
mod exchange;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use http::{Response, StatusCode};
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::audit::{self, Audit};
use crate::broker::Broker;
use crate::broker::upkeep::{Reconciler, recover};
use crate::clock::Clock;
use crate::edge::{self, Edge};
use crate::error::{Chain, Code};
use crate::listen::Connection;
use crate::policy::{Policies, Reload, reload_apart};
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;

use event::Event;
use exchange::Handed;

/// What the platform sets for every function. The runtime cannot do without.
const VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// How long before its end an event must be answered, so that what it left can still be put away.
const KEPT_FOR_SETTLING: Duration = Duration::from_millis(1000);
/// How long before that a call must come back from the service behind the edge, or from AWS.
const KEPT_FOR_WORDS: Duration = Duration::from_millis(500);
/// How long before its end nothing is done any more.
const KEPT_FOR_LEAVING: Duration = Duration::from_millis(100);
/// With less time than this nothing is begun: a change that is cut off is one that somebody must look after.
const LEAST: Duration = Duration::from_secs(3);
/// How long API Gateway waits for a function (quota "Integration timeout", REST and HTTP APIs).
const GATEWAY_WAITS: Duration = Duration::from_secs(29);
/// Earlier than this a deadline is no time but what an emulator puts in its place.
const TIMES_BEGIN_MS: u64 = 1_000_000_000_000;
/// How long an event may take where nobody says.
const UNTOLD: Duration = Duration::from_secs(30);
/// The word that API Gateway makes a 401 of.
const UNAUTHORIZED: &str = "Unauthorized";
/// How long a file that has changed is given until it is looked at once more.
const SETTLES: Duration = Duration::from_millis(200);
/// How long an event waits for files: a file system that is away must not cost callers their answers.
const FILES_WITHIN: Duration = Duration::from_secs(2);
/// How long an event waits for changes that go on without their callers, its own or an earlier one's.
const CHANGES_WITHIN: Duration = Duration::from_secs(2);
/// How long an event waits for telemetry to be sent: a receiver that is away must not cost callers their answers.
const SENT_WITHIN: Duration = Duration::from_secs(1);
/// How long what runs may take to end after SIGTERM: the platform waits for half a second.
const GOODBYE: Duration = Duration::from_millis(300);

/// Why a function cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LambdaError {
    /// This is not AWS Lambda.
    #[error(
        "the environment variable {0} is missing or wrong: `whitelistmcp lambda` (MCP_MODE=serverless) runs in AWS Lambda alone, which sets it; run `whitelistmcp serve` elsewhere"
    )]
    Elsewhere(&'static str),
    /// The platform's own API failed.
    #[error("the Runtime API of AWS Lambda failed")]
    Runtime(#[source] lambda_runtime::Error),
}

/// Why a service is none that could be a function.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Requests for approval that only one process would know.
    #[error(
        "`[approvals]` needs `[redis]` in a function: its environments come and go, and share nothing else that requests could be kept in"
    )]
    Approvals,
    /// The edge's section.
    #[error(transparent)]
    Edge(#[from] edge::ConfigError),
}

/// What an event fails with, as the platform is told.
#[derive(Debug)]
struct Failure {
    /// The kind, by which alarms and retries tell failures apart.
    kind: &'static str,
    words: String,
}

impl Failure {
    fn new(kind: &'static str, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }
}

impl From<Failure> for Diagnostic {
    fn from(Failure { kind, words }: Failure) -> Self {
        Self { error_type: kind.to_owned(), error_message: words }
    }
}

/// The core in the same process, as far as a function looks after it itself.
#[derive(Debug)]
pub struct Behind {
    /// The audit trail.
    pub audit: Audit,
    /// The journal, which may have to be opened yet.
    pub journal: audit::Config,
    /// What changes AWS.
    pub broker: Arc<Broker>,
    /// What closes what has ended.
    pub reconciler: Arc<Reconciler>,
    /// The policies, which may have changed while the process was frozen.
    pub policies: Arc<Policies>,
    /// How often they are read again.
    pub reload: Duration,
    /// What goes on by itself, and is waited for at the end.
    pub tasks: TaskTracker,
    /// Ends it.
    pub stop: CancellationToken,
}

/// A service that takes events.
pub struct Function {
    edge: Arc<Edge>,
    router: Router,
    /// None where the core is elsewhere.
    behind: Option<Behind>,
    policies_read: Mutex<Timestamp>,
    opening: Alone,
    reading: Alone,
    sending: Alone,
    clock: Clock,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("behind", &self.behind.is_some()).finish_non_exhaustive()
    }
}

/// Fails where this is not AWS Lambda.
pub fn check_environment() -> Result<(), LambdaError> {
    let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for name in VARIABLES {
        let value = value(name).ok_or(LambdaError::Elsewhere(name))?;
        let sound = match name {
            "AWS_LAMBDA_RUNTIME_API" => value.parse::<http::Uri>().is_ok(),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => value.parse::<i32>().is_ok(),
            _ => true,
        };
        // The runtime itself would panic over it.
        if !sound {
            return Err(LambdaError::Elsewhere(name));
        }
    }
    Ok(())
}

impl Function {
    /// A function over an edge, and over the core in the same process if there is one.
    pub fn new(edge: Edge, behind: Option<Behind>, clock: Clock) -> Self {
        let edge = Arc::new(edge.whole());
        let policies_read = Mutex::new(clock.now());
        let router = edge::router::router(&edge);
        let (opening, reading, sending) = Default::default();
        Self { router, edge, behind, policies_read, opening, reading, sending, clock }
    }

    /// Takes events until the platform ends the process, and then closes what is open.
    pub async fn run(self, telemetry: Telemetry, shutdown: &Shutdown) -> Result<(), LambdaError> {
        check_environment()?;
        let (gone, closed) = oneshot::channel::<()>();
        let begins = shutdown.clone();
        // The platform sends SIGTERM to whoever has an extension, such as this one, which asks for nothing.
        lambda_runtime::spawn_graceful_shutdown_handler(move || async move {
            begins.begin();
            // Whoever closes may be gone already, and then everything is closed.
            closed.await.unwrap_or_default();
        })
        .await;
        let (function, telemetry) = (Arc::new(self), Arc::new(telemetry));
        let taken = {
            let (function, telemetry) = (Arc::clone(&function), Arc::clone(&telemetry));
            lambda_runtime::service_fn(move |event: LambdaEvent<Box<RawValue>>| {
                let (function, telemetry) = (Arc::clone(&function), Arc::clone(&telemetry));
                async move { Box::pin(function.take(event, &telemetry)).await }
            })
        };
        let stop = shutdown.token();
        let ended = stop.run_until_cancelled(Box::pin(lambda_runtime::Runtime::new(taken).run())).await;
        // What writes the journal ends with the last who could hand it something.
        drop(function);
        shutdown.begin();
        if tokio::time::timeout(GOODBYE, shutdown.finished()).await != Ok(true) {
            tracing::warn!("what was still running is cut off; it is found at the next start");
        }
        if let Some(telemetry) = Arc::into_inner(telemetry) {
            let sent = tokio::task::spawn_blocking(|| telemetry.shutdown());
            tokio::time::timeout(GOODBYE, sent).await.map(drop).unwrap_or_default();
        }
        // Nobody waits for it where no signal came.
        gone.send(()).unwrap_or_default();
        match ended {
            Some(Err(error)) => Err(LambdaError::Runtime(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    async fn take(&self, event: LambdaEvent<Box<RawValue>>, telemetry: &Arc<Telemetry>) -> Result<Value, Failure> {
        let LambdaEvent { payload, context } = event;
        let span = tracing::info_span!(target: "request", "invocation", faas.invocation_id = context.request_id);
        let event = Event::read(&payload);
        let waited = if let Ok(Event::Http(handed)) = &event { handed.waited } else { None };
        let end = self.end(context.deadline, waited);
        async {
            let by = before(end, KEPT_FOR_SETTLING).min(Instant::now() + FILES_WITHIN);
            self.open(by).await;
            self.read_policies(by).await;
            let answer = match event {
                Ok(Event::Http(handed)) => Ok(self.serve(*handed, end).await),
                Ok(Event::Authorizer(asked)) => self.authorize(&asked, end).await,
                Ok(Event::Schedule) => self.close(end).await,
                Err(failure) => Err(failure),
            };
            // What a stranger can have as often as they like is counted and written down by the edge, within bounds.
            if let Err(Failure { kind, words }) = answer.as_ref()
                && *kind != UNAUTHORIZED
            {
                tracing::warn!(kind, words, "an event is answered with a failure");
            }
            self.settle(telemetry, end).await;
            answer
        }
        .instrument(span)
        .await
    }

    /// When nobody waits any more: the platform, or a gateway that has waited since before this process was there. All that an
    /// event leads to is over by then, as the answer leaves last.
    fn end(&self, deadline_ms: u64, waited: Option<Timestamp>) -> Instant {
        let now_ms = u64::try_from(self.clock.now().as_millisecond()).unwrap_or_default();
        let left = match deadline_ms {
            told if told >= TIMES_BEGIN_MS => Duration::from_millis(told.saturating_sub(now_ms)),
            _ => UNTOLD,
        };
        let end = Instant::now() + left;
        waited.map_or(end, |since| {
            let gone = Duration::try_from(self.clock.now().duration_since(since)).unwrap_or_default();
            // Longer ago than any gateway waits: an event that was kept, as tests are.
            if gone > GATEWAY_WAITS * 2 { end } else { end.min(Instant::now() + GATEWAY_WAITS.saturating_sub(gone)) }
        })
    }

    /// Opens a journal that could not be opened at the start. Where that takes too long, the event goes on without.
    async fn open(&self, by: Instant) {
        let Some(behind) = self.behind.as_ref().filter(|behind| behind.audit.awaits_its_journal()) else { return };
        let (audit, journal, broker) = (behind.audit.clone(), behind.journal.clone(), Arc::clone(&behind.broker));
        let (tasks, stop) = (behind.tasks.clone(), behind.stop.clone());
        let opened = self.opening.run(by, async move {
            audit.open_late(&journal).await;
            if audit.keeps_a_journal() {
                drop(tasks.spawn(recover::run(broker, stop)));
            }
        });
        if opened.await != Waited::Done {
            tracing::error!("the audit journal is not open yet: its file system does not answer");
        }
    }

    /// Reads the policies again where they have not been for a while: a loop that did it would be frozen with the process, and a
    /// call is not decided by what was in force before. What cannot be read in time changes nothing: those in force decide.
    async fn read_policies(&self, by: Instant) {
        let Some(behind) = self.behind.as_ref().filter(|behind| self.policies_are_due(behind.reload)) else { return };
        let policies = Arc::clone(&behind.policies);
        let read = self.reading.run(by, async move {
            // What has changed is believed once it is seen to be the same twice.
            for pause in [Duration::ZERO, SETTLES] {
                tokio::time::sleep(pause).await;
                if reload_apart(&policies).await != Reload::Changed {
                    return;
                }
            }
        });
        if read.await != Waited::Done {
            tracing::error!("the policies could not be read again in time; those in force stay");
        }
    }

    /// Whether it is time to read the policies again; if so, whoever asks does it.
    fn policies_are_due(&self, every: Duration) -> bool {
        let mut read = self.policies_read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let due = Duration::try_from(now.duration_since(*read)).is_ok_and(|past| past >= every);
        if due {
            *read = now;
        }
        due
    }

    /// A request, by the edge's router.
    async fn serve(&self, handed: Handed, end: Instant) -> Value {
        let Handed { request, shape, address, .. } = handed;
        let refuse = |status: StatusCode, words: &str| exchange::refusal(&shape, status, words);
        let mut request = match request {
            Ok(request) => request,
            Err(words) => return refuse(StatusCode::BAD_REQUEST, words),
        };
        let left = end.saturating_duration_since(Instant::now());
        if left < LEAST {
            tracing::warn!(left = ?left, "too little time is left to begin anything; a function's timeout should be 30 s");
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "this function has too little time left to begin anything, and nothing was; try again",
            );
        }
        let answer_by = before(end, KEPT_FOR_SETTLING);
        request.extensions_mut().insert(Connection::handed_over(address, before(answer_by, KEPT_FOR_WORDS)));
        *request.uri_mut() = exchange::without_stage(request.uri(), shape.stage(), self.edge.path());
        let answered = async {
            let response = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            let (parts, body) = response.into_parts();
            exchange::gather(body).await.map(|body| Response::from_parts(parts, body))
        };
        match timeout_at(answer_by, answered).await {
            Ok(Ok(response)) => exchange::answer(&shape, response),
            Ok(Err(error)) => {
                tracing::error!(error = %error, "an answer could not be gathered");
                refuse(StatusCode::BAD_GATEWAY, "the answer is larger than a function may give, or broke off")
            }
            Err(_) => refuse(
                StatusCode::GATEWAY_TIMEOUT,
                "the time is over before the answer came; what was begun may go on, and the audit journal says how it ends. Look before trying again",
            ),
        }
    }

    /// The decision of a REST API's `TOKEN` authorizer.
    async fn authorize(&self, asked: &authorizer::Asked, end: Instant) -> Result<Value, Failure> {
        let late = || Failure::new("Unavailable", "the token's issuer did not answer in time");
        let known = timeout_at(before(end, KEPT_FOR_SETTLING), self.edge.recognise(&asked.token)).await;
        match known.map_err(|_| late())? {
            Ok(principal) => authorizer::allow(&principal, &asked.method_arn),
            // Not the caller's fault: a 401 would make clients throw their login away.
            Err(error) if error.code() == Code::Unavailable => Err(Failure::new("Unavailable", error.message())),
            // The word that API Gateway makes a 401 of.
            Err(error) => {
                tracing::debug!(reason = error.reason(), why = error.message(), "a token was refused");
                Err(Failure::new(UNAUTHORIZED, UNAUTHORIZED))
            }
        }
    }

    /// One round of closing what has ended. It fails where something stays open that should not.
    async fn close(&self, end: Instant) -> Result<Value, Failure> {
        let behind = self.behind.as_ref().ok_or_else(|| {
            Failure::new(
                "NothingToClose",
                "this function is an edge: its core closes what has ended; take the schedule out",
            )
        })?;
        if !behind.audit.keeps_a_journal() {
            let why = behind.audit.problem().or_else(|| behind.audit.objection().map(str::to_owned));
            let why = why.unwrap_or_else(|| "no `[audit] directory` is configured".to_owned());
            return Err(Failure::new("NoJournal", format!("nothing is closed without an audit journal: {why}")));
        }
        // In a task of its own: a round that was begun is finished, with the next event if not with this.
        let reconciler = Arc::clone(&behind.reconciler);
        let round = tokio::spawn(async move { reconciler.round().await });
        let round = timeout_at(before(end, KEPT_FOR_SETTLING), round).await.map_err(|_| {
            Failure::new("Timeout", "the round was not over in time; give the function a longer timeout")
        })?;
        let round = round.map_err(|panic| Failure::new("Failed", format!("the round broke off: {panic}")))?;
        let told = json!({
            "standing": round.standing, "closed": round.closed, "left_to_others": round.left_to_others, "overdue": round.overdue,
            "damaged": round.damaged, "unrecorded": round.unrecorded, "missed": round.missed, "next": round.next.map(|next| next.to_string()),
        });
        tracing::info!(round = %told, "a round of closing what has ended");
        if round.overdue > 0 || round.missed > 0 {
            return Err(Failure::new("Overdue", format!("not everything that has ended is closed: {told}")));
        }
        Ok(told)
    }

    /// Puts away what an event has left: from now on the process may be ended without a word.
    async fn settle(&self, telemetry: &Arc<Telemetry>, end: Instant) {
        let by = before(end, KEPT_FOR_LEAVING);
        if let Some(Behind { audit, broker, .. }) = &self.behind {
            // A change may outlive its answer. Frozen in the midst of it, it would have no end on disk until the next event comes.
            let over = before(end, KEPT_FOR_WORDS).min(Instant::now() + CHANGES_WITHIN);
            if timeout_at(over, broker.changes_end()).await.is_err() {
                tracing::warn!("a change is not over; it goes on with the next event, or is found by another process");
            }
            broker.compare_clocks();
            broker.write_counted(true);
            match timeout_at(by, audit.settle()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the audit journal is not all on disk"),
                Err(_) => tracing::error!("the audit journal was not on disk in time"),
            }
        }
        if telemetry.exports() {
            let telemetry = Arc::clone(telemetry);
            let sent = async move { tokio::task::spawn_blocking(move || telemetry.flush()).await.unwrap_or_default() };
            if let Waited::Over = self.sending.run(by.min(Instant::now() + SENT_WITHIN), sent).await {
                tracing::warn!("telemetry was not sent in time; it goes with the next event, if there is one");
            }
        }
    }
}

/// Work that an event waits for only so long, and that goes on without it. What still runs is not begun once more: it would
/// wait for the same thing.
#[derive(Debug, Default)]
struct Alone(Arc<tokio::sync::Mutex<()>>);

/// What came of waiting for it.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// It is done.
    Done,
    /// It is not, and goes on.
    Over,
    /// What was begun for an earlier event still runs, so nothing was begun.
    Busy,
}

impl Alone {
    async fn run(&self, by: Instant, work: impl Future<Output = ()> + Send + 'static) -> Waited {
        let Ok(alone) = Arc::clone(&self.0).try_lock_owned() else { return Waited::Busy };
        let working = tokio::spawn(async move {
            let _alone = alone;
            work.await;
        });
        match timeout_at(by, working).await {
            Ok(_) => Waited::Done,
            Err(_) => Waited::Over,
        }
    }
}

fn before(end: Instant, by: Duration) -> Instant {
    end.checked_sub(by).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_still_runs_is_waited_for_once_and_not_begun_again() {
        let (alone, soon) = (Alone::default(), || Instant::now() + Duration::from_millis(20));
        let (begun, (go, goes)) = (Arc::new(Mutex::new(0)), oneshot::channel::<()>());
        let count = |begun: &Arc<Mutex<u32>>| *begun.lock().expect("not poisoned");
        let counted = Arc::clone(&begun);
        let hangs = async move {
            *counted.lock().expect("not poisoned") += 1;
            goes.await.unwrap_or_default();
        };
        assert_eq!(alone.run(soon(), hangs).await, Waited::Over);
        let work = || {
            let begun = Arc::clone(&begun);
            async move { *begun.lock().expect("not poisoned") += 1 }
        };
        assert_eq!((alone.run(soon(), work()).await, count(&begun)), (Waited::Busy, 1));
        go.send(()).expect("it still runs");
        drop(alone.0.lock().await);
        assert_eq!((alone.run(soon(), work()).await, count(&begun)), (Waited::Done, 2));
    }
}
