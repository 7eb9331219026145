//! Tokens that must not get in, at the edge; and what the verifier asks of its provider.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::issuer::{header, now, signing_key};
use crate::support::{AUDIENCE, Answer, Options, Stack, emulator};

async fn refused(stack: &Stack, token: &str, part: &str) -> Answer {
    let answer = stack.rpc(token, "tools/list", json!({})).await;
    assert_eq!(answer.status, 401, "{part}: {answer:?}");
    let challenge = answer.header("www-authenticate");
    assert!(
        challenge.contains(r#"error="invalid_token""#) && challenge.contains("resource_metadata="),
        "{part}: {challenge}"
    );
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(part), "{part}: {message}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_refused_by_the_check_that_failed() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let good = stack.issuer.claims("alice", "whitelist:read");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        stack.issuer.sign(&header(), &claims)
    };
    let without = |claim: &str| with(&|claims| drop(claims.as_object_mut().expect("an object").remove(claim)));

    refused(&stack, &with(&|claims| claims["iss"] = "https://evil.example".into()), "another issuer").await;
    refused(&stack, &with(&|claims| claims["iss"] = format!("{}/", stack.issuer.url).into()), "another issuer").await;
    refused(&stack, &with(&|claims| claims["aud"] = "https://other.example/mcp".into()), "another audience").await;
    refused(&stack, &with(&|claims| claims["aud"] = json!([])), "another audience").await;
    refused(&stack, &with(&|claims| claims["exp"] = (now() - 60).into()), "expired").await;
    refused(&stack, &with(&|claims| claims["nbf"] = (now() + 120).into()), "not valid yet").await;
    refused(&stack, &with(&|claims| claims["iat"] = (now() + 120).into()), "not valid yet").await;
    refused(&stack, &with(&|claims| claims["cnf"] = json!({"jkt": "x"})), "bound to a key").await;
    refused(&stack, &with(&|claims| claims["sub"] = "".into()), "`sub`").await;
    refused(&stack, &with(&|claims| claims["exp"] = "tomorrow".into()), "").await;
    for claim in ["iss", "aud", "exp", "sub", "client_id", "jti", "iat"] {
        refused(&stack, &without(claim), claim).await;
    }

    let typed = |typ: Option<&str>| stack.issuer.sign(&Header { typ: typ.map(str::to_owned), ..header() }, &good);
    refused(&stack, &typed(Some("JWT")), "at+jwt").await;
    refused(&stack, &typed(None), "at+jwt").await;
    refused(&stack, &stack.issuer.sign(&Header { crit: Some(vec!["x".to_owned()]), ..header() }, &good), "crit").await;
    refused(&stack, &stack.issuer.sign(&Header { kid: Some("k9".to_owned()), ..header() }, &good), "names no key")
        .await;

    // The provider's public key is no secret: a token "signed" with it by HMAC must not pass.
    let symmetric = Header { alg: Algorithm::HS256, ..header() };
    let forged = jsonwebtoken::encode(&symmetric, &good, &EncodingKey::from_secret(b"public key")).expect("a token");
    refused(&stack, &forged, "algorithm").await;
    let (other_key, _) = signing_key("k1");
    let forged = jsonwebtoken::encode(&header(), &good, &other_key).expect("a token");
    refused(&stack, &forged, "signature").await;

    let token = stack.token();
    let mut parts = token.split('.');
    let (head, claims) = (parts.next().expect("a header"), parts.next().expect("claims"));
    refused(&stack, &format!("{head}.{claims}."), "").await;
    let unsigned = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, r#"{"alg":"none","typ":"at+jwt"}"#);
    refused(&stack, &format!("{unsigned}.{claims}."), "").await;
    refused(&stack, "not-a-token", "RFC 9068").await;
    refused(&stack, &"a".repeat(12_000), "RFC 9068").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_in_the_authorization_header_alone() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let token = stack.token();
    let bearer = format!("Bearer {token}");
    for headers in [
        vec![("authorization", "Bearer ")],
        vec![("authorization", "Bearer")],
        vec![("authorization", "")],
        vec![("authorization", "Bearer a b")],
        vec![("authorization", "Bearer a,b")],
        vec![("authorization", bearer.as_str()), ("authorization", &bearer)],
        vec![("authorization", bearer.as_str()), ("authorization", "Basic YTpi")],
    ] {
        let answer = stack.post(None, &headers, list.clone()).await;
        let challenge = answer.header("www-authenticate");
        assert_eq!((answer.status, challenge.contains(r#"error="invalid_request""#)), (400, true), "{headers:?}");
        assert_eq!(answer.json()["jsonrpc"], "2.0");
    }
    for headers in [vec![], vec![("authorization", "Basic YTpi")], vec![("authorization", "DPoP abc")]] {
        let answer = stack.post(None, &headers, list.clone()).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        let challenge = answer.header("www-authenticate");
        assert!(
            challenge.starts_with("Bearer ")
                && !challenge.contains("error=")
                && challenge.contains("scope=\"whitelist:read whitelist:write\""),
            "{challenge}"
        );
        assert_eq!(answer.json()["jsonrpc"], "2.0");
    }
    let answer =
        stack.send(http::Method::POST, &format!("/mcp?access_token={token}"), None, &[], list.clone().into()).await;
    assert_eq!(answer.status, 401);
    let lower = format!("bearer {token}");
    assert_eq!(stack.post(None, &[("authorization", &lower)], list).await.status, 200);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_scope_is_one_challenge_that_names_it() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let reader = stack.issuer.token("bob", "whitelist:read");
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"});
    let answer = stack.rpc(&reader, "tools/call", json!({"name": "whitelist_add", "arguments": arguments})).await;
    assert_eq!(answer.status, 403);
    let challenge = answer.header("www-authenticate");
    assert!(
        challenge.contains(r#"error="insufficient_scope", scope="whitelist:write", resource_metadata="#),
        "{challenge}"
    );
    let writer = stack.issuer.token("bob", "whitelist:write");
    let result = stack.call_as(&writer, "whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(result["isError"], false, "write holds read: {result}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_leads_to_the_issuer() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let answer = stack.send(http::Method::GET, path, None, &[], Vec::new()).await;
        let metadata = answer.json();
        assert_eq!(
            (metadata["resource"].as_str(), metadata["authorization_servers"][0].as_str()),
            (Some(AUDIENCE), Some(stack.issuer.url.as_str()))
        );
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_key_ids_do_not_flood_the_provider() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    assert_eq!(stack.rpc(&stack.token(), "ping", json!({})).await.status, 200);
    let before = stack.issuer.asked();
    for n in 0..20 {
        let token = stack
            .issuer
            .sign(&Header { kid: Some(format!("unknown-{n}")), ..header() }, &stack.issuer.claims("alice", ""));
        assert_eq!(stack.rpc(&token, "ping", json!({})).await.status, 401);
    }
    assert!(stack.issuer.asked() <= before + 1, "asked {} times", stack.issuer.asked() - before);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cannot_be_understood_does_not_spoil_the_others() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let (key, jwk) = signing_key("k2");
    stack.issuer.publish(json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "bad"}, {"kty": "unheard-of", "kid": "odd"}, jwk]}));
    let header = Header { kid: Some("k2".to_owned()), ..header() };
    let token = jsonwebtoken::encode(&header, &stack.issuer.claims("alice", "whitelist:read"), &key).expect("a token");
    assert_eq!(stack.rpc(&token, "ping", json!({})).await.status, 200);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_is_no_verdict_on_the_token() {
    let aws = AwsDouble::start().await;
    let options = Options { issuer_url: Some("http://127.0.0.1:9".to_owned()), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    let token = stack.issuer.token_with("alice", "whitelist:read", json!({"iss": "http://127.0.0.1:9"}));
    let answer = stack.rpc(&token, "ping", json!({})).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.header("retry-after").is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_provider_s_tokens_are_understood() {
    let issuer = emulator::provider(AUDIENCE);
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { issuer_url: Some(issuer.clone()), ..Options::default() }).await;
    let login = |resource: &str, more: &[&str]| {
        let mut command = std::process::Command::new("python3");
        command.arg(emulator::demo("client/login.py")).args(["--issuer", &issuer, "--resource", resource]).args(more);
        emulator::output(&mut command).trim().to_owned()
    };
    let token = login(AUDIENCE, &["--user", "carol", "--scope", "whitelist:write"]);
    let opened = stack
        .call_as(
            &token,
            "whitelist_add",
            json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "login"}),
        )
        .await;
    assert_eq!(opened["structuredContent"]["rule"]["holder"], "carol@example.test", "{opened:#}");
    refused(&stack, &login("https://other.example/mcp", &[]), "another audience").await;
    let answer: Value =
        serde_json::from_str(&login(AUDIENCE, &["--scope", "openid whitelist:read", "--json"])).expect("JSON");
    refused(&stack, answer["id_token"].as_str().expect("an ID token"), "at+jwt").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_from_before_rfc_9068_are_understood_where_the_issuer_is_known_to_write_them() {
    let oidc_extra = "profile = \"jwt\"\nscope_prefix = \"api://whitelist/\"\n".to_owned();
    let stack = Stack::with(&AwsDouble::start().await.access(), Options { oidc_extra, ..Options::default() }).await;
    let older = Header { typ: Some("JWT".to_owned()), ..header() };
    let claims = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut claims = stack.issuer.claims("alice", "whitelist:read");
        let map = claims.as_object_mut().expect("an object");
        for name in ["client_id", "jti", "scope"] {
            map.remove(name);
        }
        map.insert("azp".to_owned(), "client".into());
        map.insert("uti".to_owned(), "1".into());
        map.insert("scp".to_owned(), "whitelist:read".into());
        change(map);
        claims
    };
    let token = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| stack.issuer.sign(&older, &claims(change));

    let listed = stack.call_as(&token(&|_| {}), "whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(listed["isError"], json!(false), "{listed:#}");
    let okta = token(&|claims| {
        claims.insert("scp".to_owned(), json!(["openid", "api://whitelist/whitelist:read"]));
        claims.remove("azp");
        claims.insert("cid".to_owned(), "client".into());
    });
    let listed = stack.call_as(&okta, "whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(listed["isError"], json!(false), "{listed:#}");

    // What may be an ID token is none, and neither is any other type.
    refused(&stack, &token(&|claims| drop(claims.insert("nonce".to_owned(), "n".into()))), "`nonce`").await;
    refused(&stack, &token(&|claims| drop(claims.insert("aud".to_owned(), "client".into()))), "`aud`").await;
    refused(&stack, &token(&|claims| drop(claims.insert("azp".to_owned(), AUDIENCE.into()))), "`aud`").await;
    refused(&stack, &token(&|claims| drop(claims.remove("scp"))), "`scope`").await;
    refused(&stack, &token(&|claims| drop(claims.remove("azp"))), "`client_id`").await;
    let logout = Header { typ: Some("logout+jwt".to_owned()), ..header() };
    refused(&stack, &stack.issuer.sign(&logout, &claims(&|_| {})), "type").await;

    // Clients are told to ask as the issuer wants to be asked, also for what a good token lacks.
    let add = json!({"name": "whitelist_add", "arguments": {"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "x"}});
    let answer = stack.rpc(&token(&|_| {}), "tools/call", add).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let challenge = answer.header("www-authenticate").to_owned();
    assert!(challenge.contains(r#"scope="api://whitelist/whitelist:write""#), "{challenge}");
    let at = "/.well-known/oauth-protected-resource/mcp";
    let metadata = stack.send(http::Method::GET, at, None, &[], Vec::new()).await.json();
    assert_eq!(
        metadata["scopes_supported"],
        json!(["api://whitelist/whitelist:read", "api://whitelist/whitelist:write"])
    );
    stack.stop().await;
}
