//! Other people's providers, as real processes: the certified `oidc-provider`, and Canaille.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::emulator::{self, Provider};
use crate::support::temporary::Directory;
use crate::support::{AUDIENCE, Answer, Options, Stack};

const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const OPAQUE: &str = "https://localhost/opaque";

fn certified(settings: &[(&str, &str)]) -> Provider {
    let common = [("RESOURCE", AUDIENCE), ("OTHER_RESOURCE", "https://other.example/mcp")];
    let words = [emulator::tool("node/node_modules/.bin/node"), emulator::demo("oidc/provider.mjs")];
    Provider::start(&words, &[&common[..], settings].concat())
}

/// A stack for the issuer alone.
async fn stack_of(issuer: &str, audience: &str, oidc_extra: String) -> Stack {
    let aws = AwsDouble::start().await;
    let options = Options {
        issuer_url: Some(issuer.to_owned()),
        audience: Some(audience.to_owned()),
        oidc_extra,
        ..Options::default()
    };
    Stack::with(&aws.access(), options).await
}

/// The two clients that ask about tokens, with their secrets in files.
fn introspection(secrets: &Directory, client: &str, secret: &str) -> String {
    let file = secrets.write(client, secret);
    format!("[oidc.company.introspection]\nclient_id = \"{client}\"\nclient_secret_file = \"{}\"\n", file.display())
}

/// A request to a token endpoint, as a client with a secret.
async fn ask_for_token(stack: &Stack, endpoint: &str, client: (&str, &str), form: &[(&str, &str)]) -> Value {
    let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{}:{}", client.0, client.1));
    let request = http::Request::post(endpoint)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("Basic {basic}"))
        .body(form.into_bytes())
        .expect("a request");
    let answer = stack.http.send(request).await.expect("an answer");
    serde_json::from_slice(answer.body()).expect("JSON")
}

async fn machine_token(stack: &Stack, issuer: &str, client: &str, resource: &str) -> String {
    let form =
        [("grant_type", "client_credentials"), ("resource", resource), ("scope", "whitelist:read whitelist:write")];
    let answer = ask_for_token(stack, &format!("{issuer}/token"), (client, &format!("{client}-secret")), &form).await;
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{client}: {answer}")).to_owned()
}

async fn ping(stack: &Stack, token: &str) -> Answer {
    stack.rpc(token, "ping", json!({})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_that_may_be_configured_is_understood_and_no_other_is_taken() {
    let provider = certified(&[("ALG", &ALGORITHMS.join(","))]);
    let issuer = provider.issuer();
    let all = stack_of(&issuer, AUDIENCE, format!("algorithms = {ALGORITHMS:?}\n")).await;
    let one = stack_of(&issuer, AUDIENCE, "algorithms = [\"ES256\"]\n".to_owned()).await;
    for algorithm in ALGORITHMS {
        let token = machine_token(&all, &issuer, &format!("ci-{algorithm}"), AUDIENCE).await;
        let header = jsonwebtoken::decode_header(&token).expect("a JWT");
        assert_eq!(format!("{:?}", header.alg), algorithm);
        let listed = all.call_as(&token, "whitelist_list", json!({"security_group": "staging-db"})).await;
        assert_eq!(listed["isError"], false, "{algorithm}: {listed:#}");
        let answer = ping(&one, &token).await;
        assert_eq!(answer.status, if algorithm == "ES256" { 200 } else { 401 }, "{algorithm}: {answer:?}");
    }
    for stack in [all, one] {
        stack.stop().await;
    }
    provider.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_tokens_of_a_certified_provider() {
    let provider = certified(&[("OPAQUE_RESOURCE", OPAQUE), ("MEMBERSHIPS", r#"{"carol": ["dba"]}"#)]);
    let issuer = provider.issuer();
    let secrets = Directory::new();
    let section = |client: &str| {
        "tokens = \"opaque\"\n".to_owned() + &introspection(&secrets, client, &format!("{client}-secret"))
    };
    let aws = AwsDouble::start().await;
    let options = Options {
        issuer_url: Some(issuer.clone()),
        audience: Some(OPAQUE.to_owned()),
        oidc_extra: section("core"),
        edge_oidc_extra: Some(section("edge")),
        ..Options::default()
    };
    let stack = Stack::with(&aws.access(), options).await;
    let tokens = emulator::login(&issuer, "carol", OPAQUE, "openid whitelist:write");
    let token = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{name}: {tokens}")).to_owned();
    assert!(!token("access_token").contains('.'), "opaque: {tokens}");
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"});
    let opened = stack.call_as(&token("access_token"), "whitelist_add", arguments).await;
    assert_eq!(opened["structuredContent"]["rule"]["holder"], "carol@example.test", "{opened:#}");
    // What else the provider gave, and what it gave for another resource.
    for name in ["id_token", "refresh_token"] {
        assert_eq!(ping(&stack, &token(name)).await.status, 401, "{name}");
    }
    let jwt = emulator::login(&issuer, "carol", AUDIENCE, "whitelist:write");
    assert_eq!(ping(&stack, jwt["access_token"].as_str().expect("a token")).await.status, 401);
    // A program's own opaque token names nobody: RFC 7662 leaves `sub` out, and nobody is let in without.
    let nobody = machine_token(&stack, &issuer, "ci", OPAQUE).await;
    let answer = ping(&stack, &nobody).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("`sub`"), "{answer:?}");
    stack.stop().await;
    // With a wrong secret nothing can be asked, which says nothing of the token.
    let wrong = "tokens = \"opaque\"\n".to_owned() + &introspection(&secrets, "edge", "wrong");
    let stack = stack_of(&issuer, OPAQUE, wrong).await;
    assert_eq!(ping(&stack, &token("access_token")).await.status, 503);
    stack.stop().await;
    provider.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_new_keys_is_followed() {
    let port = emulator::free_port().to_string();
    let provider = certified(&[("PORT", &port), ("ALG", "ES256")]);
    let issuer = provider.issuer();
    let stack = stack_of(&issuer, AUDIENCE, String::new()).await;
    let old = machine_token(&stack, &issuer, "ci", AUDIENCE).await;
    assert_eq!(ping(&stack, &old).await.status, 200);
    provider.end();
    // While it is away, what is known goes on.
    assert_eq!(ping(&stack, &old).await.status, 200);
    let provider = certified(&[("PORT", &port), ("ALG", "ES256")]);
    let new = machine_token(&stack, &issuer, "ci", AUDIENCE).await;
    let mut status = 0;
    for _ in 0..30 {
        status = ping(&stack, &new).await.status;
        if status == 200 {
            break;
        }
        assert_eq!(status, 401);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(status, 200, "the new key is found within the least time between two questions");
    stack.stop().await;
    provider.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaille_s_tokens_mean_what_canaille_says() {
    let directory = Directory::new();
    let words =
        [emulator::tool("canaille/bin/python"), emulator::demo("oidc/opaque_provider.py"), directory.path().to_owned()];
    let provider = Provider::start(&words, &[]);
    let issuer = provider.issuer();
    let said = |who: &str, what: &str| provider.said[who][what].as_str().expect("a string").to_owned();
    // Its audiences are clients, so the service is one; and all its tokens are asked about, though they look like JWTs.
    let resource = said("resource", "id");
    let section =
        "tokens = \"opaque\"\n".to_owned() + &introspection(&directory, &resource, &said("resource", "secret"));
    let stack = stack_of(&issuer, &resource, section.clone()).await;
    let (name, password) = (said("person", "name"), said("person", "password"));
    let form = [
        ("grant_type", "password"),
        ("username", name.as_str()),
        ("password", password.as_str()),
        ("scope", "openid whitelist:write"),
    ];
    let (program, secret) = (said("program", "id"), said("program", "secret"));
    let tokens = ask_for_token(&stack, &format!("{issuer}/oauth/token"), (&program, &secret), &form).await;
    let token = tokens["access_token"].as_str().unwrap_or_else(|| panic!("{tokens}"));
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"});
    let opened = stack.call_as(token, "whitelist_add", arguments).await;
    assert_eq!(opened["structuredContent"]["rule"]["holder"], "Dora_Example", "{opened:#}");
    // It would look a refresh token up as well, were it not told what is asked for.
    let refresh = tokens["refresh_token"].as_str().expect("a refresh token");
    assert_eq!(ping(&stack, refresh).await.status, 401);
    assert_eq!(ping(&stack, "made-up").await.status, 401);
    stack.stop().await;
    // Taken for JWTs they are refused: they do not say that they are access tokens.
    let stack = stack_of(&issuer, &resource, String::new()).await;
    let answer = ping(&stack, token).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("at+jwt"), "{answer:?}");
    stack.stop().await;
    // And without the audience that was agreed on, they are for somebody else.
    let stack = stack_of(&issuer, AUDIENCE, section).await;
    let answer = ping(&stack, token).await;
    assert!(answer.status == 401 && answer.header("www-authenticate").contains("another audience"), "{answer:?}");
    stack.stop().await;
    provider.end();
}
