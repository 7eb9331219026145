//! Several issuers beside each other, and what an issuer's metadata may say.

use jsonwebtoken::Header;
use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::issuer::{Issuer, Shape, header, signing_key};
use crate::support::{AUDIENCE, Options, Stack};

/// A second issuer's section.
fn partner(issuer: &Issuer) -> String {
    format!("[oidc.partner]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\n", issuer.url)
}

async fn beside(partner: &Issuer, more: &str) -> Stack {
    let aws = AwsDouble::start().await;
    let options = Options { oidc_extra: self::partner(partner) + more, ..Options::default() };
    Box::pin(Stack::with(&aws.access(), options)).await
}

async fn status(stack: &Stack, token: &str) -> u16 {
    stack.rpc(token, "ping", json!({})).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_two_issuers_are_different_people() {
    let partner = Issuer::shaped(Shape { path: "/realms/partner", ..Shape::default() }).await;
    let stack = beside(&partner, "").await;
    let open = |address: &'static str| json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "trying"});
    let ours = stack.call("whitelist_add", open("203.0.113.7")).await;
    let theirs = stack.call_as(&partner.token("alice", "whitelist:write"), "whitelist_add", open("203.0.113.8")).await;
    for opened in [&ours, &theirs] {
        assert_eq!(opened["structuredContent"]["rule"]["holder"], "alice@example.test", "{opened:#}");
    }
    let entries =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "end").count() >= 2).await;
    let whos: std::collections::BTreeSet<String> =
        entries.iter().filter(|entry| entry["type"] == "begin").map(|entry| entry["who"]["id"].to_string()).collect();
    assert_eq!(whos.len(), 2, "{entries:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_several_issuers_are_told_apart() {
    let partner = Issuer::start().await;
    let groups = json!({"groups": ["whitelistmcp-admins"]});
    let leaver = json!({"holder": "carol@example.test", "reason": "left", "dry_run": true});
    for (more, refused) in [("", true), ("groups_prefix = \"\"\n", false)] {
        let stack = beside(&partner, more).await;
        let token = partner.token_with("mallory", "whitelist:write", groups.clone());
        let result = stack.call_as(&token, "whitelist_revoke_holder", leaver.clone()).await;
        assert_eq!(result["isError"], refused, "{result:#}");
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_issuers_are_in_the_metadata() {
    let partner = Issuer::shaped(Shape { path: "/realms/partner", ..Shape::default() }).await;
    let stack = beside(&partner, "").await;
    let answer =
        stack.send(http::Method::GET, "/.well-known/oauth-protected-resource/mcp", None, &[], Vec::new()).await;
    assert_eq!(answer.json()["authorization_servers"], json!([stack.issuer.url, partner.url]));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_issuer_signs_for_another() {
    let partner = Issuer::start().await;
    let stack = beside(&partner, "").await;
    assert_eq!(status(&stack, &partner.token("alice", "")).await, 200);
    // Both publish a key named `k1`.
    let claims = stack.issuer.claims("alice", "whitelist:write");
    let answer = stack.rpc(&partner.sign(&header(), &claims), "ping", json!({})).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("signature is wrong"), "{answer:?}");
    // And under a name that only the partner publishes.
    let (key, jwk) = signing_key("theirs");
    partner.publish(json!({"keys": [jwk]}));
    let named = Header { kid: Some("theirs".to_owned()), ..header() };
    let token = jsonwebtoken::encode(&named, &claims, &key).expect("a token");
    let answer = stack.rpc(&token, "ping", json!({})).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("names no key"), "{answer:?}");
    // A list of issuers is no issuer.
    let mut both = claims.clone();
    both["iss"] = json!([stack.issuer.url, partner.url]);
    assert_eq!(status(&stack, &stack.issuer.sign(&header(), &both)).await, 401);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_issuer_has_rules_of_its_own() {
    let partner = Issuer::start().await;
    let theirs = format!(
        "[oidc.partner]\nissuer = \"{}\"\naudience = \"https://partner.example/mcp\"\nalgorithms = [\"RS256\"]\n",
        partner.url
    );
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { oidc_extra: theirs, ..Options::default() }).await;
    let answer = stack.rpc(&partner.token("alice", ""), "ping", json!({})).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("algorithm"), "{answer:?}");
    assert_eq!(status(&stack, &stack.token()).await, 200);
    let elsewhere = stack.issuer.token_with("alice", "", json!({"aud": "https://partner.example/mcp"}));
    assert_eq!(status(&stack, &elsewhere).await, 401);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_issuer_that_is_away_does_not_lock_the_others_out() {
    let aws = AwsDouble::start().await;
    let away = format!("[oidc.away]\nissuer = \"http://127.0.0.1:9\"\naudience = \"{AUDIENCE}\"\n");
    let stack = Stack::with(&aws.access(), Options { oidc_extra: away, ..Options::default() }).await;
    let theirs = stack.issuer.token_with("alice", "", json!({"iss": "http://127.0.0.1:9"}));
    assert_eq!(status(&stack, &theirs).await, 503);
    assert_eq!(status(&stack, &stack.token()).await, 200);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_found_wherever_a_standard_puts_it() {
    for (path, at) in [
        ("/realms/a", None),
        ("/realms/a", Some("/.well-known/oauth-authorization-server/realms/a")),
        ("/realms/a", Some("/.well-known/openid-configuration/realms/a")),
        ("", Some("/.well-known/oauth-authorization-server")),
    ] {
        let issuer = Issuer::shaped(Shape { path, metadata_at: at, ..Shape::default() }).await;
        let stack = beside(&issuer, "").await;
        assert_eq!(status(&stack, &issuer.token("alice", "")).await, 200, "{path} {at:?}");
        stack.stop().await;
    }
}

/// What becomes of a good token whose issuer's metadata says this.
async fn with_metadata(metadata: Value, more: &str) -> u16 {
    let issuer = Issuer::shaped(Shape { metadata, ..Shape::default() }).await;
    let stack = beside(&issuer, more).await;
    let status = status(&stack, &issuer.token("alice", "")).await;
    stack.stop().await;
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_must_be_the_issuer_s_own_and_lead_nowhere_else() {
    assert_eq!(with_metadata(json!({"issuer": "https://login.example"}), "").await, 503);
    assert_eq!(with_metadata(json!({"jwks_uri": null}), "").await, 503);
    let other = Issuer::start().await;
    let keys = format!("{}/jwks", other.url);
    assert_eq!(with_metadata(json!({"jwks_uri": keys}), "").await, 503);
    assert_eq!(with_metadata(json!({"jwks_uri": "file:///etc/passwd"}), "").await, 503);
    assert_eq!(other.asked(), 0, "nobody asks where metadata sends them");
    // Listed, it is asked; its keys are not the issuer's, so the token is refused and not undecided.
    assert_eq!(with_metadata(json!({"jwks_uri": keys}), &format!("origins = [\"{}\"]\n", other.url)).await, 401);
    assert_ne!(other.asked(), 0);
}
