//! API keys, as a program uses them: over HTTP, and by gRPC.

use serde_json::json;
use tonic::{Code, Request};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::identity::api_key::NewKey;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::temporary::Directory;
use crate::support::{Answer, Options, Stack};

const CLIENT: &str = "spiffe://test.example/legacy-program";

#[expect(clippy::disallowed_methods, reason = "keys of a test live in the machine's own time")]
fn new_key(scope: &str, network: &str) -> NewKey {
    let known = ["whitelist:read", "whitelist:write"].map(str::to_owned);
    let now = jiff::Timestamp::now();
    NewKey::make("ops", &[scope.to_owned()], &[network.to_owned()], 1, &known, now).expect("a key")
}

struct Keyed {
    stack: Stack,
    aws: AwsDouble,
    files: Directory,
}

/// A stack that knows these keys, behind a proxy that says where callers are.
async fn with_keys(keys: &[&NewKey]) -> Keyed {
    let files = Directory::new();
    let file = files.write("keys.toml", &keys.iter().map(|key| key.entry()).collect::<String>());
    let aws = AwsDouble::start().await;
    let options = Options {
        oidc_extra: format!("[api_keys]\nfile = \"{}\"\n", file.display()),
        edge_extra: "trusted_proxies = [\"127.0.0.1\"]",
        core_extra: format!("[[core.peers]]\nsan = \"{CLIENT}\"\nrole = \"client\"\n"),
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    stack.authority.issue("program", &[CLIENT]);
    Keyed { stack, aws, files }
}

async fn list_from(stack: &Stack, key: &str, address: &str) -> Answer {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}});
    stack.post(Some(key), &[("x-forwarded-for", address)], body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_what_its_entry_says_over_http() {
    let (writer, reader) = (new_key("whitelist:write", "203.0.113.0/24"), new_key("whitelist:read", "203.0.113.0/24"));
    let keyed = with_keys(&[&writer, &reader]).await;
    let stack = &keyed.stack;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_add", "arguments": {"security_group": "staging-db", "address": "current", "port": "22", "reason": "trying"}}});
    let opened = stack.post(Some(writer.secret()), &[("x-forwarded-for", "203.0.113.7")], body.to_string()).await;
    let rule = &opened.json()["result"]["structuredContent"]["rule"];
    assert_eq!(rule["source"], "203.0.113.7/32", "{:#}", opened.json());
    assert!(rule["holder"].as_str().is_some_and(|holder| holder.starts_with("ops")), "{rule:#}");
    let challenged = stack.post(Some(reader.secret()), &[("x-forwarded-for", "203.0.113.7")], body.to_string()).await;
    assert_eq!(challenged.status, 403, "{challenged:?}");
    assert_eq!(list_from(stack, reader.secret(), "203.0.113.7").await.json()["result"]["isError"], false);
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    let text = format!("{entries:?}");
    assert!(text.contains("api_key") && !text.contains(writer.secret()), "{entries:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_from_its_networks_only_and_while_it_stands() {
    let key = new_key("whitelist:read", "203.0.113.0/24");
    let keyed = with_keys(&[&key]).await;
    let stack = &keyed.stack;
    for address in ["203.0.114.7", "unknown"] {
        let answer = list_from(stack, key.secret(), address).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("www-authenticate").contains("from this address"), "{answer:?}");
    }
    assert_eq!(list_from(stack, key.secret(), "203.0.113.7").await.status, 200);
    let unknown = list_from(stack, new_key("whitelist:read", "203.0.113.0/24").secret(), "203.0.113.7").await;
    assert!(unknown.status == 401 && unknown.header("www-authenticate").contains("not known"), "{unknown:?}");
    // Taken back at both doors, without a restart.
    keyed.files.write("keys.toml", "");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(list_from(stack, key.secret(), "203.0.113.7").await.status, 401);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_off_unless_configured() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let answer = list_from(&stack, new_key("whitelist:read", "127.0.0.0/8").secret(), "127.0.0.1").await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("not accepted"), "{answer:?}");
    assert_eq!(stack.issuer.asked(), 0);
    stack.stop().await;
}

fn request(authorization: Option<&str>) -> Request<pb::ListRulesRequest> {
    let list = pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() };
    let mut request = Request::new(list);
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().expect("ASCII"));
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_a_client_s_certificate_and_a_key_go_together() {
    let (key, elsewhere) = (new_key("whitelist:read", "127.0.0.0/8"), new_key("whitelist:read", "203.0.113.0/24"));
    let keyed = with_keys(&[&key, &elsewhere]).await;
    let stack = &keyed.stack;
    let bearer = |secret: &str| format!("Bearer {secret}");
    let listed = stack.grpc("program").list_rules(request(Some(&bearer(key.secret())))).await;
    assert!(listed.is_ok(), "{listed:?}");
    let refusal = async |certificate: &str, request| {
        let refusal = Refusal::of(&stack.grpc(certificate).list_rules(request).await.expect_err(certificate));
        (refusal.code, refusal.reason)
    };
    let program = async |authorization: Option<&str>| refusal("program", request(authorization)).await;
    let missing = (Code::Unauthenticated, "API_KEY_MISSING".to_owned());
    let invalid = (Code::Unauthenticated, "API_KEY_INVALID".to_owned());
    assert_eq!(program(None).await, missing);
    assert_eq!(program(Some(&bearer(&stack.token()))).await, missing, "a client speaks for no person");
    assert_eq!(program(Some(&bearer(elsewhere.secret()))).await, invalid);
    assert_eq!(program(Some(&bearer(new_key("whitelist:read", "127.0.0.0/8").secret()))).await, invalid);
    // It cannot say that it calls from elsewhere, and a service stays itself.
    let mut moved = request(Some(&bearer(elsewhere.secret())));
    moved.metadata_mut().insert("mcp-client-address", "203.0.113.7".parse().expect("ASCII"));
    assert_eq!(refusal("program", moved).await.1, "CLIENT_ADDRESS_REFUSED");
    assert_eq!(refusal("ci-runner", request(Some(&bearer(key.secret())))).await.1, "BEARER_REFUSED");
    assert_eq!(refusal("stranger", request(Some(&bearer(key.secret())))).await.1, "PEER_UNKNOWN");
    assert_eq!(keyed.aws.actions().iter().filter(|action| *action == "AssumeRole").count(), 1);
    stack.stop().await;
}
