//! What leads a client to a token: the metadata and where it is, the challenges, and which callers are let so far.

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::{Answer, Options, Stack};

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

async fn published_at(public_url: &'static str, hosts: &'static str) -> Stack {
    let aws = AwsDouble::start().await;
    let options = Options {
        public_url: Some(public_url),
        audience: Some(public_url.to_owned()),
        edge_extra: hosts,
        ..Options::default()
    };
    Stack::with(&aws.access(), options).await
}

async fn get(stack: &Stack, path: &str) -> Answer {
    stack.send(http::Method::GET, path, None, &[], Vec::new()).await
}

fn pointed_to(answer: &Answer) -> String {
    let challenge = answer.header("www-authenticate");
    let (_, rest) = challenge.split_once("resource_metadata=\"").expect(challenge);
    rest.split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_path_prefix_that_the_proxy_keeps_or_strips() {
    let public = "https://tools.example/teams/net/mcp";
    let stack = published_at(public, "allowed_hosts = [\"localhost\"]").await;
    let token = stack.issuer.token_with("alice", "whitelist:read", json!({"aud": public}));
    // Kept, and stripped: the same endpoint.
    for path in ["/teams/net/mcp", "/mcp"] {
        let answer = stack.send(http::Method::POST, path, None, &[], LIST.into()).await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(pointed_to(&answer), "https://tools.example/.well-known/oauth-protected-resource/teams/net/mcp");
        assert_eq!(stack.send(http::Method::POST, path, Some(&token), &[], LIST.into()).await.status, 200, "{path}");
    }
    // The metadata: where the challenge points, at the root, and below the prefix as a proxy may pass it on.
    for path in [
        "/.well-known/oauth-protected-resource/teams/net/mcp",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource",
        "/teams/net/.well-known/oauth-protected-resource/mcp",
        "/teams/net/.well-known/oauth-protected-resource",
    ] {
        let answer = get(&stack, path).await;
        assert_eq!((answer.status, answer.json()["resource"].as_str()), (200, Some(public)), "{path}");
    }
    for path in ["/teams/mcp", "/teams/net", "/other/.well-known/oauth-protected-resource"] {
        assert_eq!(stack.send(http::Method::GET, path, None, &[], Vec::new()).await.status, 404, "{path}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_url_counts_and_not_the_address_that_was_called() {
    let stack = published_at("https://allow.example/mcp/", "allowed_hosts = [\"localhost\"]").await;
    let answer = stack.post(None, &[], LIST).await;
    assert_eq!(pointed_to(&answer), "https://allow.example/.well-known/oauth-protected-resource/mcp");
    let metadata = get(&stack, "/.well-known/oauth-protected-resource/mcp").await.json();
    assert_eq!(metadata["resource"], "https://allow.example/mcp");
    assert_eq!(metadata["bearer_methods_supported"], json!(["header"]));
    assert_eq!(metadata["scopes_supported"], json!(["whitelist:read", "whitelist:write"]));
    assert!(!metadata.to_string().contains("localhost") && !metadata.to_string().contains("offline_access"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_at_the_root_has_its_metadata_at_the_root() {
    let stack = published_at("https://allow.example", "allowed_hosts = [\"localhost\"]").await;
    let answer = stack.post(None, &[], LIST).await;
    assert_eq!(pointed_to(&answer), "https://allow.example/.well-known/oauth-protected-resource");
    let metadata = get(&stack, "/.well-known/oauth-protected-resource").await.json();
    assert_eq!(metadata["resource"], "https://allow.example");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audience_among_others_is_enough_and_a_similar_one_is_not() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let with = |aud: Value| stack.issuer.token_with("alice", "whitelist:read", json!({ "aud": aud }));
    let own = crate::support::AUDIENCE;
    assert_eq!(stack.rpc(&with(json!(["https://other.example", own])), "ping", json!({})).await.status, 200);
    for aud in [
        json!([]),
        json!(["https://other.example"]),
        json!(format!("{own}/")),
        json!(own.to_uppercase()),
        json!([[own]]),
        json!({own: true}),
        json!(format!("{own} https://other.example")),
        json!(null),
    ] {
        assert_eq!(stack.rpc(&with(aud.clone()), "ping", json!({})).await.status, 401, "{aud}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_scope_is_challenged_once_with_what_the_operation_needs() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let add = json!({"name": "whitelist_add", "arguments": {"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"}});
    for held in ["", "whitelist:read", "openid whitelist:admin", "WHITELIST:WRITE", "whitelist:write,whitelist:read"] {
        let answer = stack.rpc(&stack.issuer.token("bob", held), "tools/call", add.clone()).await;
        assert_eq!(answer.status, 403, "{held}");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer error=\"insufficient_scope\", scope=\"whitelist:write\""), "{challenge}");
        assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), 1);
        assert_eq!(pointed_to(&answer), "https://localhost/.well-known/oauth-protected-resource/mcp");
    }
    // Write holds read, so who holds it is not sent for more.
    let list = json!({"name": "whitelist_list", "arguments": {"security_group": "staging-db"}});
    let writer = stack.issuer.token("bob", "whitelist:write");
    assert_eq!(stack.rpc(&writer, "tools/call", list).await.status, 200);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_networks_get_as_far_as_the_token() {
    let aws = AwsDouble::start().await;
    let edge_extra = "allowed_clients = [\"203.0.113.0/24\", \"2001:db8::/32\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let stack = Stack::with(&aws.access(), Options { edge_extra, ..Options::default() }).await;
    let token = stack.token();
    let from = async |address: Option<&str>, token: &str| {
        let headers: Vec<_> = address.into_iter().map(|address| ("x-forwarded-for", address)).collect();
        stack.post(Some(token), &headers, LIST).await.status
    };
    assert_eq!(from(Some("203.0.113.7"), &token).await, 200);
    assert_eq!(from(Some("2001:db8::7"), &token).await, 200);
    assert_eq!(from(Some("203.0.113.7"), "made-up").await, 401);
    let asked = stack.issuer.asked();
    // From elsewhere a good token and a bad one are the same, and nobody is asked about either. What a client writes
    // into the list itself is not what the proxy appends.
    for address in [Some("198.51.100.1"), Some("203.0.113.7, 198.51.100.1"), Some("unknown"), None] {
        assert_eq!(from(address, &token).await, 403, "{address:?}");
        assert_eq!(from(address, "made-up").await, 403, "{address:?}");
    }
    assert_eq!(stack.issuer.asked(), asked);
    let metadata = get(&stack, "/.well-known/oauth-protected-resource").await;
    assert_eq!(metadata.status, 403);
    assert_eq!(get(&stack, "/livez").await.status, 200, "a balancer's probe is no client");
    stack.stop().await;
    // Without a declared proxy the header is hearsay.
    let edge_extra = "allowed_clients = [\"203.0.113.0/24\"]";
    let stack = Stack::with(&aws.access(), Options { edge_extra, ..Options::default() }).await;
    let answer = stack.post(Some(&stack.token()), &[("x-forwarded-for", "203.0.113.7")], LIST).await;
    assert_eq!(answer.status, 403);
    stack.stop().await;
}
