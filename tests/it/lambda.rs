//! The binary as a function of AWS Lambda: what it refuses, what it answers to each kind of event, and what is on disk by then.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::collector::Collector;
use crate::support::issuer::Issuer;
use crate::support::processes::Process;
use crate::support::runtime_api::{Outcome, RuntimeApi};
use crate::support::temporary::Directory;
use crate::support::{EDGE, Stack, eventually, journal};

const PUBLIC_URL: &str = "https://whitelist.example.com/mcp";
const HOSTS: &str = "[\"a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com\", \"abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-central-1.on.aws\"]";

/// The events that API Gateway, function URLs and EventBridge make, one of each kind.
fn event(name: &str) -> Value {
    let text = match name {
        "rest-proxy" => include_str!("lambda/rest-proxy.json"),
        "http-api" => include_str!("lambda/http-api.json"),
        "function-url" => include_str!("lambda/function-url.json"),
        "token-authorizer" => include_str!("lambda/token-authorizer.json"),
        _ => include_str!("lambda/scheduled-event.json"),
    };
    serde_json::from_str(text).expect("JSON")
}

const REQUESTS: [&str; 3] = ["rest-proxy", "http-api", "function-url"];

/// Sets a header, in both places where format 1.0 has them.
fn set_header(event: &mut Value, name: &str, value: &str) {
    let named = |headers: &Value| {
        let known = headers.as_object().into_iter().flat_map(|headers| headers.keys());
        known.map(String::as_str).find(|known| known.eq_ignore_ascii_case(name)).unwrap_or(name).to_owned()
    };
    let known = named(&event["headers"]);
    event["headers"][&known] = value.into();
    if event.get("multiValueHeaders").is_some() {
        event["multiValueHeaders"][&known] = json!([value]);
    }
}

fn take_header(event: &mut Value, name: &str) {
    for headers in ["headers", "multiValueHeaders"] {
        if let Some(headers) = event.get_mut(headers).and_then(Value::as_object_mut) {
            headers.retain(|known, _| !known.eq_ignore_ascii_case(name));
        }
    }
}

fn set_body(event: &mut Value, body: &str) {
    event["body"] = body.into();
    event["isBase64Encoded"] = false.into();
}

fn set_method(event: &mut Value, method: &str, path: &str) {
    if event.get("httpMethod").is_some() {
        (event["httpMethod"], event["path"]) = (method.into(), path.into());
    } else {
        (event["requestContext"]["http"]["method"], event["rawPath"]) = (method.into(), path.into());
    }
}

/// The event of a request with that token and that message.
fn request(name: &str, token: Option<&str>, message: &Value) -> Value {
    let mut event = event(name);
    if let Some(token) = token {
        set_header(&mut event, "Authorization", &format!("Bearer {token}"));
    }
    set_body(&mut event, &message.to_string());
    event
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

fn add(address: &str, duration: &str) -> Value {
    call(
        "whitelist_add",
        json!({"security_group": "staging-db", "address": address, "port": 22, "reason": "lambda", "duration": duration}),
    )
}

/// A header of an answer, in either format.
fn header(answer: &Value, name: &str) -> String {
    match answer.get("multiValueHeaders") {
        Some(headers) => headers[name][0].as_str().unwrap_or_default().to_owned(),
        None => answer["headers"][name].as_str().unwrap_or_default().to_owned(),
    }
}

fn status(answer: &Value) -> u64 {
    answer["statusCode"].as_u64().unwrap_or_else(|| panic!("{answer:#}"))
}

fn body(answer: &Value) -> Value {
    let text = answer["body"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
    assert_eq!(answer["isBase64Encoded"], false, "{answer:#}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

struct Function {
    process: Process,
    api: RuntimeApi,
    aws: AwsDouble,
    issuer: Issuer,
    directory: Directory,
}

impl Function {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Edge and core in one, by the environment alone; what is empty is taken out of it.
    async fn with(more: &[(&str, String)]) -> Self {
        let (aws, issuer, directory) = (AwsDouble::start().await, Issuer::start().await, Directory::new());
        let mut environment = crate::mode::remote(&aws, &issuer, &directory, 1);
        let mut set = |name: &str, value: String| {
            environment.retain(|(known, _)| known != name);
            if !value.is_empty() {
                environment.push((name.to_owned(), value));
            }
        };
        set("MCP_MODE", "serverless".to_owned());
        set("WHITELISTMCP_EDGE__PUBLIC_URL", PUBLIC_URL.to_owned());
        set("WHITELISTMCP_EDGE__ALLOWED_HOSTS", HOSTS.to_owned());
        set("WHITELISTMCP_LEASES__SETTLE", "50ms".to_owned());
        for (name, value) in more {
            set(name, value.clone());
        }
        Self::run(aws, issuer, directory, environment).await
    }

    async fn run(aws: AwsDouble, issuer: Issuer, directory: Directory, mut environment: Vec<(String, String)>) -> Self {
        let api = RuntimeApi::start().await;
        environment.extend(api.environment());
        let process = Process::start(&[], &environment, directory.path().join("function.log"));
        Self { process, api, aws, issuer, directory }
    }

    fn token(&self) -> String {
        self.issuer.token("alice", "whitelist:read whitelist:write")
    }

    async fn answer(&self, event: Value) -> Value {
        let outcome = self.api.invoke(event).await;
        match outcome {
            Outcome::Answer(answer) => answer,
            Outcome::Error(error) => panic!("{error:#}\n{}", self.process.log()),
        }
    }

    /// The journal as it is on disk now.
    fn journal(&self) -> Vec<Value> {
        journal(&self.directory.path().join("journal"))
    }

    async fn stop(mut self) {
        self.process.signal("TERM");
        let ended = self.process.end_within(Duration::from_secs(5)).await;
        assert!(ended.success(), "{ended}: {}", self.process.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_get_in_does_not() {
    let function = Function::start().await;
    let good = function.token();
    let list = call("whitelist_list", json!({"security_group": "staging-db"}));
    for name in REQUESTS {
        let without = function.answer(request(name, None, &list)).await;
        let challenge = header(&without, "www-authenticate");
        assert_eq!((status(&without), body(&without)["id"].as_i64()), (401, Some(7)), "{name}: {without:#}");
        let metadata = "resource_metadata=\"https://whitelist.example.com/.well-known/oauth-protected-resource/mcp\"";
        assert!(challenge.starts_with("Bearer") && challenge.contains(metadata), "{name}: {challenge}");

        let stranger = Issuer::start().await.token("alice", "whitelist:write");
        for bad in [&*stranger, "not-a-token", &format!("{good}x")] {
            let refused = function.answer(request(name, Some(bad), &list)).await;
            let challenge = header(&refused, "www-authenticate");
            assert!(status(&refused) == 401 && challenge.contains("invalid_token"), "{name}: {refused:#}");
        }
        let mut foreign = request(name, Some(&good), &list);
        set_header(&mut foreign, "Host", "evil.example.com");
        assert_eq!(status(&function.answer(foreign).await), 403, "{name}");

        let mut page = request(name, Some(&good), &list);
        set_header(&mut page, "Origin", "https://evil.example.com");
        assert_eq!(status(&function.answer(page).await), 403, "{name}");

        for path in ["/mcp", "/ws"] {
            let mut stream = request(name, Some(&good), &list);
            set_method(&mut stream, "GET", path);
            set_header(&mut stream, "Upgrade", "websocket");
            set_header(&mut stream, "Connection", "Upgrade");
            let refused = function.answer(stream).await;
            assert_eq!((status(&refused), header(&refused, "allow").as_str()), (405, "POST"), "{name} {path}");
            assert!(body(&refused)["error"]["message"].as_str().is_some_and(|said| said.contains("no WebSockets")));
        }
        let mut large = request(name, Some(&good), &list);
        set_body(&mut large, &format!("{{\"x\": \"{}\"}}", "x".repeat(300_000)));
        assert_eq!(status(&function.answer(large).await), 413, "{name}");

        let mut broken = request(name, Some(&good), &list);
        (broken["body"], broken["isBase64Encoded"]) = ("this is no base64!".into(), true.into());
        let refused = function.answer(broken).await;
        assert!(status(&refused) == 400 && body(&refused)["error"]["code"] == 400, "{name}: {refused:#}");
    }
    // What stands there twice is seen, and not the last of it taken.
    let mut twice = request("rest-proxy", Some(&good), &list);
    twice["multiValueHeaders"]["Authorization"] = json!(["Bearer other", format!("Bearer {good}")]);
    assert_eq!(status(&function.answer(twice).await), 400);
    // Without a host there is the one that the platform knows.
    let mut hostless = request("http-api", Some(&good), &list);
    take_header(&mut hostless, "host");
    hostless["requestContext"]["domainName"] = "evil.example.com".into();
    assert_eq!(status(&function.answer(hostless).await), 403);
    assert!(function.aws.asked().is_empty(), "AWS was asked: {:?}", function.aws.actions());
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_another_kind_is_refused_with_what_is_taken() {
    let function = Function::start().await;
    let mut request_authorizer = event("rest-proxy");
    (request_authorizer["type"], request_authorizer["methodArn"]) = ("REQUEST".into(), "arn:aws:execute-api:x".into());
    let mut socket = event("rest-proxy");
    socket["requestContext"]["connectionId"] = "L0SM9cOFvHcCIhw=".into();
    let mut balancer = event("rest-proxy");
    balancer["requestContext"] = json!({"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x"}});
    let mut authorizer = event("token-authorizer");
    authorizer["methodArn"] = "arn:aws:lambda:eu-central-1:123456789012:function:x".into();
    authorizer["authorizationToken"] = format!("Bearer {}", function.token()).into();
    let mut own = event("scheduled-event");
    own["source"] = "com.example".into();
    for (event, part) in [
        (json!({}), "none of them"),
        (json!([1]), "none of them"),
        (json!("x"), "none of them"),
        (json!({"Records": [{"eventSource": "aws:sqs", "body": "x"}]}), "none of them"),
        (request_authorizer, "make it a TOKEN authorizer"),
        (socket, "WebSocket APIs are not served"),
        (balancer, "none of them"),
        (authorizer, "`methodArn`"),
        (own, "none of them"),
    ] {
        let (kind, words) = function.api.invoke(event.clone()).await.error();
        assert!(kind == "EventNotTaken" && words.contains(part), "{event}: {kind}: {words}");
    }
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_request_is_a_call_like_any_other_and_on_disk_when_it_is_answered() {
    let mut function = Function::start().await;
    let token = function.token();
    for (number, name) in REQUESTS.into_iter().enumerate() {
        let greeted = function.answer({
            let mut first = event(name);
            set_header(&mut first, "authorization", &format!("Bearer {token}"));
            first
        });
        let greeted = greeted.await;
        assert_eq!(body(&greeted)["result"]["serverInfo"]["name"], "whitelistmcp", "{name}: {greeted:#}");
        assert_eq!(header(&greeted, "content-type"), "application/json");

        // Where the caller is, the platform says, and no header that a caller could have sent.
        let mut opened = request(name, Some(&token), &add("current", "1h"));
        let address = format!("198.51.100.{number}");
        let at = if name == "rest-proxy" { "identity" } else { "http" };
        opened["requestContext"][at]["sourceIp"] = address.clone().into();
        set_header(&mut opened, "X-Forwarded-For", "192.0.2.66, 192.0.2.67");
        set_header(&mut opened, "Forwarded", "for=192.0.2.68");
        let opened = body(&function.answer(opened).await);
        let rule = &opened["result"]["structuredContent"]["rule"];
        assert_eq!(rule["source"], format!("{address}/32"), "{name}: {opened:#}");

        // Everything is on disk by now: the process may be ended without a word.
        let entries = function.journal();
        let ends = entries.iter().filter(|entry| entry["type"] == "end").count();
        let begins = entries.iter().filter(|entry| entry["type"] == "begin").count();
        assert!(begins == ends && ends > number, "{name}: {begins} begun, {ends} ended: {entries:#?}");
    }
    assert_eq!(function.aws.standing().len(), 3);
    // The metadata is found with the stage and without it.
    for (name, path) in [
        ("rest-proxy", "/.well-known/oauth-protected-resource/mcp"),
        ("http-api", "/prod/.well-known/oauth-protected-resource/mcp"),
        ("function-url", "/.well-known/oauth-protected-resource"),
    ] {
        let mut asked = event(name);
        set_method(&mut asked, "GET", path);
        let metadata = function.answer(asked).await;
        assert_eq!((status(&metadata), body(&metadata)["resource"].as_str()), (200, Some(PUBLIC_URL)), "{name}");
    }
    // What would last is refused with the reason.
    let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
    let mut listen = request("function-url", Some(&token), &listen);
    set_header(&mut listen, "mcp-protocol-version", "2026-07-28");
    set_header(&mut listen, "mcp-method", "subscriptions/listen");
    let refused = function.answer(listen).await;
    let said = body(&refused)["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(status(&refused) == 404 && said.contains("ask again instead"), "{refused:#}");

    function.process.kill();
    let verify = crate::support::emulator::output(
        std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(["audit", "verify", "--directory"])
            .arg(function.directory.path().join("journal")),
    );
    assert!(verify.contains("nothing speaks against it"), "{verify}");
    let log = function.process.log();
    assert!(!log.contains(&token), "the token is in the log");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
    assert_eq!(function.api.extensions().len(), 1, "one extension, by which SIGTERM comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_little_time_nothing_is_begun_and_what_takes_too_long_is_answered() {
    let function = Function::start().await;
    let token = function.token();
    let event = || request("rest-proxy", Some(&token), &add("203.0.113.9", "1h"));
    for left in [Duration::ZERO, Duration::from_millis(1500)] {
        let answer = function.api.invoke_within(event(), left).await.answer();
        assert_eq!((status(&answer), header(&answer, "retry-after").as_str()), (503, "1"), "{answer:#}");
        assert!(body(&answer)["error"]["message"].as_str().is_some_and(|said| said.contains("nothing was")));
    }
    assert!(function.aws.asked().is_empty() && function.journal().iter().all(|entry| entry["type"] != "begin"));
    // STS is silent: the call ends before the platform would.
    function.aws.black_hole(&function.aws.access().account);
    let begun = std::time::Instant::now();
    let answer = function.api.invoke_within(event(), Duration::from_millis(5500)).await.answer();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_millis(5500), "{took:?}: {answer:#}");
    let said = answer["body"].as_str().unwrap_or_default();
    assert!(said.contains("DEADLINE_EXCEEDED") || said.contains("the time is over"), "{answer:#}");
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authorizer_decides_as_the_function_does_and_says_the_word_for_401() {
    let function = Function::start().await;
    let asked = |token: &str| {
        let mut event = event("token-authorizer");
        event["authorizationToken"] = token.into();
        event
    };
    let stranger = Issuer::start().await.token("alice", "whitelist:write");
    let id_token = function.issuer.token_with("alice", "whitelist:read", json!({"aud": "https://elsewhere"}));
    for bad in ["", "Bearer", "allow", &format!("Bearer {stranger}"), &format!("Bearer {id_token}"), "Basic YTpi"] {
        let refused = function.api.invoke(asked(bad)).await.error();
        assert_eq!(refused, ("Unauthorized".to_owned(), "Unauthorized".to_owned()), "{bad}");
    }
    let answer = function.api.invoke(asked(&format!("Bearer {}", function.token()))).await.answer();
    assert_eq!(
        answer["policyDocument"],
        json!({"Version": "2012-10-17", "Statement": [{"Action": "execute-api:Invoke", "Effect": "Allow",
            "Resource": "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5/prod/*"}]})
    );
    let principal = answer["principalId"].as_str().expect("a principal");
    assert!(principal.starts_with("alice") && answer["context"]["subject"] == "alice", "{answer:#}");
    assert_eq!(answer["context"]["scope"], "whitelist:read whitelist:write");
    assert!(answer["context"].as_object().expect("a context").values().all(Value::is_string));
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_is_no_401() {
    // Nobody listens there.
    let gone = "http://127.0.0.1:9".to_owned();
    let function = Function::with(&[("WHITELISTMCP_OIDC__COMPANY__ISSUER", gone.clone())]).await;
    let token = function.issuer.token_with("alice", "whitelist:read", json!({"iss": gone}));
    let mut event = event("token-authorizer");
    event["authorizationToken"] = format!("Bearer {token}").into();
    let (kind, words) = function.api.invoke(event).await.error();
    assert!(kind == "Unavailable" && words != "Unauthorized", "{kind}: {words}");
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_closes_what_has_ended_and_fails_where_it_cannot() {
    let function = Function::start().await;
    let token = function.token();
    for (address, duration) in [("203.0.113.7", "1s"), ("203.0.113.8", "1h")] {
        let opened = body(&function.answer(request("http-api", Some(&token), &add(address, duration))).await);
        assert_eq!(opened["result"]["isError"], false, "{opened:#}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Nothing closes by itself: between two events nothing runs.
    assert_eq!(function.aws.standing().len(), 2);
    function.aws.down(true);
    let (kind, words) = function.api.invoke(event("scheduled-event")).await.error();
    assert!(kind == "Overdue" && words.contains("\"missed\":1"), "{kind}: {words}");
    function.aws.down(false);
    let mut scheduler = event("scheduled-event");
    (scheduler["source"], scheduler["detail"]) = ("aws.scheduler".into(), "{}".into());
    let told = eventually("a round that is well", async || match function.api.invoke(scheduler.clone()).await {
        Outcome::Answer(told) => Some(told),
        Outcome::Error(_) => None,
    })
    .await;
    assert_eq!((told["closed"].as_u64(), told["standing"].as_u64()), (Some(1), Some(2)), "{told:#}");
    assert_eq!(function.aws.standing().len(), 1, "what has not ended stands");
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_journal_nothing_is_changed_and_the_schedule_says_so() {
    // As it is in a function whose directory is its own scratch space.
    let function = Function::with(&[("WHITELISTMCP_AUDIT__VOLUME", "detect".to_owned())]).await;
    let token = function.token();
    let refused = body(&function.answer(request("http-api", Some(&token), &add("203.0.113.7", "1h"))).await);
    assert!(refused.to_string().contains("AUDIT_NOT_KEPT"), "{refused:#}");
    let (kind, words) = function.api.invoke(event("scheduled-event")).await.error();
    assert!(kind == "NoJournal" && words.contains("persistent"), "{kind}: {words}");
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_closes_the_journal() {
    let function = Function::start().await;
    let token = function.token();
    function.answer(request("function-url", Some(&token), &add("203.0.113.7", "1h"))).await;
    let directory = function.directory.path().join("journal");
    let Function { mut process, directory: _kept, .. } = function;
    process.signal("TERM");
    assert!(process.end_within(Duration::from_secs(5)).await.success(), "{}", process.log());
    let entries = journal(&directory);
    let types: Vec<&str> = entries.iter().rev().take(2).filter_map(|entry| entry["type"].as_str()).collect();
    assert_eq!(types, ["head", "closed"], "{:#?}", entries.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_backend_it_is_an_edge_in_front_of_a_core_elsewhere() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let at = stack.directory.path().display().to_string();
    let issuer = stack.issuer.url.clone();
    let variables = [
        ("MCP_MODE", "serverless".to_owned()),
        ("WHITELISTMCP_EDGE__PUBLIC_URL", PUBLIC_URL.to_owned()),
        ("WHITELISTMCP_EDGE__ALLOWED_HOSTS", HOSTS.to_owned()),
        ("WHITELISTMCP_EDGE__BACKEND__ADDRESS", format!("localhost:{}", stack.core.port())),
        ("WHITELISTMCP_EDGE__BACKEND__CERTIFICATE", format!("{at}/edge.pem")),
        ("WHITELISTMCP_EDGE__BACKEND__KEY", format!("{at}/edge.key")),
        ("WHITELISTMCP_EDGE__BACKEND__CA", format!("{at}/ca.pem")),
        ("WHITELISTMCP_OIDC__COMPANY__ISSUER", issuer),
        ("WHITELISTMCP_OIDC__COMPANY__AUDIENCE", crate::support::AUDIENCE.to_owned()),
    ];
    let environment = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let function = Function::run(aws.clone(), Issuer::start().await, Directory::new(), environment).await;
    let opened = function.answer(request("function-url", Some(&stack.token()), &add("current", "1h"))).await;
    let opened = body(&opened);
    assert_eq!(opened["result"]["structuredContent"]["rule"]["source"], "203.0.113.7/32", "{opened:#}");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let begun = entries.iter().find(|entry| entry["type"] == "begin").expect("a begin");
    assert!(begun.to_string().contains(EDGE), "the core knows the edge by its certificate: {begun:#}");
    let (kind, _) = function.api.invoke(event("scheduled-event")).await.error();
    assert_eq!(kind, "NothingToClose");
    function.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_leaves_before_the_answer() {
    let directory = Directory::new();
    let collector = Collector::start(&directory).await;
    let receiver = format!("http://127.0.0.1:{}", collector.grpc);
    // Nothing would leave by itself for an hour.
    let slow = "3600000".to_owned();
    let function = Function::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver),
        ("OTEL_BSP_SCHEDULE_DELAY", slow.clone()),
        ("OTEL_BLRP_SCHEDULE_DELAY", slow.clone()),
        ("OTEL_METRIC_EXPORT_INTERVAL", slow),
    ])
    .await;
    let token = function.token();
    function.answer(request("function-url", Some(&token), &add("203.0.113.7", "1h"))).await;
    for part in ["tools/call whitelist_add", "http.server.request.duration", "audit.begin"] {
        eventually(part, async || collector.text().contains(part).then_some(())).await;
    }
    function.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_says_nothing_costs_no_answer() {
    // It takes connections, and nothing else.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let receiver = format!("http://{}", mute.local_addr().expect("an address"));
    let function = Function::with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)]).await;
    let token = function.token();
    let list = call("whitelist_list", json!({"security_group": "staging-db"}));
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let answer = function.answer(request("http-api", Some(&token), &list)).await;
        assert!(status(&answer) == 200 && begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    // The gateway has waited for 25 s, most of them for this process to start: it gets an answer within the other four.
    let mut late = request("http-api", Some(&token), &list);
    let since = whitelistmcp::clock::Clock::system().now().as_millisecond() - 25_000;
    late["requestContext"]["timeEpoch"] = since.into();
    let begun = std::time::Instant::now();
    let answer = function.answer(late).await;
    assert!(status(&answer) == 200 && begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    function.stop().await;
}

#[test]
fn a_configuration_that_is_none_of_a_function_is_refused() {
    let run = |environment: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
        command.env_clear().envs(environment.iter().copied()).stdin(std::process::Stdio::null());
        let output = command.output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let base = [
        ("MCP_MODE", "serverless"),
        ("WHITELISTMCP_EDGE__PUBLIC_URL", PUBLIC_URL),
        ("WHITELISTMCP_OIDC__COMPANY__ISSUER", "https://login.example.com"),
        ("WHITELISTMCP_OIDC__COMPANY__AUDIENCE", PUBLIC_URL),
    ];
    let there = [
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9"),
        ("AWS_LAMBDA_FUNCTION_NAME", "x"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
    ];
    for (environment, part) in [
        (base.to_vec(), "AWS_LAMBDA_RUNTIME_API is missing or wrong"),
        (
            [&base[..], &there, &[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much")]].concat(),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        ),
        ([&base[..], &there, &[("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9/api")]].concat(), "AWS_LAMBDA_RUNTIME_API is"),
        ([&base[..1], &there].concat(), "MCP_MODE=serverless says to serve, and nothing says what"),
        // A function that Lambda has started is one, whether or not it is said.
        (there.to_vec(), "says to serve, and nothing says what"),
        ([&base[..], &there, &[("MCP_AUTH_TOKEN", "s3cret")]].concat(), "no shared secret"),
        (
            [&base[..], &there, &[("WHITELISTMCP_EDGE__TLS", "{ certificate = \"x\", key = \"y\" }")]].concat(),
            "`[edge] tls` means nothing in a function",
        ),
        (
            [&base[..], &there, &[("WHITELISTMCP_APPROVALS__WAIT", "30m")]].concat(),
            "`[approvals]` needs `[redis]` in a function",
        ),
    ] {
        let (well, said) = run(&environment);
        assert!(!well && said.contains(part), "{part}: {said}");
    }
}
