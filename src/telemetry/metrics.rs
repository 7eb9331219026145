//! Metrics: what is counted and measured. Names and units are those of the OpenTelemetry conventions where these have one.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, global};

/// The histogram bounds, in seconds, that the conventions for MCP give.
const MCP_BOUNDS: [f64; 14] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The histogram bounds, in seconds, that the conventions for HTTP and RPC give.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Counts a call of the core and how long it took: `method` as gRPC names it, `code` its status by name, `outcome` the
/// reason where it was refused.
pub fn record_call(tool: &'static str, method: String, code: &'static str, outcome: &'static str, took: Duration) {
    static CALLS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("whitelistmcp.call.duration", "Calls of the core by tool and outcome"));
    static RPCS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("rpc.server.call.duration", "Calls of the core by method and status"));
    CALLS.record(took.as_secs_f64(), &[KeyValue::new("tool", tool), KeyValue::new("outcome", outcome)]);
    RPCS.record(
        took.as_secs_f64(),
        &[
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.response.status_code", code),
        ],
    );
}

/// Counts an error that a caller was answered with, by its stable reason.
pub fn record_error(door: &'static str, code: &'static str, reason: &'static str) {
    static ERRORS: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Errors that callers were answered with, by door, class and reason";
        meter().u64_counter("whitelistmcp.errors").with_description(text).build()
    });
    ERRORS.add(1, &[KeyValue::new("door", door), KeyValue::new("code", code), KeyValue::new("reason", reason)]);
}

/// Counts a decision of policy: `permit`, `forbid`, or `ask` where somebody's word is wanted.
pub fn record_decision(tool: &'static str, effect: &'static str) {
    static DECISIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Decisions of policy by tool and effect";
        meter().u64_counter("whitelistmcp.policy.decisions").with_description(text).build()
    });
    DECISIONS.add(1, &[KeyValue::new("tool", tool), KeyValue::new("effect", effect)]);
}

/// Counts a bearer that was verified, or was not: `good`, or the class of the error.
pub fn record_verification(kind: &'static str, outcome: &'static str) {
    static VERIFIED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Bearers that were verified, by kind and outcome";
        meter().u64_counter("whitelistmcp.token.verifications").with_description(text).build()
    });
    VERIFIED.add(1, &[KeyValue::new("kind", kind), KeyValue::new("outcome", outcome)]);
}

/// Counts a look into a cache.
pub fn record_cache(cache: &'static str, hit: bool) {
    static LOOKS: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Looks into caches, by cache and whether it was there";
        meter().u64_counter("whitelistmcp.cache.requests").with_description(text).build()
    });
    LOOKS.add(1, &[KeyValue::new("cache", cache), KeyValue::new("result", if hit { "hit" } else { "miss" })]);
}

/// Counts an HTTP request of the edge and how long it took.
pub fn record_http(method: &str, scheme: &'static str, route: &'static str, status: u16, took: Duration) {
    static REQUESTS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("http.server.request.duration", "HTTP requests of the edge by route and status"));
    REQUESTS.record(
        took.as_secs_f64(),
        &[
            KeyValue::new("http.request.method", known_method(method)),
            KeyValue::new("url.scheme", scheme),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ],
    );
}

/// A connection that is open, for as long as this lives.
#[derive(Debug)]
pub struct OpenConnection(&'static str);

impl OpenConnection {
    /// Counts one at a door.
    pub fn count(door: &'static str) -> Self {
        connections().add(1, &[KeyValue::new("door", door)]);
        Self(door)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        connections().add(-1, &[KeyValue::new("door", self.0)]);
    }
}

fn connections() -> &'static UpDownCounter<i64> {
    static OPEN: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
        meter()
            .i64_up_down_counter("whitelistmcp.connections")
            .with_description("Connections that are open, by door")
            .build()
    });
    &OPEN
}

/// A stream of a connection, which carries one request, for as long as this lives.
#[derive(Debug)]
pub struct OpenStream(&'static str);

impl OpenStream {
    /// Counts one at a door.
    pub fn count(door: &'static str) -> Self {
        streams().add(1, &[KeyValue::new("door", door)]);
        Self(door)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        streams().add(-1, &[KeyValue::new("door", self.0)]);
    }
}

fn streams() -> &'static UpDownCounter<i64> {
    static OPEN: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
        let text = "Requests that are open on the connections, by door";
        meter().i64_up_down_counter("whitelistmcp.streams").with_description(text).build()
    });
    &OPEN
}

/// An HTTP request that is worked on, for as long as this lives.
#[derive(Debug)]
pub struct ActiveRequest([KeyValue; 2]);

impl ActiveRequest {
    /// Counts one.
    pub fn count(method: &str, scheme: &'static str) -> Self {
        let method = KeyValue::new("http.request.method", known_method(method));
        let attributes = [method, KeyValue::new("url.scheme", scheme)];
        active().add(1, &attributes);
        Self(attributes)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        active().add(-1, &self.0);
    }
}

/// A method as it is counted. Any other word could be anything, and every word is a label.
fn known_method(method: &str) -> &'static str {
    ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT"].into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

fn active() -> &'static UpDownCounter<i64> {
    static ACTIVE: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
        meter()
            .i64_up_down_counter("http.server.active_requests")
            .with_description("Requests that are worked on")
            .build()
    });
    &ACTIVE
}

/// Tells how long a set of certificates is still good.
pub fn record_certificate(part: &'static str, left: Duration) {
    static LEFT: LazyLock<Gauge<f64>> = LazyLock::new(|| {
        let text = "Days until the first certificate of a part ends";
        meter().f64_gauge("whitelistmcp.certificate.days_left").with_unit("d").with_description(text).build()
    });
    LEFT.record(left.as_secs_f64() / 86_400.0, &[KeyValue::new("part", part)]);
}

/// Counts a request to AWS and how long it took with its retries.
pub fn record_aws(service: &'static str, method: &str, error: Option<&str>, took: Duration) {
    static CALLS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| histogram("rpc.client.call.duration", "Requests to AWS by service, method and error"));
    let mut attributes = vec![
        KeyValue::new("rpc.system.name", "aws-api"),
        KeyValue::new("rpc.service", service),
        KeyValue::new("rpc.method", method.to_owned()),
    ];
    attributes.extend(error.map(|error| KeyValue::new("error.type", error.to_owned())));
    CALLS.record(took.as_secs_f64(), &attributes);
}

/// Counts a request that AWS turned away because there were too many.
pub fn record_throttle(service: &'static str, method: &'static str) {
    throttled().add(1, &[KeyValue::new("rpc.service", service), KeyValue::new("rpc.method", method)]);
}

fn throttled() -> &'static Counter<u64> {
    static THROTTLED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Attempts that AWS turned away because there were too many";
        meter().u64_counter("whitelistmcp.aws.throttled").with_description(text).build()
    });
    &THROTTLED
}

/// Counts that somebody went ahead without the word that policy asks for.
pub fn record_break_glass(tool: &'static str) {
    broken().add(1, &[KeyValue::new("tool", tool)]);
}

fn broken() -> &'static Counter<u64> {
    static BROKEN: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Changes that were made at once although policy asks for somebody's word first";
        meter().u64_counter("whitelistmcp.break_glass").with_description(text).build()
    });
    &BROKEN
}

/// Tells how a round of the reconciler went.
pub fn record_round(standing: usize, damaged: usize, closed: usize, lag: Duration) {
    static LAG: LazyLock<Gauge<f64>> = LazyLock::new(|| {
        let text = "How long the oldest rule that should be closed has been standing past its end";
        meter().f64_gauge("whitelistmcp.reconciler.lag").with_unit("s").with_description(text).build()
    });
    static RULES: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        meter().u64_gauge("whitelistmcp.rules").with_description("Rules of ours that stand, by state").build()
    });
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    LAG.record(lag.as_secs_f64(), &[]);
    RULES.record(count(standing.saturating_sub(damaged)), &[KeyValue::new("state", "whole")]);
    RULES.record(count(damaged), &[KeyValue::new("state", "damaged")]);
    self::closed().add(count(closed), &[]);
}

fn closed() -> &'static Counter<u64> {
    static CLOSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        meter().u64_counter("whitelistmcp.rules.closed").with_description("Rules closed at their end").build()
    });
    &CLOSED
}

/// Counts a call that was refused for a limit.
pub fn record_limited(door: &'static str, limit: &'static str) {
    static REFUSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
        let text = "Calls that were refused for a limit, by door and limit";
        meter().u64_counter("whitelistmcp.limit.refused").with_description(text).build()
    });
    REFUSED.add(1, &[KeyValue::new("door", door), KeyValue::new("limit", limit)]);
}

/// Tells whether Redis, which replicas share, is in use.
pub fn record_redis(up: bool) {
    static UP: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        let text = "Whether Redis answers: 1, or 0 while limits hold for each process by itself";
        meter().u64_gauge("whitelistmcp.redis.up").with_description(text).build()
    });
    UP.record(u64::from(up), &[]);
}

/// Counts an MCP request of the edge and how long it took.
pub fn record_mcp(method: &'static str, tool: Option<&str>, error: Option<&str>, took: Duration) {
    static REQUESTS: LazyLock<Histogram<f64>> =
        LazyLock::new(|| bounded("mcp.server.operation.duration", "MCP requests by method and tool", &MCP_BOUNDS));
    let mut attributes = vec![KeyValue::new("mcp.method.name", method)];
    attributes.extend(tool.map(|tool| KeyValue::new("gen_ai.tool.name", tool.to_owned())));
    attributes.extend(error.map(|error| KeyValue::new("error.type", error.to_owned())));
    REQUESTS.record(took.as_secs_f64(), &attributes);
}

fn meter() -> Meter {
    global::meter(env!("CARGO_PKG_NAME"))
}

fn histogram(name: &'static str, description: &'static str) -> Histogram<f64> {
    bounded(name, description, &BOUNDS)
}

fn bounded(name: &'static str, description: &'static str, bounds: &[f64]) -> Histogram<f64> {
    meter().f64_histogram(name).with_unit("s").with_description(description).with_boundaries(bounds.to_vec()).build()
}

/// Tells how long a write of the journal took.
pub fn record_journal(took: Duration) {
    static WRITES: LazyLock<Histogram<f64>> = LazyLock::new(|| {
        histogram("whitelistmcp.journal.write.duration", "Writes of the audit journal, with their syncs")
    });
    WRITES.record(took.as_secs_f64(), &[]);
}

/// Tells, whenever metrics leave, how many records wait for the journal and for how long it has got no further: a write that
/// hangs shows as well as one that fails. Nothing is told any more once `ask` knows nothing.
pub fn watch_journal(ask: impl Fn() -> Option<(usize, Duration)> + Clone + Send + Sync + 'static) {
    let waiting = ask.clone();
    meter()
        .u64_observable_gauge("whitelistmcp.journal.waiting")
        .with_description("Records that wait for the audit journal")
        .with_callback(move |told| {
            if let Some((waiting, _)) = waiting() {
                told.observe(u64::try_from(waiting).unwrap_or(u64::MAX), &[]);
            }
        })
        .build();
    meter()
        .f64_observable_gauge("whitelistmcp.journal.lag")
        .with_unit("s")
        .with_description("How long records have been waiting while the audit journal got no further")
        .with_callback(move |told| {
            if let Some((_, lag)) = ask() {
                told.observe(lag.as_secs_f64(), &[]);
            }
        })
        .build();
}

/// Tells whether the journal can be written.
pub fn record_journal_state(writable: bool) {
    static WRITABLE: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        let text = "Whether the audit journal takes records: 1, or 0 while changes are refused";
        meter().u64_gauge("whitelistmcp.journal.writable").with_description(text).build()
    });
    WRITABLE.record(u64::from(writable), &[]);
}

/// Counts a panic.
pub fn record_panic() {
    panics().add(1, &[]);
}

fn panics() -> &'static Counter<u64> {
    static PANICS: LazyLock<Counter<u64>> = LazyLock::new(|| {
        meter().u64_counter("whitelistmcp.panics").with_description("Faults of the service's own").build()
    });
    &PANICS
}

/// Begins counters that alerts watch at zero: of a series that begins with its first event, no increase is seen.
pub fn begin_at_zero(tools: impl IntoIterator<Item = &'static str>) {
    panics().add(0, &[]);
    for tool in tools {
        broken().add(0, &[KeyValue::new("tool", tool)]);
    }
    throttled().add(0, &[KeyValue::new("rpc.service", "sts"), KeyValue::new("rpc.method", "AssumeRole")]);
    closed().add(0, &[]);
}

/// Tells which program this is.
pub(super) fn record_build(role: &'static str) {
    let build = meter().u64_gauge("whitelistmcp.build").with_description("1, with the version and the role").build();
    build.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION")), KeyValue::new("role", role)]);
}

/// Tells whether the circuit of a service of AWS in an account and Region is open.
pub fn record_circuit(service: &'static str, account: &str, region: &str, open: bool) {
    static OPEN: LazyLock<Gauge<u64>> = LazyLock::new(|| {
        let text = "Whether callers are told at once that a service of AWS does not answer in a place: 1, or 0";
        meter().u64_gauge("whitelistmcp.aws.circuit.open").with_description(text).build()
    });
    let place = [
        KeyValue::new("rpc.service", service),
        KeyValue::new("cloud.account.id", account.to_owned()),
        KeyValue::new("cloud.region", region.to_owned()),
    ];
    OPEN.record(u64::from(open), &place);
}
