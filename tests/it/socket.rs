//! MCP over a WebSocket, in batches, and from a browser's page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::{Options, PATIENCE, Stack, eventually, tls};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn connect(stack: &Stack, path: &str, headers: &[(&'static str, String)]) -> Result<Socket, Error> {
    let tls = TlsConnector::from(Arc::new(tls::client(stack.directory.path(), None, &[b"http/1.1"])));
    let stream = TcpStream::connect(stack.edge).await.expect("it listens");
    let stream = tls.connect("localhost".try_into().expect("a name"), stream).await.expect("TLS");
    let mut request = format!("wss://localhost:{}{path}", stack.edge.port()).into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

/// A socket whose first message was a good token.
async fn open(stack: &Stack) -> Socket {
    let mut socket = connect(stack, "/ws", &[]).await.expect("it upgrades");
    say(&mut socket, &json!({"token": stack.token()})).await;
    socket
}

async fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.expect("sent");
}

async fn hear(socket: &mut Socket) -> Value {
    let heard = async {
        loop {
            match socket.next().await.expect("a frame").expect("a sound frame") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("an answer in time")
}

async fn ask(socket: &mut Socket, id: Value, method: &str, params: Value) -> Value {
    say(socket, &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    hear(socket).await
}

/// How the service closes it.
async fn closes(socket: &mut Socket) -> (u16, String) {
    let closed = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("no farewell: {other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it closes in time")
}

fn list() -> Value {
    json!({"name": "whitelist_list", "arguments": {"security_group": "staging-db"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_first_message_and_then_both_eras() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut socket = open(&stack).await;
    // As the predecessor's guide has it: no `initialize` before.
    let tools = ask(&mut socket, json!(1), "tools/list", json!({})).await;
    assert_eq!(tools["id"], 1);
    let names = tools["result"]["tools"].as_array().expect("tools").iter().map(|tool| tool["name"].clone());
    assert!(names.clone().any(|name| name == "whitelist_add") && names.count() >= 6, "{tools:#}");
    let answer = ask(&mut socket, json!("i"), "initialize", json!({"protocolVersion": "2025-06-18"})).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(ask(&mut socket, json!(2), "ping", json!({})).await["result"], json!({}));
    let called = ask(&mut socket, json!(3), "tools/call", list()).await;
    assert_eq!((called["id"].as_i64(), called["result"]["isError"].as_bool()), (Some(3), Some(false)), "{called:#}");
    // The modern era is said with each message, whatever was negotiated.
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let found = ask(&mut socket, json!(4), "server/discover", json!({"_meta": meta})).await;
    assert_eq!(found["result"]["resultType"], "complete", "{found:#}");
    let unknown = ask(&mut socket, json!(5), "ping", json!({"_meta": meta})).await;
    assert_eq!(unknown["error"]["code"], -32601, "the modern era has no ping");
    let old = json!({"io.modelcontextprotocol/protocolVersion": "2027-01-01", "io.modelcontextprotocol/clientCapabilities": {}});
    assert_eq!(ask(&mut socket, json!(6), "tools/list", json!({"_meta": old})).await["error"]["code"], -32022);
    socket.close(None).await.expect("closed");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_header_of_the_upgrade_and_none_in_the_address() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let bearer = |token: &str| [("authorization", format!("Bearer {token}"))];
    for path in ["/ws", "/mcp"] {
        let mut socket = connect(&stack, path, &bearer(&stack.token())).await.expect("it upgrades");
        let called = ask(&mut socket, json!(1), "tools/call", list()).await;
        assert_eq!(called["result"]["isError"], false, "{called:#}");
    }
    let refused = |error: Error| match error {
        Error::Http(response) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(connect(&stack, "/ws", &bearer("made-up")).await.expect_err("refused")), 401);
    let stranger = [("origin", "https://evil.example".to_owned())];
    assert_eq!(refused(connect(&stack, "/ws", &stranger).await.expect_err("refused")), 403);
    // A token in the address is not looked at.
    let path = format!("/ws?access_token={0}&token={0}", stack.token());
    let mut socket = connect(&stack, &path, &[]).await.expect("it upgrades");
    say(&mut socket, &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    assert_eq!(closes(&mut socket).await.0, 4002);
    // Without an upgrade it says what is wanted.
    let answer = stack.send(http::Method::GET, "/ws", None, &[], Vec::new()).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (426, Some(426)));
    let answer = stack.send(http::Method::GET, "/mcp", None, &[], Vec::new()).await;
    assert_eq!(answer.status, 405);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_token_it_ends_before_anything_is_looked_at() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for (first, code) in [
        (json!({"token": "made-up"}).to_string(), 4001),
        (json!({"token": stack.issuer.token_with("alice", "whitelist:read", json!({"exp": 1}))}).to_string(), 4001),
        (json!({"token": ""}).to_string(), 4002),
        (json!({"token": 5}).to_string(), 4002),
        (json!({"token": stack.token(), "more": 1}).to_string(), 4002),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": list()}).to_string(), 4002),
        ("not json".to_owned(), 4002),
    ] {
        let mut socket = connect(&stack, "/ws", &[]).await.expect("it upgrades");
        socket.send(Message::text(first.clone())).await.expect("sent");
        let (closed, why) = closes(&mut socket).await;
        assert_eq!(closed, code, "{first}: {why}");
        assert!(!why.is_empty() && why.len() <= 123);
    }
    let mut socket = connect(&stack, "/ws", &[]).await.expect("it upgrades");
    socket.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
    assert_eq!(closes(&mut socket).await.0, 4002);
    assert!(aws.asked().is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_run_side_by_side_and_are_given_up_by_name() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut socket = open(&stack).await;
    for _ in 0..8 {
        aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_millis(400)));
    }
    let call = |id: Value| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": list()});
    let begun = Instant::now();
    for id in 0..8 {
        say(&mut socket, &call(json!(id))).await;
    }
    // An id that is still worked on.
    say(&mut socket, &call(json!(3))).await;
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(hear(&mut socket).await);
    }
    assert!(begun.elapsed() < Duration::from_millis(2400), "{:?}", begun.elapsed());
    let twice: Vec<&Value> = answers.iter().filter(|answer| answer["error"]["code"] == -32600).collect();
    assert_eq!(twice.len(), 1, "{answers:#?}");
    assert_eq!(twice[0]["id"], 3);
    let mut ids: Vec<i64> = answers
        .iter()
        .filter(|answer| answer["result"].is_object())
        .filter_map(|answer| answer["id"].as_i64())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<_>>());
    // One that is given up is not answered, and its id is free again.
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(5)));
    say(&mut socket, &call(json!("c"))).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let cancelled =
        |id: Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    say(&mut socket, &cancelled(json!("c"))).await;
    say(&mut socket, &cancelled(json!("never"))).await;
    let ping = ask(&mut socket, json!("p"), "ping", json!({})).await;
    assert_eq!(ping["id"], "p", "{ping:#}");
    let again = ask(&mut socket, json!("c"), "tools/call", list()).await;
    assert_eq!((again["id"].as_str(), again["result"]["isError"].as_bool()), (Some("c"), Some(false)));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_answered_and_the_socket_lives() {
    let options = Options { edge_extra: "body_max = 4096", ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    let mut socket = open(&stack).await;
    for (text, code) in [
        ("{not json".to_owned(), -32700),
        ("5".to_owned(), -32600),
        (json!({"jsonrpc": "2.0", "id": null, "method": "ping"}).to_string(), -32600),
        (json!({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}).to_string(), -32600),
        ("[]".to_owned(), -32600),
        (format!("{}{}", "[".repeat(40), "]".repeat(40)), -32600),
        (json!({"jsonrpc": "2.0", "id": 1, "result": {}}).to_string(), -32600),
        (json!({"jsonrpc": "2.0", "id": 2, "method": "x/y"}).to_string(), -32601),
        (json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "nope"}}).to_string(), -32602),
    ] {
        socket.send(Message::text(text.clone())).await.expect("sent");
        let answer = hear(&mut socket).await;
        assert_eq!(answer["error"]["code"], code, "{text}: {answer:#}");
    }
    assert_eq!(ask(&mut socket, json!(9), "ping", json!({})).await["id"], 9);
    socket.send(Message::binary(vec![0])).await.expect("sent");
    assert_eq!(closes(&mut socket).await.0, 1003);
    let mut socket = open(&stack).await;
    let long = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "y".repeat(8000)}}).to_string();
    socket.send(Message::text(long)).await.expect("sent");
    assert_eq!(closes(&mut socket).await.0, 1009);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_does_not_outlive_its_token_and_a_new_one_renews_it() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let ends_soon = || {
        #[expect(clippy::disallowed_methods, reason = "the issuer's time is the machine's own")]
        let end = jiff::Timestamp::now().as_second() + 2;
        stack.issuer.token_with("alice", "whitelist:read whitelist:write", json!({"exp": end}))
    };
    let mut socket = connect(&stack, "/ws", &[]).await.expect("it upgrades");
    say(&mut socket, &json!({"token": ends_soon()})).await;
    assert_eq!(ask(&mut socket, json!(1), "ping", json!({})).await["id"], 1);
    let mut renewed = connect(&stack, "/ws", &[]).await.expect("it upgrades");
    say(&mut renewed, &json!({"token": ends_soon()})).await;
    say(&mut renewed, &json!({"token": stack.token()})).await;
    assert_eq!(ask(&mut renewed, json!(1), "ping", json!({})).await["id"], 1);
    // Clocks of issuers may be a little off, so a token is taken for a while after its end.
    let code = eventually("the end of the token", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        say(&mut socket, &json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => Some(u16::from(frame.code)),
            _ => None,
        }
    });
    assert_eq!(code.await, 4001);
    assert_eq!(ask(&mut renewed, json!(2), "ping", json!({})).await["id"], 2, "the renewed one lives");
    // Another person's token is no renewal.
    say(&mut renewed, &json!({"token": stack.issuer.token("bob", "whitelist:read")})).await;
    let (code, why) = closes(&mut renewed).await;
    assert_eq!(code, 4001);
    assert!(why.contains("another"), "{why}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_finishes_what_runs_on_sockets_and_says_so() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut socket = open(&stack).await;
    assert_eq!(ask(&mut socket, json!(1), "ping", json!({})).await["id"], 1);
    let mut waiting = connect(&stack, "/ws", &[]).await.expect("it upgrades");
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_millis(500)));
    say(&mut socket, &json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": list()})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ended = async {
        let answer = hear(&mut socket).await;
        assert_eq!((answer["id"].as_i64(), answer["result"]["isError"].as_bool()), (Some(2), Some(false)));
        assert_eq!(closes(&mut socket).await.0, 1001);
        assert_eq!(closes(&mut waiting).await.0, 1001);
    };
    tokio::join!(stack.stop(), ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_taken_where_the_revision_has_them() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let request = |id: Value, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}});
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let batch = json!([
        request(json!(1), "ping"), notification, request(json!("b"), "tools/list"), 5, request(json!(3), "x/y"),
        request(json!(4), "initialize"),
        {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": list()},
    ])
    .to_string();
    let version = |revision: &'static str| [("mcp-protocol-version", revision)];
    for headers in [&[][..], &version("2025-03-26"), &version("2024-11-05")] {
        let answer = stack.post(Some(&token), headers, batch.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answers = answer.json();
        let ids: Vec<Value> = answers.as_array().expect("an array").iter().map(|one| one["id"].clone()).collect();
        assert_eq!(ids, [json!(1), json!("b"), Value::Null, json!(3), json!(4), json!(5)], "{answers:#}");
        assert!(answers[1]["result"]["tools"].is_array() && answers[5]["result"]["isError"] == false);
        let codes: Vec<i64> =
            answers.as_array().expect("an array").iter().filter_map(|one| one["error"]["code"].as_i64()).collect();
        assert_eq!(codes, [-32600, -32601, -32600]);
    }
    for headers in [version("2025-06-18"), version("2025-11-25"), version("2026-07-28")] {
        let answer = stack.post(Some(&token), &headers, batch.clone()).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(-32600)), "{answer:?}");
    }
    let nothing = stack.post(Some(&token), &[], json!([notification, notification]).to_string()).await;
    assert_eq!((nothing.status, nothing.body.len()), (202, 0));
    let empty = stack.post(Some(&token), &[], "[]").await;
    assert_eq!((empty.status, empty.json()["error"]["code"].as_i64()), (400, Some(-32600)));
    // On a socket as well.
    let mut socket = open(&stack).await;
    say(&mut socket, &json!([request(json!(1), "ping"), request(json!(2), "ping")])).await;
    assert_eq!(hear(&mut socket).await.as_array().map(Vec::len), Some(2));
    ask(&mut socket, json!(3), "initialize", json!({"protocolVersion": "2025-11-25"})).await;
    say(&mut socket, &json!([request(json!(1), "ping")])).await;
    assert_eq!(hear(&mut socket).await["error"]["code"], -32600);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_listed_origin_may_call_and_no_other() {
    let options = Options { edge_extra: "allowed_origins = [\"https://app.example\"]", ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    let preflight = async |origin: &str, path: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,mcp-protocol-version,mcp-method"),
        ];
        stack.send(http::Method::OPTIONS, path, None, &headers, Vec::new()).await
    };
    let answer = preflight("https://app.example", "/mcp").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    for name in ["authorization", "mcp-protocol-version", "mcp-method", "mcp-name"] {
        assert!(answer.header("access-control-allow-headers").contains(name), "{name}: {answer:?}");
    }
    assert!(answer.headers.get("access-control-allow-credentials").is_none());
    assert!(preflight("https://evil.example", "/mcp").await.headers.get("access-control-allow-origin").is_none());
    // A refusal can be read by the page, with what leads to a token.
    let origin = [("origin", "https://app.example")];
    let answer = stack.post(None, &origin, "{}").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, "https://app.example"));
    let exposed = answer.header("access-control-expose-headers");
    assert!(exposed.contains("www-authenticate") && exposed.contains("x-request-id"), "{exposed}");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    assert_eq!(stack.post(Some(&stack.token()), &origin, body.clone()).await.status, 200);
    let evil = stack.post(Some(&stack.token()), &[("origin", "https://evil.example")], body).await;
    assert_eq!(evil.status, 403);
    stack.stop().await;
}
