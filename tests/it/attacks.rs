//! Attacks that the standards name, one test each, called after the section that names it: RFC 9700 (OAuth 2.0 security
//! best current practice), RFC 8725 (JWT best current practices), RFC 6750 section 5 (bearer tokens), RFC 9068 sections 4
//! and 5 (JWT access tokens), and the security considerations of MCP. Whoever attacks here holds everything but what the
//! attack is after. What does not concern a resource server stands at the end.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::{Code, Request};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::issuer::{Issuer, Shape, header, now, signing_key};
use crate::support::{AUDIENCE, Answer, Options, Stack};

mod edge_certificate;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// An ordinary stack, and the AWS behind it.
async fn ordinary() -> (AwsDouble, Stack) {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    (aws, stack)
}

/// The token got nowhere: a challenge at the edge, and nothing done in AWS.
async fn refused(stack: &Stack, aws: &AwsDouble, token: &str) -> String {
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "attack"});
    let answer = stack.rpc(token, "tools/call", json!({"name": "whitelist_add", "arguments": arguments})).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(aws.actions().is_empty(), "{:?}", aws.actions());
    answer.header("www-authenticate").to_owned()
}

/// A JWT of any header and claims, its signature whatever is given.
fn compact(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A token that is good but for its header, signed by the issuer over that very header.
fn with_header(stack: &Stack, change: impl Fn(&mut Header)) -> String {
    let mut changed = header();
    change(&mut changed);
    stack.issuer.sign(&changed, &stack.issuer.claims("alice", "whitelist:write"))
}

// === RFC 9700: OAuth 2.0 security best current practice ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_2_3_privileges_are_restricted_to_one_audience_and_the_scopes_needed() {
    let (aws, stack) = ordinary().await;
    let broad = stack.issuer.token_with("alice", "whitelist:write", json!({"aud": "https://everything.example"}));
    assert!(refused(&stack, &aws, &broad).await.contains("another audience"));
    let reader = stack.issuer.token("alice", "whitelist:read");
    let remove = json!({"name": "whitelist_remove", "arguments": {"security_group": "staging-db"}});
    let answer = stack.rpc(&reader, "tools/call", remove).await;
    assert_eq!((answer.status, aws.actions().len()), (403, 0));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_3_2_tokens_in_the_query_are_not_taken() {
    let (_, stack) = ordinary().await;
    let token = stack.token();
    for path in [format!("/mcp?access_token={token}"), format!("/mcp?authorization=Bearer%20{token}")] {
        let answer = stack.send(http::Method::POST, &path, None, &[], LIST.into()).await;
        assert_eq!(answer.status, 401);
        // And it is not repeated, where it would be logged or cached.
        let told = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
        assert!(!told.contains(&token), "{told}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_4_mix_up_a_token_is_checked_by_its_own_issuer_alone() {
    let aws = AwsDouble::start().await;
    let partner = Issuer::start().await;
    let section = format!("[oidc.partner]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\n", partner.url);
    let stack = Stack::with(&aws.access(), Options { oidc_extra: section, ..Options::default() }).await;
    // The attacker runs the partner's issuer, and signs for the company's people with the company's key id.
    let forged = partner.sign(&header(), &stack.issuer.claims("alice", "whitelist:write"));
    assert!(refused(&stack, &aws, &forged).await.contains("signature"));
    // Or publishes the company's own key under another issuer's name.
    let borrowed = stack.issuer.sign(&header(), &partner.claims("alice", "whitelist:write"));
    assert!(refused(&stack, &aws, &borrowed).await.contains("signature"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_9_1_a_counterfeit_resource_server_s_tokens_are_worthless_here() {
    // What a fake server collects was issued for the fake server.
    let (aws, stack) = ordinary().await;
    for aud in
        [json!("https://localhost.evil.example/mcp"), json!(["https://evil.example"]), json!("https://localhost")]
    {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "aud": aud }));
        assert!(refused(&stack, &aws, &token).await.contains("another audience"), "{aud}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_9_2_a_compromised_server_finds_no_tokens_in_answers_or_journal() {
    let (_aws, stack) = ordinary().await;
    let token = stack.token();
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"});
    let answer = stack.rpc(&token, "tools/call", json!({"name": "whitelist_add", "arguments": arguments})).await;
    assert_eq!(answer.status, 200);
    let signature = token.rsplit('.').next().expect("a signature");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    for told in [String::from_utf8_lossy(&answer.body).into_owned(), format!("{entries:?}")] {
        assert!(!told.contains(signature), "{told}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_10_1_sender_constrained_tokens_are_not_taken_as_bearer_tokens() {
    // Whoever stole a bound token must not strip its binding by sending it plainly.
    let (aws, stack) = ordinary().await;
    for cnf in [
        json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
        json!({"x5t#S256": "abc"}),
        json!({}),
        json!(null),
    ] {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "cnf": cnf }));
        assert!(refused(&stack, &aws, &token).await.contains("bound to a key"), "{cnf}");
    }
    // Bound to a certificate that the thief does not have.
    let bound = json!({"cnf": {"x5t#S256": BASE64_URL_SAFE_NO_PAD.encode([7; 32])}});
    let token = stack.issuer.token_with("alice", "whitelist:write", bound);
    assert!(refused(&stack, &aws, &token).await.contains("bound to a client certificate"));
    let dpop = format!("DPoP {}", stack.token());
    assert_eq!(stack.post(None, &[("authorization", &dpop), ("dpop", "x.y.z")], LIST).await.status, 401);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_10_2_tokens_are_restricted_to_this_audience_exactly() {
    let (aws, stack) = ordinary().await;
    for aud in
        ["https://localhost/mcp/", "https://localhost/mc", "HTTPS://localhost/mcp", "https://localhost/mcp#x", "*", ""]
    {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "aud": aud }));
        assert!(refused(&stack, &aws, &token).await.contains("another audience"), "{aud}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_13_a_proxy_s_headers_are_believed_from_declared_proxies_only() {
    let (aws, stack) = ordinary().await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_check", "arguments": {"security_group": "staging-db", "address": "current", "port": "22"}}});
    // Who a certificate or a login in front of a proxy proved is no business of a stranger's header either.
    let headers = [
        ("x-forwarded-for", "198.51.100.1"),
        ("forwarded", "for=198.51.100.1"),
        ("x-real-ip", "198.51.100.1"),
        ("mcp-client-address", "198.51.100.1"),
        ("x-forwarded-user", "root"),
        ("x-forwarded-client-cert", "Subject=\"CN=ci-runner\""),
        ("x-forwarded-host", "evil.example"),
    ];
    let answer = stack.post(Some(&stack.token()), &headers, body.to_string()).await;
    let told = answer.json().to_string();
    assert!(!told.contains("198.51.100.1"), "{told}");
    assert_eq!(stack.post(None, &headers, LIST).await.status, 401);
    drop(aws);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_14_a_refresh_token_opens_nothing() {
    // Opaque or not, it is no access token; real providers' own are tried in `providers`.
    let (aws, stack) = ordinary().await;
    let refresh = with_header(&stack, |header| header.typ = Some("rt+jwt".to_owned()));
    assert!(refused(&stack, &aws, &refresh).await.contains("at+jwt"));
    refused(&stack, &aws, "v1.MRf8lM2Nx0uO").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9700_4_15_a_client_does_not_become_a_person_by_its_name() {
    // A client that may choose its own id registers as `alice`; its token says that it is the client, and its id differs.
    let (_aws, stack) = ordinary().await;
    let open =
        |address: &str| json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "trying"});
    stack.done("whitelist_add", open("203.0.113.7")).await;
    let client =
        json!({"sub": "alice@example.test", "client_id": "alice@example.test", "email": null, "email_verified": null});
    let token = stack.issuer.token_with("alice", "whitelist:write", client);
    let opened = stack.call_as(&token, "whitelist_add", open("203.0.113.8")).await;
    assert_eq!(opened["isError"], false, "{opened:#}");
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "end").count() >= 2).await;
    let ids: std::collections::BTreeSet<_> =
        entries.iter().filter(|entry| entry["type"] == "begin").map(|entry| entry["who"]["id"].to_string()).collect();
    assert_eq!(ids.len(), 2, "{entries:#?}");
    stack.stop().await;
}

// === RFC 8725: JWT best current practices ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_2_1_no_algorithm_is_no_signature() {
    let (aws, stack) = ordinary().await;
    let claims = stack.issuer.claims("alice", "whitelist:write");
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let head = json!({"alg": none, "typ": "at+jwt", "kid": "k1"});
        refused(&stack, &aws, &compact(&head, &claims, b"")).await;
        refused(&stack, &aws, &compact(&head, &claims, b"anything")).await;
    }
    refused(&stack, &aws, &compact(&json!({"typ": "at+jwt", "kid": "k1"}), &claims, b"")).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_2_1_a_public_key_is_no_shared_secret() {
    let (aws, stack) = ordinary().await;
    let keys =
        stack.http.send(http::Request::get(format!("{}/jwks", stack.issuer.url)).body(Vec::new()).expect("a request"));
    let published = keys.await.expect("the keys").into_body();
    let set: Value = serde_json::from_slice(&published).expect("JSON");
    let claims = stack.issuer.claims("alice", "whitelist:write");
    let x = set["keys"][0]["x"].as_str().expect("a coordinate");
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        for secret in [&published[..], x.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(x).expect("bytes")] {
            let head = Header { alg: algorithm, ..header() };
            let forged = jsonwebtoken::encode(&head, &claims, &EncodingKey::from_secret(secret)).expect("a token");
            assert!(refused(&stack, &aws, &forged).await.contains("algorithm"));
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_2_2_weak_and_symmetric_keys_are_not_configured() {
    for algorithm in ["HS256", "HS512", "none", "RS1", "ES256K", "dir"] {
        let text = format!(
            "[edge]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{AUDIENCE}\"\nplaintext = true\n[edge.backend]\naddress = \"localhost:1\"\ncertificate = \"x\"\nkey = \"x\"\nca = \"x\"\n[oidc.company]\nissuer = \"https://login.example\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"{algorithm}\"]\n"
        );
        let error = whitelistmcp::app::edge(&crate::support::parse(&text), &whitelistmcp::shutdown::Shutdown::new())
            .await
            .expect_err(algorithm);
        let told = whitelistmcp::error::Chain(&error).to_string();
        assert!(told.contains(&format!("algorithm `{algorithm}` is not accepted")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_3_a_signature_over_other_content_does_not_count() {
    let (aws, stack) = ordinary().await;
    let good = stack.issuer.token("alice", "whitelist:read");
    let parts: Vec<&str> = good.split('.').collect();
    let raised = stack.issuer.claims("alice", "whitelist:write");
    let payload = BASE64_URL_SAFE_NO_PAD.encode(raised.to_string());
    refused(&stack, &aws, &format!("{}.{payload}.{}", parts[0], parts[2])).await;
    refused(&stack, &aws, &format!("{}.{}.", parts[0], parts[1])).await;
    refused(&stack, &aws, &format!("{}.{}.{}", parts[0], parts[1], BASE64_URL_SAFE_NO_PAD.encode([0; 64]))).await;
    // The same bytes, said in another way.
    for other in [format!("{good}="), format!("{good}."), format!("{good}.{}", parts[2])] {
        refused(&stack, &aws, &other).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_2_6_a_claim_that_is_there_twice_is_read_by_nobody() {
    let (aws, stack) = ordinary().await;
    let good = stack.issuer.claims("alice", "whitelist:write").to_string();
    for twice in [
        r#""sub":"bob""#,
        r#""aud":"https://other.example""#,
        r#""scope":"whitelist:read""#,
        r#""exp":1"#,
        r#""iss":"x""#,
    ] {
        let text = good.replacen('{', &format!("{{{twice},"), 1);
        let raw = serde_json::value::RawValue::from_string(text).expect("JSON");
        refused(&stack, &aws, &stack.issuer.sign(&header(), &raw)).await;
    }
    // And nothing but JSON in UTF-8 is a header or a set of claims.
    let head = BASE64_URL_SAFE_NO_PAD.encode(header_bytes());
    for claims in [&b"\xff\xfe{\x00}\x00"[..], b"[]", b"null", b"{}x", b""] {
        refused(&stack, &aws, &format!("{head}.{}.AAAA", BASE64_URL_SAFE_NO_PAD.encode(claims))).await;
    }
    stack.stop().await;
}

fn header_bytes() -> Vec<u8> {
    serde_json::to_vec(&header()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_1_a_key_serves_the_algorithm_that_it_was_published_for() {
    let (aws, stack) = ordinary().await;
    // The header is the attacker's: whatever it names, the key `k1` is an ES256 one.
    let claims = stack.issuer.claims("alice", "whitelist:write");
    for algorithm in ["RS256", "PS256", "EdDSA"] {
        let head = json!({"alg": algorithm, "typ": "at+jwt", "kid": "k1"});
        assert!(refused(&stack, &aws, &compact(&head, &claims, &[1; 64])).await.contains("names no key"));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7515_4_1_11_extensions_that_must_be_understood_are_not_passed_over() {
    let (aws, stack) = ordinary().await;
    for crit in [vec!["exp".to_owned()], vec!["b64".to_owned()], vec!["x".to_owned(), "y".to_owned()], vec![]] {
        let token = with_header(&stack, |header| header.crit = Some(crit.clone()));
        assert!(refused(&stack, &aws, &token).await.contains("crit"), "{crit:?}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_6_compressed_and_encrypted_tokens_are_not_opened() {
    let (aws, stack) = ordinary().await;
    let jwe = json!({"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF", "typ": "at+jwt"});
    let token = format!("{}.{}.AAAA.AAAA.AAAA", BASE64_URL_SAFE_NO_PAD.encode(jwe.to_string()), "AAAA");
    refused(&stack, &aws, &token).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_8_issuer_and_subject_are_checked() {
    let (aws, stack) = ordinary().await;
    let url = &stack.issuer.url;
    for iss in [
        json!("https://evil.example"),
        json!(format!("{url}/")),
        json!([url]),
        json!(null),
        json!(url.to_uppercase()),
        json!({ "iss": url }),
    ] {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "iss": iss }));
        refused(&stack, &aws, &token).await;
    }
    for sub in [json!(""), json!(null), json!(7), json!("x".repeat(256))] {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "sub": sub }));
        refused(&stack, &aws, &token).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_10_received_claims_are_not_trusted_to_find_keys() {
    // A key of the attacker's own, offered in every way that a header can.
    let (aws, stack) = ordinary().await;
    let evil = Issuer::start().await;
    let (key, jwk) = signing_key("k1");
    evil.publish(json!({"keys": [jwk]}));
    let claims = stack.issuer.claims("alice", "whitelist:write");
    for (name, value) in [
        ("jku", json!(format!("{}/jwks", evil.url))),
        ("x5u", json!(format!("{}/jwks", evil.url))),
        ("jwk", jwk.clone()),
        ("x5c", json!(["MIIB"])),
    ] {
        let mut head = json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1"});
        head[name] = value;
        let head: Header = serde_json::from_value(head).expect("a header");
        let token = jsonwebtoken::encode(&head, &claims, &key).expect("a token");
        assert!(refused(&stack, &aws, &token).await.contains("signature"), "{name}");
    }
    assert_eq!(evil.asked(), 0, "nobody asks where a token sends them");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_10_a_key_id_is_compared_and_nothing_else() {
    let (aws, stack) = ordinary().await;
    for kid in
        ["../../etc/passwd", "k1' OR '1'='1", "K1", "k1 ", "k1\u{0}", "", "http://127.0.0.1:1/jwks", &"k".repeat(4000)]
    {
        let token = with_header(&stack, |header| header.kid = Some(kid.to_owned()));
        refused(&stack, &aws, &token).await;
    }
    stack.stop().await;
    // Two keys under one id, or no id where there are two: no choice is made.
    let (aws, stack) = ordinary().await;
    let (key, jwk) = signing_key("twin");
    let (_, other) = signing_key("twin");
    stack.issuer.publish(json!({"keys": [jwk, other]}));
    for kid in [Some("twin"), None] {
        let head = Header { kid: kid.map(str::to_owned), ..header() };
        let token =
            jsonwebtoken::encode(&head, &stack.issuer.claims("alice", "whitelist:write"), &key).expect("a token");
        assert!(refused(&stack, &aws, &token).await.contains("names no key"), "{kid:?}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc8725_3_11_a_token_of_another_kind_is_refused_by_its_type() {
    let (aws, stack) = ordinary().await;
    for typ in [
        None,
        Some("JWT"),
        Some("dpop+jwt"),
        Some("logout+jwt"),
        Some("token-introspection+jwt"),
        Some("secevent+jwt"),
        Some("at+jwt+x"),
        Some("application/jwt"),
    ] {
        let token = with_header(&stack, |header| header.typ = typ.map(str::to_owned));
        assert!(refused(&stack, &aws, &token).await.contains("at+jwt"), "{typ:?}");
    }
    stack.stop().await;
}

// === RFC 6750, section 5: bearer tokens ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6750_5_3_tokens_outside_the_header_are_not_taken() {
    let (_aws, stack) = ordinary().await;
    let token = stack.token();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(stack.post(None, &form, format!("access_token={token}")).await.status, 401);
    let inside = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"access_token": token, "_meta": {"authorization": format!("Bearer {token}")}}});
    assert_eq!(stack.post(None, &[], inside.to_string()).await.status, 401);
    let cookie = format!("access_token={token}");
    for (name, value) in
        [("cookie", cookie.as_str()), ("x-access-token", &token), ("proxy-authorization", &format!("Bearer {token}"))]
    {
        assert_eq!(stack.post(None, &[(name, value)], LIST).await.status, 401, "{name}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6750_5_2_a_replayed_token_ends_with_itself() {
    let (aws, stack) = ordinary().await;
    let old = stack.issuer.token_with("alice", "whitelist:write", json!({"iat": now() - 700, "exp": now() - 31}));
    assert!(refused(&stack, &aws, &old).await.contains("expired"));
    // One that was good a moment ago, and is remembered, is not good past its end and the leeway.
    let ending = stack.issuer.token_with("alice", "whitelist:write", json!({"iat": now() - 700, "exp": now() - 24}));
    assert_eq!(stack.rpc(&ending, "ping", json!({})).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert!(refused(&stack, &aws, &ending).await.contains("expired"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6750_5_3_plain_http_is_not_served_to_strangers() {
    let text = format!(
        "[edge]\nlisten = \"0.0.0.0:0\"\npublic_url = \"{AUDIENCE}\"\nplaintext = true\n[edge.backend]\naddress = \"localhost:1\"\ncertificate = \"x\"\nkey = \"x\"\nca = \"x\"\n[oidc.company]\nissuer = \"https://login.example\"\naudience = \"{AUDIENCE}\"\n"
    );
    let error = whitelistmcp::app::edge(&crate::support::parse(&text), &whitelistmcp::shutdown::Shutdown::new())
        .await
        .expect_err("open to all");
    assert!(error.to_string().contains("plaintext"), "{error}");
    // And an HTTPS edge has no ear for it.
    let (_aws, stack) = ordinary().await;
    let request = http::Request::post(format!("http://127.0.0.1:{}/mcp", stack.edge.port()))
        .header("authorization", format!("Bearer {}", stack.token()))
        .body(LIST.as_bytes().to_vec());
    assert!(stack.http.send(request.expect("a request")).await.is_err());
    stack.stop().await;
}

// === RFC 9068: JWT access tokens ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9068_4_every_claim_that_is_required_is_required() {
    let (aws, stack) = ordinary().await;
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        let mut claims = stack.issuer.claims("alice", "whitelist:write");
        claims.as_object_mut().expect("an object").remove(claim);
        let told = refused(&stack, &aws, &stack.issuer.sign(&header(), &claims)).await;
        assert!(told.contains(claim), "{claim}: {told}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9068_5_an_id_token_is_not_an_access_token() {
    let (aws, stack) = ordinary().await;
    let mut claims = stack.issuer.claims("alice", "whitelist:write");
    claims["aud"] = "test".into();
    claims["nonce"] = "n-0S6_WzA2Mj".into();
    let id_token = |typ: Option<&str>| stack.issuer.sign(&Header { typ: typ.map(str::to_owned), ..header() }, &claims);
    assert!(refused(&stack, &aws, &id_token(Some("JWT"))).await.contains("at+jwt"));
    assert!(refused(&stack, &aws, &id_token(None)).await.contains("at+jwt"));
    assert!(refused(&stack, &aws, &id_token(Some("at+jwt"))).await.contains("another audience"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9068_5_scopes_of_one_resource_are_not_those_of_another() {
    let (aws, stack) = ordinary().await;
    // Roles and entitlements that mean something elsewhere open nothing here, however they are called.
    let other = json!({"scp": "whitelist:write", "roles": ["admin"], "entitlements": ["whitelist:write"], "permissions": ["whitelist:write"]});
    let token = stack.issuer.token_with("alice", "admin *", other);
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "attack"});
    let answer = stack.rpc(&token, "tools/call", json!({"name": "whitelist_add", "arguments": arguments})).await;
    assert_eq!((answer.status, aws.actions().len()), (403, 0));
    stack.stop().await;
}

// === MCP: security considerations ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_token_passthrough_neither_in_nor_out() {
    let (aws, stack) = ordinary().await;
    // In: a token for what is behind us, or for anybody else.
    for aud in ["https://sts.amazonaws.com", "https://core.internal", "sts.amazonaws.com"] {
        let token = stack.issuer.token_with("alice", "whitelist:write", json!({ "aud": aud }));
        refused(&stack, &aws, &token).await;
    }
    // Out: AWS is asked with credentials of our own, and hears nothing of the caller's token.
    stack.call("whitelist_list", json!({"security_group": "staging-db"})).await;
    let signature = stack.token().rsplit('.').next().expect("a signature").to_owned();
    assert!(!aws.actions().is_empty() && !format!("{:?}", aws.actions()).contains(&signature));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_confused_deputy_the_core_acts_for_the_token_s_person_and_nobody_else() {
    let (_aws, stack) = ordinary().await;
    // An edge with bob's token cannot say that it is alice who asks.
    let mut request = Request::new(pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: "22".to_owned(),
        reason: "attack".to_owned(),
        ..Default::default()
    });
    let bob = stack.issuer.token("bob", "whitelist:write");
    for (name, value) in [
        ("authorization", format!("Bearer {bob}")),
        ("x-principal", "alice".into()),
        ("x-user", "alice".into()),
        ("enduser.id", "alice".into()),
    ] {
        request.metadata_mut().insert(
            tonic::metadata::MetadataKey::from_bytes(name.as_bytes()).expect("a key"),
            value.parse().expect("ASCII"),
        );
    }
    let opened = stack.grpc("edge").add_rule(request).await.expect("bob may").into_inner();
    assert_eq!(opened.rule.expect("a rule").holder, "bob@example.test");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_session_hijack_there_is_no_session_to_take_over() {
    let (_aws, stack) = ordinary().await;
    let token = stack.token();
    let initialize =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = stack.rpc(&token, "initialize", initialize).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.get("mcp-session-id").is_none() && answer.headers.get("set-cookie").is_none());
    // What a session would have made of the second call: nothing, without a token of its own.
    for headers in [&[("mcp-session-id", "1868a90c")][..], &[("last-event-id", "1")]] {
        assert_eq!(stack.post(None, headers, LIST).await.status, 401);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_dns_rebinding_foreign_hosts_and_origins_are_refused_before_the_token() {
    let (_aws, stack) = ordinary().await;
    let token = stack.token();
    for origin in [
        "https://evil.example",
        "null",
        "https://localhost.evil.example",
        "http://localhost",
        "https://localhost:1",
        "",
    ] {
        let answer = stack.post(Some(&token), &[("origin", origin)], LIST).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.headers.get("access-control-allow-origin").is_none(), "{origin}");
    }
    assert_eq!(stack.issuer.asked(), 0, "the token was not looked at");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_scope_minimisation_challenges_ask_for_what_the_operation_needs() {
    let (_aws, stack) = ordinary().await;
    let answer = stack.post(None, &[], LIST).await;
    let challenge = answer.header("www-authenticate");
    for broad in ["offline_access", "*", "admin", "openid"] {
        assert!(!challenge.contains(broad), "{challenge}");
    }
    let list = json!({"name": "whitelist_list", "arguments": {"security_group": "staging-db"}});
    let answer = stack.rpc(&stack.issuer.token("alice", "openid"), "tools/call", list).await;
    let challenge = answer.header("www-authenticate");
    assert!(answer.status == 403 && challenge.contains("scope=\"whitelist:read\""), "{challenge}");
    stack.stop().await;
}

/// What becomes of a good token of an issuer of that shape.
async fn through(shape: Shape) -> Answer {
    let aws = AwsDouble::start().await;
    let issuer = Issuer::shaped(shape).await;
    let options = Options { issuer_url: Some(issuer.url.clone()), ..Options::default() };
    let stack = Box::pin(Stack::with(&aws.access(), options)).await;
    let answer = stack.rpc(&issuer.token("alice", ""), "ping", json!({})).await;
    stack.stop().await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_ssrf_metadata_leads_nowhere_but_to_the_issuer() {
    let inner = Issuer::start().await;
    for uri in [
        format!("{}/jwks", inner.url),
        inner.url.replace("http://", "https://"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://login.example/jwks".to_owned(),
        "file:///etc/passwd".to_owned(),
        "data:application/json,{}".to_owned(),
        "/jwks".to_owned(),
        String::new(),
    ] {
        let answer = through(Shape { metadata: json!({"jwks_uri": uri}), ..Shape::default() }).await;
        assert_eq!(answer.status, 503, "{uri}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("jwks"), "{answer:?}");
    }
    assert_eq!(inner.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_ssrf_redirects_are_not_followed_and_answers_are_bounded() {
    let inner = Issuer::start().await;
    for answers in [Trap::Redirect(format!("{}/jwks", inner.url)), Trap::Huge, Trap::Endless, Trap::Deep] {
        let url = answers.start().await;
        let aws = AwsDouble::start().await;
        let options = Options { issuer_url: Some(url.clone()), ..Options::default() };
        let stack = Stack::with(&aws.access(), options).await;
        let started = std::time::Instant::now();
        let token = stack.issuer.token_with("alice", "", json!({ "iss": url }));
        let answer = stack.rpc(&token, "ping", json!({})).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(8), "{:?}", started.elapsed());
        stack.stop().await;
    }
    assert_eq!(inner.asked(), 0);
}

/// An issuer whose metadata is a trap.
enum Trap {
    /// It leads on.
    Redirect(String),
    /// It is larger than anybody's.
    Huge,
    /// It does not end.
    Endless,
    /// It is nested beyond sense.
    Deep,
}

impl Trap {
    async fn start(self) -> String {
        use axum::body::Body;
        use axum::response::{IntoResponse, Redirect};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let trap = std::sync::Arc::new(self);
        let router = axum::Router::new().fallback(move || {
            let trap = std::sync::Arc::clone(&trap);
            async move {
                match &*trap {
                    Self::Redirect(to) => Redirect::temporary(to).into_response(),
                    Self::Huge => format!("{{\"issuer\":\"{}\"}}", "x".repeat(4 << 20)).into_response(),
                    Self::Endless => {
                        let drip = futures_util::stream::unfold((), |()| async {
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                            Some((Ok::<_, std::io::Error>("[".to_owned()), ()))
                        });
                        Body::from_stream(drip).into_response()
                    }
                    Self::Deep => "[".repeat(500_000).into_response(),
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

// What the standards name besides, and why it has no row here.
//
// RFC 9700: 4.1 (redirect URIs), 4.2 (referrers), 4.5 (code injection), 4.6 (token injection into clients), 4.7 (CSRF),
// 4.8 (PKCE downgrade), 4.11 (open redirects), 4.12 (307 redirects), 4.16 (clickjacking) and 4.17 (postMessage): between
// a client, a browser and the authorization server; this service is none of them. 4.3.1 (codes in a browser's
// history): it gives none. 4.14.2 (rotation of refresh tokens): the
// authorization server's; that one opens nothing here is 4.14 above. 4.10.1's other half, checking the proof of a
// sender-constrained token, is not offered, so such tokens are refused.
//
// RFC 8725: 2.3 (composition of encryption and signature), 2.4 (length of ciphertexts), 2.5 and 3.4 (elliptic curve
// encryption; a published point that is on no curve makes no key: `tokens`), 3.5 (entropy of keys): nothing is decrypted,
// and nothing symmetric is accepted. 2.7, 2.8 and 3.12 (substitution, confusion of JWTs): by audience and type, in 3.8, 3.11
// and RFC 9068's rows. 2.9 (indirect attacks): 3.10 and MCP's rows about metadata. 3.9 (audience): RFC 9700's 4.10.2.
//
// RFC 6750: 5.3's cookies (none are set or read), and clients' duties (validating certificates, not storing tokens).
//
// MCP: confused deputy by a proxy's static client id (no authorization server is proxied), local server compromise (of
// the client's machine), and server-to-client requests (none are sent).
