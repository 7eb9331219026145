//! The requests that the predecessor's hosting guide shows, each as it is written there.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use whitelistmcp::app;
use whitelistmcp::shutdown::Shutdown;

use crate::support::aws_double::AwsDouble;
use crate::support::{Ground, Options, Stack, core_file, edge_file, parse, tls};

/// What the guide's programs send to begin with, and what the predecessor answered to nobody in particular.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","method":"initialize","id":1,"params":{}}"#;

/// A TLS connection, for bytes that no client library of ours would write.
async fn wire(stack: &Stack, address: SocketAddr) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(Arc::new(tls::client(stack.directory.path(), None, &[b"http/1.1"])));
    let stream = TcpStream::connect(address).await.expect("it listens");
    connector.connect("localhost".try_into().expect("a name"), stream).await.expect("TLS")
}

/// Sends a request byte for byte; the status, and the body as JSON.
async fn exchange(stack: &Stack, head: &str, body: &str) -> (u16, Value) {
    let mut stream = wire(stack, stack.edge).await;
    let head = head.replace('\n', "\r\n");
    let request = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

async fn socket(
    stack: &Stack,
    address: SocketAddr,
    path: &str,
) -> Result<WebSocketStream<TlsStream<TcpStream>>, Error> {
    let stream = wire(stack, address).await;
    let request = format!("wss://localhost:{}{path}", address.port()).into_client_request().expect("a request");
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

/// Says lines, and hears as many answers.
async fn said(socket: &mut WebSocketStream<TlsStream<TcpStream>>, lines: &[&str], answers: usize) -> Vec<Value> {
    for line in lines {
        socket.send(Message::text((*line).to_owned())).await.expect("sent");
    }
    let mut heard = Vec::new();
    let hear = async {
        while heard.len() < answers {
            match socket.next().await.expect("a frame").expect("a sound frame") {
                Message::Text(text) => heard.push(serde_json::from_str(&text).expect("JSON")),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hear).await.expect("answers in time");
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_curl_and_its_proxy_are_answered_in_http() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let port = stack.edge.port();
    // What curl writes for the guide's command line.
    let curl = format!(
        "POST /mcp HTTP/1.1\nHost: localhost:{port}\nUser-Agent: curl/7.88.1\nAccept: */*\nAuthorization: Bearer {token}\nContent-Type: application/json\n"
    );
    // What Node writes for the guide's proxy: two headers of its own and no `Accept`.
    let node = format!(
        "POST /mcp HTTP/1.1\nContent-Type: application/json\nAuthorization: Bearer {token}\nHost: localhost:{port}\n"
    );
    let list = json!({"jsonrpc": "2.0", "method": "tools/list", "id": 2, "params": {}}).to_string();
    let call = json!({"jsonrpc": "2.0", "method": "tools/call", "id": "c", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}}).to_string();
    for head in [&curl, &node] {
        let (status, answer) = exchange(&stack, head, INITIALIZE).await;
        assert_eq!((status, answer["id"].as_i64()), (200, Some(1)), "{answer:#}");
        assert!(
            answer["result"]["protocolVersion"].is_string() && answer["result"]["capabilities"]["tools"].is_object()
        );
        let (status, answer) = exchange(&stack, head, &list).await;
        assert!(
            status == 200 && answer["result"]["tools"].as_array().is_some_and(|tools| tools.len() > 3),
            "{answer:#}"
        );
        let (status, answer) = exchange(&stack, head, &call).await;
        assert_eq!((status, answer["result"]["isError"].as_bool()), (200, Some(false)), "{answer:#}");
    }
    // A token that is wrong or missing: 401, and words in JSON, as that proxy parses every answer.
    for head in [node.replace(&token, "nonsense"), node.replace(&format!("Authorization: Bearer {token}\n"), "")] {
        let (status, answer) = exchange(&stack, &head, INITIALIZE).await;
        assert!(status == 401 && answer["error"]["message"].is_string(), "{answer:#}");
    }
    let (status, health) = exchange(&stack, &format!("GET /health HTTP/1.1\nHost: localhost:{port}\n"), "").await;
    assert_eq!((status, health["status"].as_str()), (200, Some("healthy")), "{health:#}");
    assert!(health["service"].is_string() && health["version"] == env!("CARGO_PKG_VERSION"), "{health:#}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_socket_test_and_its_proxy_are_answered_over_a_socket() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = json!({"token": stack.token()}).to_string();
    let list = r#"{"jsonrpc":"2.0","method":"tools/list","id":1,"params":{}}"#;
    // The proxy in WebSocket mode takes its URL for both: `/mcp`, with another scheme.
    for path in ["/ws", "/mcp"] {
        // Both at once, before anything was answered.
        let mut open = socket(&stack, stack.edge, path).await.expect("it upgrades");
        let answers = said(&mut open, &[&token, list], 1).await;
        assert!(answers[0]["id"] == 1 && answers[0]["result"]["tools"].is_array(), "{answers:#?}");
        // The first line of a program that the proxy serves, with the end that it has lost on the way.
        let answers = said(&mut open, &[INITIALIZE], 1).await;
        assert!(answers[0]["result"]["serverInfo"].is_object(), "{answers:#?}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_url_may_have_a_prefix() {
    for public in ["https://localhost/aws", "https://localhost/prefix/mcp"] {
        let options = Options { public_url: Some(public), audience: Some(public.to_owned()), ..Options::default() };
        let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
        let token = stack.issuer.token_with("alice", "whitelist:read whitelist:write", json!({"aud": public}));
        let path = public.trim_start_matches("https://localhost");
        // The proxy in front may keep the prefix or take it off.
        for path in [path, "/mcp"] {
            let head = format!(
                "POST {path} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nAuthorization: Bearer {token}\n"
            );
            let (status, answer) = exchange(&stack, &head, INITIALIZE).await;
            assert_eq!((status, answer["id"].as_i64()), (200, Some(1)), "{path}: {answer:#}");
            let first = json!({"token": token}).to_string();
            let list = r#"{"jsonrpc":"2.0","method":"tools/list","id":1,"params":{}}"#;
            let mut open = socket(&stack, stack.edge, path).await.expect("it upgrades");
            assert!(said(&mut open, &[&first, list], 1).await[0]["result"]["tools"].is_array(), "{path}");
        }
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_may_have_a_port_of_their_own() {
    let aws = AwsDouble::start().await;
    let options = Options { edge_extra: "websocket_listen = \"127.0.0.1:0\"", ..Options::default() };
    let Ground { directory, authority, issuer } = Ground::new(&options).await;
    let core_shutdown = Shutdown::new();
    let config = parse(&core_file(&directory, &aws.access(), &options, &issuer, 0));
    let bound = Box::pin(app::core(&config, &core_shutdown)).await.expect("the core starts");
    let core = bound.core_address().expect("an address");
    let (running, shutdown) = (core_shutdown.clone(), Shutdown::new());
    tokio::spawn(async move { bound.run(&running).await });
    let config = edge_file(&directory, &options, &issuer, 0, core.port());
    let bound = Box::pin(app::edge(&parse(&config), &shutdown)).await.expect("the edge starts");
    let (edge, sockets) = (bound.edge_address().expect("one"), bound.websocket_address().expect("another"));
    // Whatever is bound is bound before it serves: a port that is taken stops it at its start.
    let taken = config.replace("websocket_listen = \"127.0.0.1:0\"", &format!("websocket_listen = \"{sockets}\""));
    let refused = Box::pin(app::edge(&parse(&taken), &Shutdown::new())).await.expect_err("it is taken");
    assert!(refused.to_string().contains(&sockets.to_string()), "{refused}");
    let running = shutdown.clone();
    tokio::spawn(async move { bound.run(&running).await });
    let ca = directory.path().join("ca.pem");
    let http = whitelistmcp::http_client::HttpClient::new(whitelistmcp::tls::public_client(Some(&ca)).expect("the CA"));
    let stack = Stack::assembled(directory, authority, issuer, (edge, core), vec![shutdown, core_shutdown], http);

    let list = r#"{"jsonrpc":"2.0","method":"tools/list","id":1,"params":{}}"#;
    let token = json!({"token": stack.token()}).to_string();
    for path in ["/", "/ws", "/mcp"] {
        let mut open = socket(&stack, sockets, path).await.expect("it upgrades");
        assert!(said(&mut open, &[&token, list], 1).await[0]["result"]["tools"].is_array(), "{path}");
    }
    // The same guard, and nothing but sockets and probes.
    let mut open = socket(&stack, sockets, "/").await.expect("it upgrades");
    open.send(Message::text(list)).await.expect("sent");
    let closed = open.next().await.expect("a frame").expect("a sound frame");
    assert!(matches!(&closed, Message::Close(Some(frame)) if u16::from(frame.code) == 4002), "{closed:?}");
    let at = |path: &str| format!("https://localhost:{}{path}", sockets.port());
    for (method, path, origin, status) in [
        (http::Method::POST, "/mcp", None, 405),
        (http::Method::GET, "/ws", None, 426),
        (http::Method::GET, "/ws", Some("https://evil.example"), 403),
        (http::Method::GET, "/.well-known/oauth-protected-resource", None, 200),
        (http::Method::GET, "/approvals", None, 404),
        (http::Method::GET, "/health", None, 200),
        (http::Method::GET, "/livez", None, 200),
        (http::Method::GET, "/readyz", None, 200),
    ] {
        let origin: Vec<(&str, &str)> = origin.into_iter().map(|origin| ("origin", origin)).collect();
        let answer = crate::support::send(&stack.http, method, at(path), None, &origin, Vec::new()).await;
        assert_eq!(answer.expect("an answer").status, status, "{path}");
    }
    stack.stop().await;
    assert!(TcpStream::connect(sockets).await.is_err(), "it has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_configuration_starts_our_binary() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    // The guide's block, with this program in place of `node`; the CA is this test's own.
    let block = json!({"mcpServers": {"whitelistmcp-remote": {
        "command": env!("CARGO_BIN_EXE_whitelistmcp"),
        "env": {
            "MCP_REMOTE_URL": format!("https://localhost:{}/mcp", stack.edge.port()),
            "MCP_AUTH_TOKEN": stack.token(),
            "MCP_MODE": "http",
            "WHITELISTMCP_BRIDGE_CA": stack.directory.path().join("ca.pem"),
        },
    }}});
    let file = stack.directory.write("claude_desktop_config_remote.json", &block.to_string());
    let block: Value = serde_json::from_str(&std::fs::read_to_string(file).expect("text")).expect("JSON");
    let server = &block["mcpServers"]["whitelistmcp-remote"];
    let variables = server["env"].as_object().expect("variables").iter();
    let mut child = tokio::process::Command::new(server["command"].as_str().expect("a program"))
        .envs(variables.map(|(name, value)| (name, value.as_str().expect("text"))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("stdin");
    let mut output = BufReader::new(child.stdout.take().expect("stdout")).lines();
    for line in [INITIALIZE, r#"{"jsonrpc":"2.0","method":"tools/list","id":1,"params":{}}"#] {
        input.write_all(format!("{line}\n").as_bytes()).await.expect("written");
        let heard = tokio::time::timeout(Duration::from_secs(60), output.next_line()).await.expect("in time");
        let answer: Value = serde_json::from_str(&heard.expect("it reads").expect("a line")).expect("JSON");
        assert!(answer["id"] == 1 && answer["result"].is_object(), "{answer:#}");
    }
    drop(input);
    assert!(child.wait().await.expect("it ends").success());
    stack.stop().await;
}
