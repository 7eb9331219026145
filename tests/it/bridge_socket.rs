//! The bridge over a WebSocket: the real edge's, and one that a test speaks for.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::bridge::{Bridge, command, list, url};
use crate::support::Stack;
use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::temporary::Directory;

fn first() -> Value {
    json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}})
}

fn request(id: i32, method: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_eras_go_over_one_socket() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let ca = stack.directory.path().join("ca.pem");
    let socket = url(&stack).replace("https:", "wss:").replace("/mcp", "/ws");
    // As the guide's own client is configured, and by the address alone.
    for (address, mode) in [(url(&stack), Some("websocket")), (socket, None)] {
        let mut started = command(&["bridge", "--ca", ca.to_str().expect("a path")]);
        started.env("MCP_REMOTE_URL", &address).env("MCP_AUTH_TOKEN", stack.token());
        started.envs(mode.map(|mode| ("MCP_MODE", mode)));
        let mut bridge = Bridge::spawn(started);
        let begun = bridge.ask(json!("first"), "initialize", first()).await;
        assert_eq!((&begun["id"], &begun["result"]["protocolVersion"]), (&json!("first"), &json!("2025-06-18")));
        bridge.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(bridge.ask(json!(u64::MAX), "tools/call", list()).await["id"].as_u64(), Some(u64::MAX));
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
        let found = bridge.ask(json!(1), "server/discover", json!({"_meta": meta})).await;
        assert_eq!(found["result"]["resultType"], "complete", "{found:#}");
        // Slow ones do not hold up others, and what is given up is not answered.
        aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(8)));
        bridge.say(json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": list()}).to_string()).await;
        assert_eq!(bridge.ask(json!(6), "ping", json!({})).await["id"], 6);
        bridge
            .say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}).to_string())
            .await;
        for id in 10..200 {
            bridge.say(request(id, "ping")).await;
        }
        let mut answered = std::collections::BTreeSet::new();
        for _ in 10..200 {
            let answer = bridge.hear().await;
            assert!(answer["result"].is_object(), "{answer:#}");
            answered.insert(answer["id"].as_i64().expect("an id"));
        }
        assert_eq!(answered.len(), 190);
        assert_eq!(bridge.end().await, (String::new(), String::new()));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upgrade_is_refused_for_is_said() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let there = url(&stack);
    for (address, token, code, words) in [
        (there.clone(), Some("made-up"), 401, "get a new one"),
        (there.clone(), None, 401, "whitelistmcp login"),
        (there.replace("/mcp", "/nothing"), Some("made-up"), 404, "/mcp"),
        (there.replace("https:", "ws:"), Some("made-up"), 502, "broke"),
    ] {
        let more = ["--transport", "websocket", "--no-login"];
        let mut bridge = Bridge::start(stack.directory.path(), &address, token, &more);
        let answer = bridge.ask(json!(7), "ping", json!({})).await;
        assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(7), Some(code)), "{answer:#}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(words)), "{answer:#}");
        bridge.end().await;
    }
    stack.stop().await;
}

/// A server's end of sockets.
struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

struct End {
    socket: WebSocketStream<TcpStream>,
    authorization: String,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    fn bridge(&self, token: &std::path::Path) -> Bridge {
        let url = format!("ws://{}/ws", self.address);
        Bridge::spawn(command(&["bridge", &url, "--token-file", token.to_str().expect("a path")]))
    }

    async fn accept(&self) -> End {
        let accepted = tokio::time::timeout(Duration::from_secs(30), self.listener.accept()).await;
        let (stream, _) = accepted.expect("in time").expect("a connection");
        let mut authorization = String::new();
        let see = |request: &Request, mut response: Response| {
            request.headers()["authorization"].to_str().expect("text").clone_into(&mut authorization);
            let spoken = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", spoken);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, see).await.expect("it upgrades");
        End { socket, authorization }
    }
}

impl End {
    async fn hear(&mut self) -> Value {
        let heard = async {
            loop {
                match self.socket.next().await.expect("a frame").expect("a sound one") {
                    Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), heard).await.expect("in time")
    }

    async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(format!("{message:#}"))).await.expect("sent");
    }

    async fn answer(&mut self, result: Value) -> Value {
        let asked = self.hear().await;
        self.say(json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await;
        asked
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_spoken_over_both_ways_and_outlives_its_token() {
    let (server, directory) = (Server::start().await, Directory::new());
    let token = directory.write("token", "one");
    let mut bridge = server.bridge(&token);
    bridge.say(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": first()}).to_string()).await;
    let mut end = server.accept().await;
    assert_eq!(end.authorization, "Bearer one");
    assert_eq!(end.answer(json!({"protocolVersion": "2025-06-18"})).await["method"], "initialize");
    assert_eq!(bridge.hear().await["result"]["protocolVersion"], "2025-06-18");
    // The server's own words, on one line each, and what is answered to them.
    end.say(json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}})).await;
    end.say(json!({"jsonrpc": "2.0", "id": 0, "method": "elicitation/create"})).await;
    assert_eq!(bridge.hear().await["method"], "notifications/message");
    assert_eq!(bridge.hear().await["method"], "elicitation/create");
    bridge.say(r#"{"jsonrpc":"2.0","id":0,"result":{"action":"decline"}}"#).await;
    assert_eq!(end.hear().await["result"]["action"], "decline");
    // An answer that nobody waits for goes nowhere; a batch is answered as one.
    end.say(json!({"jsonrpc": "2.0", "id": 99, "result": {}})).await;
    bridge.say(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]"#).await;
    assert_eq!(end.hear().await.as_array().map(Vec::len), Some(2));
    let answers = json!([{"jsonrpc": "2.0", "id": 2, "result": {}}, {"jsonrpc": "2.0", "id": 1, "result": {}}]);
    end.say(answers.clone()).await;
    assert_eq!(bridge.hear().await, answers);
    // Two requests of one id cannot be told apart.
    bridge.say(request(3, "ping")).await;
    assert_eq!(end.hear().await["id"], 3);
    assert_eq!(bridge.ask(json!(3), "ping", json!({})).await["error"]["code"], -32600);
    end.say(json!({"jsonrpc": "2.0", "id": 3, "result": {}})).await;
    assert!(bridge.hear().await["result"].is_object());
    // Another token is sent once there is one.
    std::fs::write(&token, "two").expect("written");
    assert_eq!(end.hear().await, json!({"token": "two"}));
    assert_eq!(bridge.end().await.0, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_breaks_answers_everybody_and_is_made_anew() {
    let (server, directory) = (Server::start().await, Directory::new());
    let token = directory.write("token", "one");
    let mut bridge = server.bridge(&token);
    bridge.say(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": first()}).to_string()).await;
    let mut end = server.accept().await;
    end.answer(json!({"protocolVersion": "2025-06-18"})).await;
    bridge.hear().await;
    for (round, (close, code, words)) in [
        (Some((4001, "the token has ended")), 401, "the token has ended"),
        (Some((1013, "later")), 503, "later"),
        (Some((1001, "going away")), 502, "going away"),
        (None, 502, "broke"),
    ]
    .into_iter()
    .enumerate()
    {
        for id in 1..=3 {
            bridge.say(request(id, "ping")).await;
            assert_eq!(end.hear().await["id"], id);
        }
        match close {
            Some((code, reason)) => {
                let frame = CloseFrame { code: code.into(), reason: reason.into() };
                end.socket.close(Some(frame)).await.expect("closed");
            }
            None => drop(end),
        }
        let mut answered = std::collections::BTreeSet::new();
        for _ in 1..=3 {
            let answer = bridge.hear().await;
            assert_eq!(answer["error"]["code"], code, "{answer:#}");
            assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(words)), "{answer:#}");
            answered.insert(answer["id"].as_i64().expect("an id"));
        }
        assert_eq!(answered.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        // The next message finds the way again; what was agreed on is agreed on again, and the client sees none of it.
        std::fs::write(&token, format!("token-{round}")).expect("written");
        bridge.say(request(4, "ping")).await;
        end = server.accept().await;
        assert_eq!(end.authorization, format!("Bearer token-{round}"));
        assert_eq!(end.answer(json!({"protocolVersion": "2025-06-18"})).await["method"], "initialize");
        assert_eq!(end.hear().await["method"], "notifications/initialized");
        assert_eq!(end.answer(json!({"round": round})).await["method"], "ping");
        assert_eq!(bridge.hear().await["result"]["round"], json!(round));
    }
    assert_eq!(bridge.end().await.0, "");
}
