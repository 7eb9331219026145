//! Opaque tokens: what is asked of their issuer, how often, and what becomes of the answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::issuer::{Issuer, now};
use crate::support::temporary::Directory;
use crate::support::{Answer, Options, Stack};

/// A stack whose issuer is asked about tokens; the edge and the core each as a client of their own.
struct Asking {
    stack: Stack,
    _secrets: Directory,
}

impl std::ops::Deref for Asking {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

async fn asking(tokens: &str, more: &str) -> Asking {
    let secrets = Directory::new();
    let section = |client: &str| {
        let file = secrets.write(client, &format!("{client}-secret\n"));
        format!(
            "tokens = \"{tokens}\"\n[oidc.company.introspection]\nclient_id = \"{client}\"\nclient_secret_file = \"{}\"\n{more}",
            file.display()
        )
    };
    let aws = AwsDouble::start().await;
    let options = Options { oidc_extra: section("core"), edge_oidc_extra: Some(section("edge")), ..Options::default() };
    Asking { stack: Stack::with(&aws.access(), options).await, _secrets: secrets }
}

async fn ping(stack: &Stack, token: &str) -> Answer {
    stack.rpc(token, "ping", json!({})).await
}

async fn refused(stack: &Stack, token: &str, part: &str) {
    let answer = ping(stack, token).await;
    assert_eq!(answer.status, 401, "{part}: {answer:?}");
    assert!(answer.header("www-authenticate").contains(part), "{part}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_and_the_core_each_ask_once_as_themselves() {
    let stack = asking("either", "").await;
    stack.issuer.opaque("opaque-1", stack.issuer.active("alice", "whitelist:write"));
    for n in 0..5 {
        let address = format!("203.0.113.{n}");
        let arguments = json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "trying"});
        let opened = stack.call_as("opaque-1", "whitelist_add", arguments).await;
        assert_eq!(opened["structuredContent"]["rule"]["holder"], "alice@example.test", "{opened:#}");
    }
    let questions = stack.issuer.questions();
    let basic = |client: &str| {
        let pair = format!("{client}:{client}-secret");
        format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pair))
    };
    let mut asked: Vec<&str> = questions.iter().map(|question| question.authorization.as_str()).collect();
    asked.sort_unstable();
    assert_eq!(asked, [basic("core"), basic("edge")]);
    assert!(questions.iter().all(|question| question.form == "token=opaque-1&token_type_hint=access_token"));
    // JWTs of the same issuer are still checked by its keys, and it is not asked about them.
    assert_eq!(ping(&stack, &stack.token()).await.status, 200);
    assert_eq!(stack.issuer.questions().len(), 2);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_held_to_what_is_asked_of_a_jwt() {
    let stack = asking("opaque", "").await;
    let good = stack.issuer.active("alice", "whitelist:read");
    let mut number = 0;
    let mut with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut answer = good.clone();
        change(answer.as_object_mut().expect("an object"));
        number += 1;
        let token = format!("opaque-{number}");
        stack.issuer.opaque(&token, answer);
        token
    };
    let fine = with(&|_| ());
    let sparse = with(&|answer| {
        answer.retain(|name, _| ["active", "token_type", "aud", "exp", "sub", "client_id"].contains(&name.as_str()))
    });
    let listed = with(&|answer| {
        drop(answer.insert("aud".to_owned(), json!(["https://other.example", crate::support::AUDIENCE])))
    });
    for token in [&fine, &sparse, &listed] {
        assert_eq!(ping(&stack, token).await.status, 200, "{token}");
    }
    let set = |name: &'static str, value: Value| {
        move |answer: &mut serde_json::Map<String, Value>| drop(answer.insert(name.to_owned(), value.clone()))
    };
    for (name, value, part) in [
        ("active", json!(false), "does not know it"),
        ("iss", json!("https://evil.example"), "another issuer"),
        ("aud", json!("https://other.example/mcp"), "another audience"),
        ("aud", json!([]), "another audience"),
        ("aud", Value::Null, "`aud`"),
        ("exp", json!(now() - 60), "expired"),
        ("exp", Value::Null, "`exp`"),
        ("nbf", json!(now() + 120), "not valid yet"),
        ("iat", json!(now() + 120), "not valid yet"),
        ("sub", json!(""), "`sub`"),
        ("sub", Value::Null, "`sub`"),
        ("client_id", Value::Null, "`client_id`"),
        ("cnf", json!({"jkt": "x"}), "bound to a key"),
        ("token_type", json!("DPoP"), "bearer access token"),
        ("token_type", Value::Null, "bearer access token"),
        ("groups", json!("admins"), "`groups`"),
    ] {
        refused(&stack, &with(&set(name, value)), part).await;
    }
    refused(&stack, "made-up", "does not know it").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_do_not_flood_the_issuer() {
    let stack = asking("opaque", "rate = 5\n").await;
    for _ in 0..20 {
        refused(&stack, "made-up", "does not know it").await;
    }
    assert_eq!(stack.issuer.questions().len(), 1, "a refusal is remembered");
    let started = std::time::Instant::now();
    let tokens: Vec<String> = (0..60).map(|n| format!("made-up-{n}")).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| ping(&stack, token))).await;
    let busy = answers.iter().filter(|answer| answer.status == 503 && !answer.header("retry-after").is_empty()).count();
    assert!(busy > 0, "the questions together are bounded");
    assert!(answers.iter().all(|answer| [401, 503].contains(&answer.status)));
    // Five at once, and five a second after that.
    let most = 6 + 5 * (started.elapsed().as_secs() + 1);
    assert!(stack.issuer.questions().len() as u64 <= most, "{}", stack.issuer.questions().len());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_one_token_are_one_question() {
    let stack = asking("opaque", "").await;
    stack.issuer.opaque("opaque-1", stack.issuer.active("alice", "whitelist:read"));
    stack.issuer.set_slow();
    let callers = (0..20).map(|_| ping(&stack, "opaque-1"));
    for answer in futures_util::future::join_all(callers).await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(stack.issuer.questions().len(), 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_forgotten_at_its_end() {
    let stack = asking("opaque", "").await;
    let mut answer = stack.issuer.active("alice", "whitelist:read");
    // Within the leeway it is still good, but it is not remembered past its end.
    answer["exp"] = (now() + 1).into();
    stack.issuer.opaque("opaque-1", answer);
    assert_eq!(ping(&stack, "opaque-1").await.status, 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    stack.issuer.opaque("opaque-1", json!({"active": false}));
    refused(&stack, "opaque-1", "does not know it").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_cannot_be_asked_is_no_verdict() {
    let stack = asking("opaque", "").await;
    stack.issuer.set_down(true);
    let answer = ping(&stack, "opaque-1").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.header("retry-after").is_empty());
    // It is asked again soon, and believed.
    stack.issuer.set_down(false);
    stack.issuer.opaque("opaque-1", stack.issuer.active("alice", "whitelist:read"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ping(&stack, "opaque-1").await.status, 200);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_says_which_tokens_are_asked_about() {
    // JWTs only: an opaque token is nobody's, and a JWT is never shown to the issuer.
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.issuer.opaque("opaque-1", stack.issuer.active("alice", "whitelist:read"));
    refused(&stack, "opaque-1", "RFC 9068").await;
    let jwt = stack.token();
    assert_eq!(ping(&stack, &jwt).await.status, 200);
    assert!(stack.issuer.questions().is_empty());
    stack.stop().await;
    // Both: a JWT that its keys refuse is refused, whatever the issuer would say if it were asked.
    let stack = asking("either", "").await;
    let forged = format!("{}x", stack.token());
    stack.issuer.opaque(&forged, stack.issuer.active("alice", "whitelist:read"));
    assert_eq!(ping(&stack, &forged).await.status, 401);
    let unsigned = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, r#"{"alg":"none"}"#) + ".e30.";
    stack.issuer.opaque(&unsigned, stack.issuer.active("alice", "whitelist:read"));
    assert_eq!(ping(&stack, &unsigned).await.status, 401);
    assert!(stack.issuer.questions().is_empty());
    stack.stop().await;
    // Opaque: its tokens are asked about even where they look like JWTs.
    let stack = asking("opaque", "").await;
    let jwt = stack.token();
    refused(&stack, &jwt, "does not know it").await;
    let jwt = stack.issuer.token("bob", "");
    stack.issuer.opaque(&jwt, stack.issuer.active("bob", "whitelist:read"));
    assert_eq!(ping(&stack, &jwt).await.status, 200);
    assert_eq!((stack.issuer.questions().len(), stack.issuer.asked()), (2, 0));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuers_are_asked_in_order_until_one_knows_the_token() {
    let (first, second) = (Issuer::start().await, Issuer::start().await);
    let secrets = Directory::new();
    let file = secrets.write("secret", "s");
    let section = |name: &str, issuer: &Issuer| {
        format!(
            "[oidc.{name}]\nissuer = \"{}\"\naudience = \"{}\"\ntokens = \"opaque\"\n[oidc.{name}.introspection]\nclient_id = \"rs\"\nclient_secret_file = \"{}\"\n",
            issuer.url,
            crate::support::AUDIENCE,
            file.display()
        )
    };
    let aws = AwsDouble::start().await;
    let options = Options { oidc_extra: section("first", &first) + &section("second", &second), ..Options::default() };
    let stack = Stack::with(&aws.access(), options).await;
    second.opaque("theirs", second.active("alice", "whitelist:read"));
    assert_eq!(ping(&stack, "theirs").await.status, 200);
    assert_eq!((first.questions().len(), second.questions().len()), (1, 1));
    refused(&stack, "nobody-s", "does not know it").await;
    // While the first is down, a token that the second does not know may be the first's.
    first.set_down(true);
    assert_eq!(ping(&stack, "unknown").await.status, 503);
    second.opaque("theirs-too", second.active("alice", "whitelist:read"));
    assert_eq!(ping(&stack, "theirs-too").await.status, 200);
    // An issuer speaks for its own people only.
    first.set_down(false);
    let mut foreign = first.active("alice", "whitelist:read");
    foreign["iss"] = second.url.clone().into();
    first.opaque("borrowed", foreign);
    refused(&stack, "borrowed", "another issuer").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_kept_for_policies_as_those_of_a_jwt_are() {
    let secrets = Directory::new();
    let file = secrets.write("secret", "s");
    let oidc_extra = format!(
        "tokens = \"either\"\nclaims = [\"tenant\"]\n[oidc.company.introspection]\nclient_id = \"rs\"\nclient_secret_file = \"{}\"\n",
        file.display()
    );
    let policy = "@id(\"own-tenant\") permit (principal is Person, action, resource is SecurityGroup)\n\
        when { principal.hasTag(\"tenant\") && principal.getTag(\"tenant\") == \"t-1\" };";
    let options = Options { oidc_extra, policy: Some(policy), ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    for (tenant, opens) in [("t-1", true), ("t-2", false)] {
        let mut answer = stack.issuer.active("alice", "whitelist:read");
        answer["tenant"] = tenant.into();
        stack.issuer.opaque(tenant, answer);
        let jwt = stack.issuer.token_with("alice", "whitelist:read", json!({ "tenant": tenant }));
        for token in [tenant, &jwt] {
            let listed = stack.call_as(token, "whitelist_list", json!({"security_group": "staging-db"})).await;
            assert_eq!(listed["isError"], !opens, "{tenant}: {listed:#}");
        }
    }
    stack.stop().await;
}
