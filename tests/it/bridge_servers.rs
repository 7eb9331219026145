//! The bridge before servers of every kind, good and bad: sessions, streams that break, requests that go back, connections
//! that do, proxies, and certificates.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::{Bridge, command, list, url};
use crate::support::aws_double::AwsDouble;
use crate::support::certificates::Authority;
use crate::support::collector::free_port;
use crate::support::processes::Processes;
use crate::support::temporary::Directory;
use crate::support::{Options, Stack, eventually};

/// What a server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    headers: http::HeaderMap,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The JSON-RPC method.
    fn what(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }
}

/// A server that answers as a test says, and remembers what it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answer: impl Fn(Asked) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&asked);
        let router = Router::new().fallback(async move |request: Request| {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let asked = Asked { method: parts.method.to_string(), headers: parts.headers, body };
            remembered.lock().expect("not poisoned").push(asked.clone());
            answer(asked).await
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    fn bridge(&self) -> Bridge {
        Bridge::spawn(command(&["bridge", &format!("http://{}/mcp", self.address), "--no-login"]))
    }
}

fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).expect("a response")
}

fn result(asked: &Asked, headers: &[(&str, &str)], result: &Value) -> Response {
    let body = json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": result});
    respond(200, &[&[("content-type", "application/json")], headers].concat(), body.to_string())
}

const STREAM: [(&str, &str); 1] = [("content-type", "text/event-stream")];

/// A stream of these pieces; it stays open behind them if `open`.
fn stream(pieces: Vec<String>, open: bool) -> Response {
    let pieces = futures_util::stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    match open {
        true => respond(200, &STREAM, Body::from_stream(pieces.chain(futures_util::stream::pending()))),
        false => respond(200, &STREAM, Body::from_stream(pieces)),
    }
}

fn first(revision: &str) -> Value {
    json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}})
}

fn request(id: i32, method: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method}).to_string()
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_carried_and_begun_again_when_it_is_forgotten() {
    let sessions = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |asked| {
        let sessions = Arc::clone(&sessions);
        Box::pin(async move {
            let now = sessions.load(Ordering::SeqCst).to_string();
            match asked.what() {
                "initialize" => {
                    let new = (sessions.fetch_add(1, Ordering::SeqCst) + 1).to_string();
                    result(&asked, &[("mcp-session-id", &new)], &json!({"protocolVersion": "2025-06-18"}))
                }
                // Restarts: nothing is known of any session.
                "restart" => {
                    sessions.fetch_add(1, Ordering::SeqCst);
                    result(&asked, &[], &json!({}))
                }
                "lost" => respond(404, &[], ""),
                "notifications/initialized" => respond(202, &[], ""),
                _ if asked.method == "GET" => respond(405, &[], ""),
                _ if asked.header("mcp-session-id") == now => result(&asked, &[], &json!({"session": now})),
                _ => respond(404, &[], ""),
            }
        })
    })
    .await;
    let mut bridge = server.bridge();
    assert_eq!(
        bridge.ask(json!(0), "initialize", first("2025-06-18")).await["result"]["protocolVersion"],
        "2025-06-18"
    );
    bridge.say(INITIALIZED).await;
    assert_eq!(bridge.ask(json!(1), "ping", json!({})).await["result"]["session"], "1");
    assert!(bridge.ask(json!(2), "restart", json!({})).await["result"].is_object());
    // Several notice at once, and one of them begins it again.
    for id in 10..20 {
        bridge.say(request(id, "ping")).await;
    }
    for _ in 10..20 {
        assert_eq!(bridge.hear().await["result"]["session"], "3");
    }
    // A method that is answered by 404 for good is answered, after one more try.
    let lost = bridge.ask(json!(3), "lost", json!({})).await;
    assert_eq!(lost["error"]["code"], 404, "{lost:#}");
    assert_eq!(bridge.ask(json!(4), "ping", json!({})).await["result"]["session"], "4");
    assert_eq!(bridge.end().await.0, "", "what the bridge says by itself is answered to nobody");
    let last = server.asked().pop().expect("asked");
    assert_eq!((last.method.as_str(), last.header("mcp-session-id")), ("DELETE", "4"));
    let asked = server.asked();
    let of = |what: &str| asked.iter().filter(|asked| asked.what() == what).cloned().collect::<Vec<_>>();
    assert_eq!((of("initialize").len(), of("notifications/initialized").len(), of("lost").len()), (3, 3, 2));
    assert!(of("initialize").iter().all(|asked| asked.header("mcp-session-id").is_empty() && asked.body["id"] == 0));
    assert!(of("ping").iter().all(|asked| asked.header("mcp-protocol-version") == "2025-06-18"));
    // A modern message is of no session.
    let mut bridge = server.bridge();
    bridge.ask(json!(0), "initialize", first("2025-06-18")).await;
    let meta = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    assert_eq!(bridge.ask(json!(1), "ping", meta).await["error"]["code"], 404);
    let last = server.asked().pop().expect("asked");
    assert_eq!((last.header("mcp-session-id"), last.header("mcp-protocol-version")), ("", "2026-07-28"));
    bridge.end().await;
    // A server that answers everybody is logged in to by nobody.
    let url = format!("http://{}/mcp", server.address);
    let open = Server::start(|asked| {
        Box::pin(
            async move { if asked.method == "POST" { result(&asked, &[], &json!({})) } else { respond(404, &[], "") } },
        )
    })
    .await;
    for (url, words) in [(format!("http://{}/mcp", open.address), "wants no login"), (url, "gave no client id")] {
        let home = Directory::new();
        let mut login = command(&["login", &url, "--store", "file"]);
        let output = login.env("HOME", home.path()).output().await.expect("it runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_asks_back_and_speaks_of_its_own_accord() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let event = |message: Value| format!("data: {message}\n\n");
            match (asked.method.as_str(), asked.what()) {
                ("GET", _) => {
                    stream(vec![event(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))], true)
                }
                (_, "initialize") => {
                    result(&asked, &[("mcp-session-id", "s")], &json!({"protocolVersion": "2025-11-25"}))
                }
                (_, "tools/call") => {
                    let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}});
                    let answer = json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": {"content": []}});
                    let pieces = futures_util::stream::iter([event(question), event(answer)]).then(async |piece| {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Ok::<_, std::io::Error>(Bytes::from(piece))
                    });
                    respond(200, &STREAM, Body::from_stream(pieces.chain(futures_util::stream::pending())))
                }
                _ => respond(202, &[], ""),
            }
        })
    })
    .await;
    let mut bridge = server.bridge();
    bridge.ask(json!(0), "initialize", first("2025-11-25")).await;
    bridge.say(INITIALIZED).await;
    assert_eq!(bridge.hear().await["method"], "notifications/tools/list_changed");
    bridge.say(request(1, "tools/call")).await;
    assert_eq!(bridge.hear().await["method"], "elicitation/create");
    bridge.say(json!({"jsonrpc": "2.0", "id": "q", "result": {"action": "accept"}}).to_string()).await;
    // The stream stays open behind the answer, and nobody waits for its end.
    assert_eq!(bridge.hear().await["result"]["content"], json!([]));
    let back = eventually("the response", async || {
        server.asked().into_iter().find(|asked| asked.body["result"]["action"] == "accept")
    })
    .await;
    assert_eq!((back.method.as_str(), back.header("mcp-session-id")), ("POST", "s"));
    assert_eq!(bridge.end().await.0, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_a_server_need_not_wait_for_the_requests_that_wait_for_them() {
    const CALLS: usize = 200;
    let (answered, _) = tokio::sync::watch::channel(0_usize);
    let answered = Arc::new(answered);
    let server = Server::start(move |asked| {
        let answered = Arc::clone(&answered);
        Box::pin(async move {
            if asked.what().is_empty() {
                answered.send_modify(|answered| *answered += 1);
                return respond(202, &[], "");
            }
            let question = json!({"jsonrpc": "2.0", "id": format!("q{}", asked.body["id"]), "method": "roots/list"});
            let answer = json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": {}});
            let mut heard = answered.subscribe();
            let begun = *heard.borrow();
            let asking = futures_util::stream::once(async move { Ok(Bytes::from(format!("data: {question}\n\n"))) });
            let answering = futures_util::stream::once(async move {
                heard.wait_for(|answered| *answered > begun).await.expect("it lives");
                Ok::<_, std::io::Error>(Bytes::from(format!("data: {answer}\n\n")))
            });
            respond(200, &STREAM, Body::from_stream(asking.chain(answering)))
        })
    })
    .await;
    let mut bridge = server.bridge();
    for id in 0..CALLS {
        bridge.say(request(i32::try_from(id).expect("small"), "tools/call")).await;
    }
    let mut left = CALLS;
    while left > 0 {
        let heard = bridge.hear().await;
        match heard["method"].as_str() {
            Some(_) => bridge.say(json!({"jsonrpc": "2.0", "id": heard["id"], "result": {}}).to_string()).await,
            None => left -= 1,
        }
        assert!(heard["error"].is_null(), "{heard:#}");
    }
    bridge.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_is_gone_on_with() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let (method, what) = (asked.method.as_str(), asked.what().to_owned());
            match (method, what.as_str(), asked.header("last-event-id")) {
                ("POST", "initialize", _) => result(&asked, &[], &json!({"protocolVersion": "2025-11-25"})),
                ("POST", "a", _) => stream(vec!["id: 1\nretry: 20\ndata:\n\n".to_owned()], false),
                ("POST", "b", _) => {
                    stream(vec!["data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\ndata: {\"id\"".to_owned()], false)
                }
                ("POST", "c", _) => stream(vec!["id: gone\nretry: 20\ndata:\n\n".to_owned()], false),
                ("GET", _, "1") => {
                    let pieces = ["id: 2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"y\"}\n\n", "id: 3\ndata: {\"jso"];
                    stream(pieces.map(str::to_owned).to_vec(), false)
                }
                ("GET", _, "2") => {
                    stream(vec!["data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n".to_owned()], true)
                }
                ("GET", _, "gone") => respond(404, &[], ""),
                _ => respond(405, &[], ""),
            }
        })
    })
    .await;
    let mut bridge = server.bridge();
    bridge.ask(json!(0), "initialize", first("2025-11-25")).await;
    bridge.say(request(1, "a")).await;
    assert_eq!(bridge.hear().await["method"], "y");
    assert_eq!(bridge.hear().await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    // One without ids cannot be gone on with, and one that the server has forgotten neither.
    bridge.say(request(2, "b")).await;
    assert_eq!(bridge.hear().await["method"], "x");
    let broken = bridge.hear().await;
    assert_eq!((broken["id"].as_i64(), broken["error"]["code"].as_i64()), (Some(2), Some(502)), "{broken:#}");
    assert!(broken["error"]["message"].as_str().is_some_and(|text| text.contains("whether it was done")), "{broken:#}");
    assert_eq!(bridge.ask(json!(3), "c", json!({})).await["error"]["code"], 502);
    // Nor are streams of the modern era.
    let meta = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    assert_eq!(bridge.ask(json!(4), "a", meta).await["error"]["code"], 502);
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.method == "GET").count(), 3);
    assert!(
        asked.iter().filter(|asked| asked.method == "GET").all(|asked| asked.header("accept") == "text/event-stream")
    );
    bridge.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_is_said_as_its_era_says_it() {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let server = Server::start(move |asked| {
        let open = Arc::clone(&counted);
        Box::pin(async move {
            struct Gone(Arc<AtomicUsize>);
            impl Drop for Gone {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            if asked.what() != "slow" {
                return respond(202, &[], "");
            }
            open.fetch_add(1, Ordering::SeqCst);
            let gone = Gone(open);
            let pieces = futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from(": here\n\n")) });
            let held = futures_util::stream::pending().map(move |piece| {
                let _ = &gone;
                piece
            });
            respond(200, &STREAM, Body::from_stream(pieces.chain(held)))
        })
    })
    .await;
    let mut bridge = server.bridge();
    let cancel = |id: i32| {
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}).to_string()
    };
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    for (id, params) in [(1, json!({"_meta": meta})), (2, json!({}))] {
        bridge.say(json!({"jsonrpc": "2.0", "id": id, "method": "slow", "params": params}).to_string()).await;
        eventually("it has begun", async || (open.load(Ordering::SeqCst) == 1).then_some(())).await;
        bridge.say(cancel(id)).await;
        eventually("its stream is closed", async || (open.load(Ordering::SeqCst) == 0).then_some(())).await;
    }
    eventually("the older server is told", async || {
        server.asked().into_iter().find(|asked| asked.body["params"]["requestId"] == 2)
    })
    .await;
    // What is unknown is passed on: somebody else may know it.
    bridge.say(cancel(7)).await;
    eventually("it is passed on", async || {
        server.asked().into_iter().find(|asked| asked.body["params"]["requestId"] == 7)
    })
    .await;
    let told = server.asked().iter().filter(|asked| asked.what() == "notifications/cancelled").count();
    assert_eq!(told, 2, "the modern one's end is the end of its stream");
    assert_eq!(bridge.end().await.0, "", "nobody waits for an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_badly_are_answered() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: ";
    for (name, text, code) in [
        ("closed without a word", String::new(), 502),
        ("half a header", "HTTP/1.1 200 O".to_owned(), 502),
        ("not HTTP", "SSH-2.0-x\r\n".to_owned(), 502),
        ("half a body", format!("{HEAD}application/json\r\ncontent-length: 100\r\n\r\n{{\"jsonrpc\""), 502),
        ("half a stream", format!("{HEAD}text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n"), 502),
        ("a page", format!("{HEAD}text/html\r\ncontent-length: 6\r\n\r\n<html>"), 200),
        ("nothing", format!("{HEAD}application/json\r\ncontent-length: 0\r\n\r\n"), 502),
        (
            "an answer to something else",
            format!("{HEAD}text/event-stream\r\ncontent-length: 30\r\n\r\ndata: {{\"id\":99,\"result\":{{}}}}\n\n\n"),
            502,
        ),
        ("a number", format!("{HEAD}application/json\r\ncontent-length: 2\r\n\r\n42"), 200),
        ("a word", format!("{HEAD}application/json\r\ncontent-length: 6\r\n\r\n\"word\""), 200),
        ("an error of its own", "HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops".to_owned(), 500),
        ("too busy", "HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n".to_owned(), 429),
        ("elsewhere", "HTTP/1.1 307 X\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n".to_owned(), 307),
        ("forbidden", "HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n".to_owned(), 403),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                stream.read(&mut bytes).await.unwrap_or_default();
                stream.write_all(text.as_bytes()).await.unwrap_or_default();
                // This side is closed and the other stays open for a moment: half a connection.
                stream.shutdown().await.unwrap_or_default();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut bridge = Bridge::spawn(command(&["bridge", &url, "--no-login"]));
        bridge.say(request(1, "ping")).await;
        let mut answer = bridge.hear().await;
        if name == "an answer to something else" {
            assert_eq!(answer["id"], 99);
            answer = bridge.hear().await;
        }
        assert_eq!(
            (answer["id"].as_i64(), answer["error"]["code"].as_i64()),
            (Some(1), Some(code)),
            "{name}: {answer:#}"
        );
        // A batch gets an answer for each of its requests.
        bridge.say(r#"[{"jsonrpc":"2.0","id":2,"method":"ping"},{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":3,"method":"ping"}]"#).await;
        if name == "closed without a word" {
            let answer = bridge.hear().await;
            let ids: Vec<i64> =
                answer.as_array().expect("a batch").iter().filter_map(|one| one["id"].as_i64()).collect();
            assert_eq!(ids, [2, 3], "{answer:#}");
        }
        bridge.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_messages_leaves_on_stdout() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let id = asked.body["id"].clone();
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}});
            let other = json!({"jsonrpc": "2.0", "method": "other"});
            let mut bytes = format!(
                "event: endpoint\ndata: /messages\n\nevent: note\ndata: {other}\n\ndata: hello\n\ndata: 42\n\n\
                 data: {{\"a\":\ndata: 1}}\n\ndata: {{\"b\": \"c\ndata: d\"}}\n\n"
            )
            .into_bytes();
            bytes.extend_from_slice(b"data: {\"x\": \"\xff\"}\n\n");
            bytes.extend_from_slice(format!("event: message\ndata: {answer}\n\n").as_bytes());
            respond(200, &STREAM, bytes)
        })
    })
    .await;
    let mut bridge = server.bridge();
    bridge.say(request(1, "ping")).await;
    assert_eq!(bridge.hear().await, json!({"a": 1}));
    assert_eq!(bridge.hear().await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    let (rest, said) = bridge.end().await;
    assert!(rest.is_empty() && said.contains("left out") && !said.contains("hello"), "{rest} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_a_batch_is_answered_and_ids_are_what_they_mean() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            let json = [("content-type", "application/json")];
            let Some(batch) = asked.body.as_array() else {
                return respond(200, &json, r#"{"jsonrpc":"2.0","id":"\u00e9\/","result":{}}"#);
            };
            match batch.first().map(|first| first["method"].as_str().unwrap_or_default()) {
                Some("one") => respond(200, &json, r#"[{"jsonrpc":"2.0","id":2.0,"result":{}}]"#),
                Some("none") => respond(202, &[], ""),
                // Each by itself, in a stream.
                _ => {
                    let one = |id: &Value| format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\n");
                    stream(batch.iter().map(|message| one(&message["id"])).collect(), true)
                }
            }
        })
    })
    .await;
    let mut bridge = server.bridge();
    let batch = |method: &str| {
        let one = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": method});
        json!([one(1), one(2), one(3)]).to_string()
    };
    let ids = |answer: &Value| -> Vec<String> {
        let one = |one: &Value| one["id"].to_string().trim_end_matches(".0").to_owned();
        let mut ids: Vec<String> = answer.as_array().expect("a batch").iter().map(one).collect();
        ids.sort_unstable();
        ids
    };
    bridge.say(batch("one")).await;
    assert_eq!(ids(&bridge.hear().await), ["2"]);
    assert_eq!(ids(&bridge.hear().await), ["1", "3"]);
    bridge.say(batch("none")).await;
    assert_eq!(ids(&bridge.hear().await), ["1", "2", "3"]);
    bridge.say(batch("each")).await;
    for _ in 0..3 {
        assert!(bridge.hear().await["result"].is_object());
    }
    assert!(bridge.ask(json!("é/"), "ping", json!({})).await["result"].is_object());
    assert_eq!(bridge.end().await.0, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_in_time_is_given_up_and_what_goes_on_is_not() {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let (finish, _) = tokio::sync::watch::channel(false);
    let finish = Arc::new(finish);
    let finished = Arc::clone(&finish);
    let server = Server::start(move |asked| {
        let mut finished = finished.subscribe();
        Box::pin(async move {
            let id = asked.body["id"].clone();
            match asked.what() {
                "subscriptions/listen" => {
                    let begun = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged"});
                    let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}});
                    let begun =
                        futures_util::stream::once(async move { Ok(Bytes::from(format!("data: {begun}\n\n"))) });
                    let end = futures_util::stream::once(async move {
                        finished.wait_for(|finished| *finished).await.expect("it lives");
                        Ok::<_, std::io::Error>(Bytes::from(format!("data: {answer}\n\n")))
                    });
                    respond(200, &STREAM, Body::from_stream(begun.chain(end)))
                }
                // Where the machine is busy, the ping may get here after all, once its beginning was given up.
                "slow" | "initialize" | "ping" => std::future::pending().await,
                _ => respond(202, &[], ""),
            }
        })
    })
    .await;
    let url = format!("http://{}/mcp", server.address);
    let mut bridge = Bridge::spawn(command(&["bridge", &url, "--no-login", "--timeout", "2"]));
    let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {"_meta": meta}});
    bridge.say(listen.to_string()).await;
    assert_eq!(bridge.hear().await["method"], "notifications/subscriptions/acknowledged");
    let slow = bridge.ask(json!("s"), "slow", json!({})).await;
    assert_eq!((&slow["id"], &slow["error"]["code"]), (&json!("s"), &json!(504)), "{slow:#}");
    eventually("the server is told", async || {
        server.asked().into_iter().find(|asked| asked.body["params"]["requestId"] == "s")
    })
    .await;
    // The other one is still there.
    finish.send_replace(true);
    assert!(bridge.hear().await["result"].is_object());
    // What waits for a silent beginning is answered in its own time, and what goes on ends with the input.
    bridge.say(request(5, "initialize")).await;
    let begun = std::time::Instant::now();
    bridge.say(request(6, "ping")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = server.asked().iter().all(|asked| asked.what() != "ping");
    // Where the machine is so busy, the beginning may be given up by now.
    assert!(held || begun.elapsed() > Duration::from_millis(1800), "it waits for the beginning");
    let mut answered = [bridge.hear().await, bridge.hear().await].map(|answer| {
        assert_eq!(answer["error"]["code"], 504, "{answer:#}");
        answer["id"].as_i64().expect("an id")
    });
    answered.sort_unstable();
    assert_eq!(answered, [5, 6]);
    finish.send_replace(false);
    bridge.say(listen.to_string()).await;
    assert_eq!(bridge.hear().await["method"], "notifications/subscriptions/acknowledged");
    let last: Value = serde_json::from_str(&bridge.end().await.0).expect("one answer");
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(1), &json!(504)), "{last:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_when_the_input_ends_is_answered_all_the_same() {
    let server = Server::start(|_| Box::pin(std::future::pending())).await;
    let mut bridge = server.bridge();
    bridge.say(request(1, "ping")).await;
    let begun = std::time::Instant::now();
    let last: Value = serde_json::from_str(&bridge.end().await.0).expect("one answer");
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(1), &json!(504)), "{last:#}");
    assert!(begun.elapsed() >= Duration::from_secs(9), "it was waited for: {:?}", begun.elapsed());
}

/// A login as it is kept, whose token is to be renewed by now, at a provider that never answers.
fn document(url: &str, token: &str, saved: &str) -> String {
    let origin = url.replace("/mcp", "");
    let client =
        json!({"id": "x", "method": "none", "redirect": "http://127.0.0.1:1/callback", "origin": "registered"});
    let login = json!({"issuer": origin, "client": client, "token_endpoint": format!("{origin}/token"),
        "access_token": token, "refresh_token": "again", "renew": "2026-01-01T00:00:00Z", "ends": "2999-01-01T00:00:00Z"});
    json!({"version": 1, "server": url, "saved": saved, "logins": [login]}).to_string()
}

/// A keychain that is a file, and fails as the words behind its verbs say.
fn keychain(home: &Directory, clear: &str) {
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\nlookup) cat \"$HOME/keychain\" 2>/dev/null;;\nstore) exit 1;;\nclear) {clear};;\nesac\n"
    );
    std::fs::create_dir_all(home.path().join("bin")).expect("a directory");
    let (new, path) = (home.path().join("bin/new"), home.path().join("bin/secret-tool"));
    std::fs::write(&new, script).expect("a script");
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    std::fs::rename(new, path).expect("a script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_login_counts_and_a_slow_provider_holds_up_nobody() {
    let server = Server::start(|asked| {
        Box::pin(async move {
            // The provider says nothing.
            if asked.header("content-type").contains("form") {
                std::future::pending::<()>().await;
            }
            result(&asked, &[], &json!({"token": asked.header("authorization")}))
        })
    })
    .await;
    let home = Directory::new();
    let url = format!("http://{}/mcp", server.address);
    let named: String = Sha256::digest(&url).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let file = home.path().join(format!(".local/state/whitelistmcp/{named}.json"));
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").expect("a path"));
    let run = |words: &[&str]| {
        let mut command = command(words);
        command.env("HOME", home.path()).env("PATH", &path);
        command
    };
    let (older, newer) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    keychain(&home, "true");
    for (in_keychain, in_file, token) in [(older, newer, "of-file"), (newer, older, "of-keychain")] {
        std::fs::write(home.path().join("keychain"), document(&url, "of-keychain", in_keychain)).expect("written");
        std::fs::write(&file, document(&url, "of-file", in_file)).expect("written");
        let mut bridge = Bridge::spawn(run(&["bridge", &url, "--timeout", "20"]));
        for id in 0..3 {
            let answer = bridge.ask(json!(id), "ping", json!({})).await;
            assert_eq!(answer["result"]["token"], format!("Bearer {token}"), "{answer:#}");
        }
        let asked = server.asked();
        let renewed = asked.iter().filter(|asked| asked.header("content-type").contains("form")).count();
        assert!(renewed <= 1 || token == "of-keychain", "it is renewed by one for all");
        bridge.end().await;
    }
    // A keychain that says that it has forgotten, and has not; and one that fails.
    for clear in ["true", "echo locked >&2; exit 1"] {
        keychain(&home, clear);
        let output = run(&["logout", &url]).output().await.expect("it runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains("may still stand in the system's keychain"), "{said}");
    }
    keychain(&home, "rm \"$HOME/keychain\"");
    assert!(run(&["logout", &url]).output().await.expect("it runs").status.success());
    // Where there is none, nothing has to be forgotten by it.
    std::fs::remove_file(home.path().join("bin/secret-tool")).expect("removed");
    let mut logout = run(&["logout", &url]);
    logout.env("PATH", home.path().join("bin"));
    assert!(logout.output().await.expect("it runs").status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_environment_says_wrong_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let wrong = std::ffi::OsStr::from_bytes(b"\xff-secret");
    for (name, value, part) in
        [("MCP_MODE", std::ffi::OsStr::new("remote"), "`websocket`"), ("MCP_AUTH_TOKEN", wrong, "no token")]
    {
        let mut command = command(&["bridge", "http://127.0.0.1:1/mcp"]);
        let output = command.env(name, value).stdin(std::process::Stdio::null()).output().await.expect("it runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains(name) && said.contains(part), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_is_listened_to_again() {
    let gets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&gets);
    let server = Server::start(move |asked| {
        let gets = Arc::clone(&counted);
        Box::pin(async move {
            match (asked.method.as_str(), asked.what()) {
                ("GET", _) => match gets.fetch_add(1, Ordering::SeqCst) {
                    0 => respond(503, &[], ""),
                    1 => respond(404, &[], ""),
                    2 => respond(405, &[], ""),
                    _ => stream(vec![r#"data: {"jsonrpc":"2.0","method":"news"}"#.to_owned() + "\n\n"], true),
                },
                (_, "initialize") => {
                    result(&asked, &[("mcp-session-id", "s")], &json!({"protocolVersion": "2025-11-25"}))
                }
                (_, "lost") => respond(404, &[], ""),
                _ => respond(202, &[], ""),
            }
        })
    })
    .await;
    let mut bridge = server.bridge();
    bridge.ask(json!(0), "initialize", first("2025-11-25")).await;
    bridge.say(INITIALIZED).await;
    eventually("it listens until it is told not to", async || (gets.load(Ordering::SeqCst) == 3).then_some(())).await;
    // A session that is begun anew is listened to anew.
    bridge.say(request(1, "lost")).await;
    let (one, other) = (bridge.hear().await, bridge.hear().await);
    assert!(one["method"] == "news" || other["method"] == "news", "{one:#} {other:#}");
    bridge.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_found_again() {
    let aws = AwsDouble::start().await;
    let mut processes = Processes::start(&aws.access(), &Options::default(), &[]).await;
    let there = format!("https://localhost:{}/mcp", processes.edge_port);
    for more in [&[][..], &["--transport", "websocket"]] {
        let token = processes.token();
        let mut bridge = Bridge::start(processes.path(), &there, Some(&token), more);
        bridge.ask(json!(0), "initialize", first("2025-06-18")).await;
        bridge.say(INITIALIZED).await;
        assert!(bridge.ask(json!(1), "tools/list", json!({})).await["result"].is_object());
        processes.edge.kill();
        // While it is away every request is answered, and its restart needs nobody's help.
        let away = bridge.ask(json!(2), "tools/list", json!({})).await;
        let code = away["error"]["code"].as_i64().expect("a code");
        assert!(away["id"] == 2 && (code == 503 || code == 502), "{more:?}: {away:#}");
        processes.edge.begin();
        processes.listen().await;
        let called = bridge.ask(json!(3), "tools/call", list()).await;
        assert_eq!(called["result"]["isError"], false, "{more:?}: {called:#}");
        assert_eq!(bridge.end().await.0, "");
    }
    processes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_shown_and_a_foreign_one_refused() {
    let extra = "client_ca = \"{at}/ca.pem\"\nclient_crl = [\"{at}/ca.crl\"]\nclient_certificates = \"required\"";
    let stack =
        Stack::with(&AwsDouble::start().await.access(), Options { edge_extra: extra, ..Options::default() }).await;
    stack.authority.issue("machine", &["spiffe://test.example/machine"]);
    let file = |name: &str| stack.directory.path().join(name).display().to_string();
    let (certificate, key) = (file("machine.pem"), file("machine.key"));
    for more in [&[][..], &["--transport", "websocket"]] {
        let shown = ["--certificate", certificate.as_str(), "--key", key.as_str()];
        let mut bridge =
            Bridge::start(stack.directory.path(), &url(&stack), Some(&stack.token()), &[&shown, more].concat());
        let called = bridge.ask(json!(1), "tools/call", list()).await;
        assert_eq!(called["result"]["isError"], false, "{called:#}");
        bridge.end().await;
        let mut bridge = Bridge::start(stack.directory.path(), &url(&stack), Some(&stack.token()), more);
        let refused = bridge.ask(json!(1), "tools/call", list()).await;
        assert!(refused["error"]["code"].as_i64().is_some_and(|code| code == 502 || code == 503), "{refused:#}");
        bridge.end().await;
        // A server whose CA is unknown here.
        let directory = Directory::new();
        drop(Authority::new(directory.path()));
        let mut bridge = Bridge::start(directory.path(), &url(&stack), Some(&stack.token()), more);
        let refused = bridge.ask(json!(1), "tools/call", list()).await;
        let words = refused["error"]["message"].as_str().expect("words");
        assert!(refused["error"]["code"] == 503 && words.contains("--ca") && words.contains("certificate"), "{words}");
        bridge.end().await;
    }
    stack.stop().await;
}

/// A proxy for CONNECT that wants to know who asks, and leads everything to one address. What it was asked.
async fn proxy(to: SocketAddr, authorization: Option<&'static str>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let remembered = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let remembered = Arc::clone(&remembered);
            tokio::spawn(async move {
                let (mut client, mut head) = (BufReader::new(client), String::new());
                while client.read_line(&mut head).await.unwrap_or_default() > 2 {}
                let line = head.lines().next().unwrap_or_default().to_owned();
                remembered.lock().expect("not poisoned").push(line);
                let mut client = client.into_inner();
                if authorization.is_some_and(|wanted| !head.to_ascii_lowercase().contains(&wanted.to_ascii_lowercase()))
                {
                    return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                }
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                let mut server = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_gone_through_where_the_environment_says_so() {
    // The edge under a name that only the proxy knows.
    let options = Options { public_url: Some("https://edge.example/mcp"), ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    stack.authority.issue("edge", &["spiffe://test.example/edge", "localhost", "edge.example"]);
    let named = base64::prelude::BASE64_STANDARD.encode("user:pass word");
    let wanted: &'static str = Box::leak(format!("proxy-authorization: Basic {named}").into_boxed_str());
    let (address, asked) = proxy(stack.edge, Some(wanted)).await;
    let good = format!("http://user:pass%20word@{address}");
    let ca = stack.directory.path().join("ca.pem");
    let bridge = |url: &str, environment: &[(&str, &str)], more: &[&str]| {
        let mut command = command(&[&["bridge", url], more].concat());
        command.arg("--ca").arg(&ca).env("MCP_AUTH_TOKEN", stack.token()).envs(environment.iter().copied());
        Bridge::spawn(command)
    };
    let seen = || std::mem::take(&mut *asked.lock().expect("not poisoned"));
    // The edge takes its new certificate up by itself.
    eventually("the edge has its other name", async || {
        let mut bridge = bridge("https://edge.example/mcp", &[("HTTPS_PROXY", &good)], &[]);
        let answer = bridge.ask(json!(1), "tools/call", list()).await;
        bridge.end().await;
        (answer["result"]["isError"] == false).then_some(())
    })
    .await;
    assert!(seen().iter().all(|line| line.starts_with("CONNECT edge.example:443 ")));
    for (name, more) in [("https_proxy", &[][..]), ("ALL_PROXY", &[]), ("HTTPS_PROXY", &["--transport", "websocket"])] {
        let mut bridge = bridge("https://edge.example/mcp", &[(name, &good)], more);
        let answer = bridge.ask(json!(1), "tools/call", list()).await;
        assert_eq!(answer["result"]["isError"], false, "{name} {more:?}: {answer:#}");
        bridge.end().await;
        assert!(!seen().is_empty(), "{name} {more:?}");
    }
    // A proxy that refuses is named without what it was told.
    let bad = format!("http://user:wrong-secret@{address}");
    for more in [&[][..], &["--transport", "websocket"]] {
        let mut bridge = bridge("https://edge.example/mcp", &[("HTTPS_PROXY", &bad)], more);
        let answer = bridge.ask(json!(1), "tools/call", list()).await;
        let words = answer["error"]["message"].as_str().expect("words");
        assert!(answer["error"]["code"] == 503 && words.contains(&format!("proxy http://{address}")), "{words}");
        assert!(!words.contains("secret") && !words.contains("user"), "{words}");
        bridge.end().await;
    }
    seen();
    // What is this machine, or named in NO_PROXY, is reached straight.
    let mut straight = bridge(&url(&stack), &[("HTTPS_PROXY", &good)], &[]);
    straight.ask(json!(1), "ping", json!({})).await;
    straight.end().await;
    let mut excepted = bridge(
        "https://edge.example/mcp",
        &[("HTTPS_PROXY", &good), ("NO_PROXY", "edge.example")],
        &["--timeout", "10"],
    );
    assert!(excepted.ask(json!(1), "ping", json!({})).await["error"].is_object());
    excepted.end().await;
    assert_eq!(seen(), Vec::<String>::new());
    // A SOCKS proxy that is not there is said to be the one.
    let away = format!("socks5h://127.0.0.1:{}", free_port());
    let mut bridge = bridge("https://edge.example/mcp", &[("ALL_PROXY", &away)], &[]);
    let answer = bridge.ask(json!(1), "ping", json!({})).await;
    assert!(
        answer["error"]["message"].as_str().is_some_and(|words| words.contains(&format!("proxy {away}"))),
        "{answer:#}"
    );
    bridge.end().await;
    stack.stop().await;
}
