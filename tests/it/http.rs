//! The MCP endpoint under both eras, and under input that is none.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack};

const MODERN: &str = "2026-07-28";

fn modern(method: &str, mut params: Value) -> String {
    params["_meta"] =
        json!({"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}});
    json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legacy_clients_negotiate_by_initialize() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    for (asked, answered) in
        [("2025-06-18", "2025-06-18"), ("2024-11-05", "2024-11-05"), ("1999-01-01", "2025-11-25"), ("", "2025-11-25")]
    {
        let answer = stack
            .rpc(
                &token,
                "initialize",
                json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}),
            )
            .await
            .json();
        assert_eq!(answer["result"]["protocolVersion"], answered);
        assert_eq!(
            (answer["result"]["serverInfo"]["name"].as_str(), answer["result"]["capabilities"]["tools"].is_object()),
            (Some("whitelistmcp"), true)
        );
    }
    // As the predecessor's guide has it: empty params, no Accept.
    let answer = stack.rpc(&token, "initialize", json!({})).await;
    assert_eq!((answer.status, answer.json()["id"].as_i64()), (200, Some(7)));
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    let answer = stack.post(Some(&token), &[], initialized).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    assert_eq!(stack.rpc(&token, "ping", json!({})).await.json()["result"], json!({}));
    let answer = stack.rpc(&token, "server/discover", json!({})).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (200, Some(-32601)));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modern_clients_say_it_with_every_request() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let send = |headers: Vec<(&'static str, &'static str)>, body: String| {
        let (stack, token) = (&stack, &token);
        async move { stack.post(Some(token), &headers, body).await }
    };
    let version = ("mcp-protocol-version", MODERN);

    let answer =
        send(vec![version, ("mcp-method", "server/discover")], modern("server/discover", json!({}))).await.json();
    assert_eq!(answer["result"]["resultType"], "complete");
    assert_eq!(answer["result"]["supportedVersions"][0], MODERN);
    assert!(answer["result"]["ttlMs"].is_u64() && answer["result"]["cacheScope"] == "public", "{answer:#}");
    let answer = send(vec![version, ("mcp-method", "tools/list")], modern("tools/list", json!({}))).await.json();
    assert_eq!(
        (answer["result"]["cacheScope"].as_str(), answer["result"]["tools"].as_array().map(Vec::len)),
        (Some("private"), Some(8)),
        "all but what is an administrator's"
    );
    let call = modern("tools/call", json!({"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}));
    let answer =
        send(vec![version, ("mcp-method", "tools/call"), ("mcp-name", "whitelist_list")], call.clone()).await.json();
    assert_eq!(
        (answer["result"]["resultType"].as_str(), answer["result"]["isError"].as_bool()),
        (Some("complete"), Some(false))
    );
    let encoded = ("mcp-name", "=?base64?d2hpdGVsaXN0X2xpc3Q=?=");
    assert_eq!(send(vec![version, ("mcp-method", "tools/call"), encoded], call.clone()).await.status, 200);

    for (headers, body, code, status) in [
        (vec![version], modern("tools/list", json!({})), -32020, 400),
        (vec![version, ("mcp-method", "tools/call")], modern("tools/list", json!({})), -32020, 400),
        (
            vec![version, ("mcp-method", "tools/list"), ("mcp-method", "tools/list")],
            modern("tools/list", json!({})),
            -32020,
            400,
        ),
        (
            vec![("mcp-protocol-version", "2025-11-25"), ("mcp-method", "tools/list")],
            modern("tools/list", json!({})),
            -32020,
            400,
        ),
        (vec![version, ("mcp-method", "tools/call"), ("mcp-name", "whitelist_add")], call.clone(), -32020, 400),
        (vec![version, ("mcp-method", "tools/call")], call, -32020, 400),
        (
            vec![("mcp-protocol-version", "2099-01-01")],
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#.to_owned(),
            -32022,
            400,
        ),
        (
            vec![version, ("mcp-method", "tools/list")],
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#.to_owned(),
            -32602,
            400,
        ),
        (vec![version, ("mcp-method", "ping")], modern("ping", json!({})), -32601, 404),
        (vec![version, ("mcp-method", "subscriptions/listen")], modern("subscriptions/listen", json!({})), -32601, 404),
    ] {
        let answer = send(headers.clone(), body.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_i64()),
            (status, Some(code)),
            "{headers:?} {body}"
        );
        assert_eq!(answer.json()["id"], "a");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_gets_the_right_error() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}{}}}"#,
        "{\"a\":".repeat(60),
        "1".to_owned() + &"}".repeat(60)
    );
    for (body, code) in [
        (&b""[..], -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b"null", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1e400,\"method\":\"ping\"}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":[1]}", -32600),
        (b"{\"id\":1,\"method\":\"ping\"}", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", -32600),
        (deep.as_bytes(), -32600),
    ] {
        let answer = stack.post(Some(&token), &[], body).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_i64()),
            (400, Some(code)),
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    for params in [
        json!({}),
        json!({"name": 5}),
        json!({"name": "whitelist_add", "arguments": [1]}),
        json!({"name": "whitelist_add", "arguments": null}),
    ] {
        let answer = stack.rpc(&token, "tools/call", params.clone()).await.json();
        let told = answer["error"]["code"] == -32602 || answer["result"]["isError"] == true;
        assert!(told, "{params}: {answer:#}");
    }
    let answer = stack.rpc(&token, "tools/call", json!({"name": "whitelist_ad"})).await.json();
    assert!(
        answer["error"]["message"].as_str().is_some_and(|message| message.contains("did you mean `whitelist_add`?")),
        "{answer:#}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_plain_json_of_a_bounded_size() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let token = stack.token();
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(300_000));
    assert_eq!(stack.post(Some(&token), &[], large).await.status, 413);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(stack.post(Some(&token), &[("content-encoding", "gzip")], ping).await.status, 415);
    assert_eq!(stack.post(Some(&token), &[("content-type", "text/plain")], ping).await.status, 415);
    assert_eq!(
        stack.post(Some(&token), &[("content-type", "application/json; charset=utf-8")], ping).await.status,
        200
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_pages_and_names_are_refused() {
    let stack = Stack::with(
        &AwsDouble::start().await.access(),
        Options {
            edge_extra: "allowed_origins = [\"https://app.example\"]\nallowed_hosts = [\"alias.example\"]",
            ..Options::default()
        },
    )
    .await;
    let token = stack.token();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(stack.post(Some(&token), &[("origin", "https://evil.example")], ping).await.status, 403);
    assert_eq!(stack.post(Some(&token), &[("origin", "null")], ping).await.status, 403);
    assert_eq!(stack.post(Some(&token), &[("origin", "https://app.example")], ping).await.status, 200);
    // By hand, since a client would not send a name other than the one it called.
    for (host, status) in [("rebound.example", "403"), ("alias.example", "200"), ("LOCALHOST:1", "200"), ("", "403")] {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{ping}",
            ping.len()
        );
        let answer = raw(&stack, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_probes() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let answer = stack.send(http::Method::GET, "/health", None, &[], Vec::new()).await;
    assert_eq!(
        answer.json(),
        json!({"status": "healthy", "service": "whitelistmcp-mcp", "version": env!("CARGO_PKG_VERSION")})
    );
    for path in ["/livez", "/readyz"] {
        assert_eq!(stack.send(http::Method::GET, path, None, &[], Vec::new()).await.status, 200);
    }
    for (method, path, status) in [
        (http::Method::GET, "/mcp", 405),
        (http::Method::DELETE, "/mcp", 405),
        (http::Method::GET, "/nothing", 404),
        (http::Method::POST, "/", 404),
    ] {
        let answer = stack.send(method, path, Some(&stack.token()), &[], Vec::new()).await;
        assert_eq!((answer.status, answer.json()["jsonrpc"].as_str()), (status, Some("2.0")), "{path}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tool_list_is_fit_for_every_client() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    // Policy shows every tool to an administrator alone.
    let admin = json!({"groups": ["whitelistmcp-admins"]});
    let token = stack.issuer.token_with("alice", "whitelist:write", admin);
    let tools = stack.rpc(&token, "tools/list", json!({})).await.json()["result"]["tools"].clone();
    let tools = tools.as_array().expect("tools");
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap_or_default()).collect();
    let known = whitelistmcp::operation::Tool::ALL.map(whitelistmcp::operation::Tool::name);
    let mut sorted = (names.clone(), known.to_vec());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(sorted.0, sorted.1);
    assert_eq!(names[..2], ["whitelist_add", "whitelist_remove"], "in the proto's order");
    for tool in tools {
        let (input, output) = (&tool["inputSchema"], &tool["outputSchema"]);
        assert_eq!(
            (input["type"].as_str(), input["additionalProperties"].as_bool(), output["type"].as_str()),
            (Some("object"), Some(false), Some("object"))
        );
        assert!(input.get("oneOf").is_none() && input.get("anyOf").is_none());
        let described = |schema: &Value| {
            schema["properties"].as_object().is_some_and(|fields| {
                fields.values().all(|field| field["description"].as_str().is_some_and(|text| text.len() > 10))
            })
        };
        assert!(described(input) && described(output), "{tool:#}");
        assert!(tool["description"].as_str().is_some_and(|text| text.len() > 80));
    }
    assert_eq!(tools[0]["inputSchema"]["required"], json!(["reason"]));
    assert_eq!(tools[1]["annotations"]["destructiveHint"], true);
    let list = tools.iter().find(|tool| tool["name"] == "whitelist_list").expect("a tool");
    assert_eq!(list["annotations"]["readOnlyHint"], true);
    stack.stop().await;
}

/// A TLS connection that speaks HTTP/1.1.
async fn connect(stack: &Stack) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let ca = stack.directory.path().join("ca.pem");
    let mut config = whitelistmcp::tls::public_client(Some(&ca)).expect("the CA loads");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = tokio::net::TcpStream::connect(stack.edge).await.expect("it listens");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    connector.connect("localhost".try_into().expect("a name"), tcp).await.expect("a handshake")
}

/// Bytes over TLS, and everything that comes back.
async fn raw(stack: &Stack, bytes: &[u8]) -> String {
    let mut tls = connect(stack).await;
    tls.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap_or_default();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_hold_up_a_shutdown() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut held = Vec::new();
    for bytes in [&b"POST /mcp HT"[..], b"", b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"] {
        let mut tls = connect(&stack).await;
        tls.write_all(bytes).await.expect("sent");
        tls.flush().await.expect("sent");
        held.push(tls);
    }
    held.push(connect(&stack).await);
    let started = std::time::Instant::now();
    stack.stop().await;
    assert!(started.elapsed() < std::time::Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_lock_nobody_out() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { edge_extra: "in_flight_max = 4", ..Options::default() }).await;
    let token = stack.token();
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut tls = connect(&stack).await;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        tls.write_all(head.as_bytes()).await.expect("sent");
        tls.flush().await.expect("sent");
        held.push(tls);
    }
    assert_eq!(stack.rpc(&token, "ping", json!({})).await.status, 200);
    drop(held);
    stack.stop().await;
}
