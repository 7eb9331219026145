//! Changes that wait for somebody's word: through gRPC, with AWS and the journal looked at.

use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::mcp::v1 as pb;
use whitelistmcp::pb::mcp::v1::approvals_client::ApprovalsClient;

use crate::support::aws_double::AwsDouble;
use crate::support::issuer::now;
use crate::support::{Options, Stack};

/// The OAuth client that people log in through to decide.
pub(crate) const LOGIN_CLIENT: &str = "approval-page";

/// Payroll needs another person; the other group, the requester's own word from the browser. Who may decide is told by
/// groups, as in the shipped policies.
pub(crate) const FOUR_EYES: &str = r#"
    @id("all") permit (principal, action, resource);
    @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
    @id("four-eyes") @approval("another") @message("Payroll is opened by two people.")
    forbid (principal, action in [Action::"whitelist_add", Action::"whitelist_extend", Action::"whitelist_move", Action::"whitelist_remove"], resource)
    when { resource has name && resource.name == "payroll-db" };
    @id("not-telnet") @message("Nobody opens telnet.")
    forbid (principal, action == Action::"whitelist_add", resource) when { context.from_port <= 23 && context.to_port >= 23 };
    @id("own-word") @approval("requester") @message("Show that you are there.")
    forbid (principal, action == Action::"whitelist_add", resource)
    when { resource has name && resource.name == "staging-db" && context.from_port == 3389 };
    @id("approvers") @message("Approvers decide.") forbid (principal, action == Action::"approve", resource)
    unless { context.callers_own || principal is Service || principal in Group::"approvers" };
    @id("on-call") @message("Who is on call may.") forbid (principal, action == Action::"break_glass", resource)
    unless { principal in Group::"on-call" };
"#;

pub(crate) fn options() -> Options {
    Options {
        policy: Some(FOUR_EYES),
        core_extra: format!("[approvals]\nwait = \"10m\"\nlogin_client = \"{LOGIN_CLIENT}\"\n"),
        ..Options::default()
    }
}

fn payroll(port: &str) -> Value {
    json!({"security_group": "payroll-db", "address": "203.0.113.7", "port": port, "reason": "month's end"})
}

/// The approvals of a stack's core, by a certificate.
fn client(stack: &Stack, certificate: &str) -> ApprovalsClient<Channel> {
    ApprovalsClient::new(stack.channel(certificate))
}

/// A request to decide; as a person's, where there is a token.
fn decision(id: &str, approve: bool, token: Option<&str>, login: &str) -> Request<pb::DecideRequest> {
    let verdict = if approve { pb::Verdict::Approve } else { pb::Verdict::Decline };
    let message = pb::DecideRequest {
        id: id.to_owned(),
        verdict: verdict.into(),
        note: "looks right".to_owned(),
        login: login.to_owned(),
    };
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    }
    request
}

fn reason(answer: Result<tonic::Response<pb::DecideResponse>, Status>) -> String {
    Refusal::of(&answer.expect_err("refused")).reason
}

/// The ID token of a login that was made for a request.
fn login(stack: &Stack, user: &str, id: &str, other: Value) -> String {
    let mut claims = json!({
        "iss": stack.issuer.url, "aud": LOGIN_CLIENT, "sub": user, "iat": now(), "exp": now() + 300, "auth_time": now(),
        "nonce": format!("{id}.0123456789abcdef"),
    });
    for (name, value) in other.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some("k1".to_owned());
    stack.issuer.sign(&header, &claims)
}

fn approver(stack: &Stack, user: &str) -> String {
    stack.issuer.token_with(user, "whitelist:write", json!({"groups": ["approvers"]}))
}

async fn ask(stack: &Stack, arguments: Value) -> String {
    let error = stack.refused("whitelist_add", arguments).await;
    assert_eq!(
        (error["code"].as_str(), error["reason"].as_str()),
        (Some("FAILED_PRECONDITION"), Some("APPROVAL_NEEDED")),
        "{error}"
    );
    error["facts"]["approval"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_another_person_and_is_then_done_once() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), options()).await;
    let waits = stack.refused("whitelist_add", payroll("443")).await;
    let text = waits["message"].as_str().expect("words");
    assert!(
        text.contains("another person's word")
            && text.contains("Payroll is opened by two people. (policy `four-eyes`)"),
        "{text}"
    );
    let id = ask(&stack, payroll("443")).await;
    assert_eq!(waits["facts"]["approval"], id, "asked again, it is the same request");
    assert!(!aws.asked().iter().any(|asked| asked.action.contains("Authorize")), "{:?}", aws.asked());
    // What a policy refuses outright is not asked anybody.
    assert_eq!(stack.refused("whitelist_add", payroll("23")).await["reason"], "POLICY_FORBIDS");

    let (bob, word) = (approver(&stack, "bob"), login(&stack, "bob", &id, json!({})));
    let decided = client(&stack, "edge").decide(decision(&id, true, Some(&bob), &word)).await.expect("decided");
    let approval = decided.into_inner().approval.expect("a request");
    assert_eq!((approval.state(), approval.decided_by.as_str()), (pb::ApprovalState::Approved, "bob@example.test"));

    let opened = stack.done("whitelist_add", payroll("443")).await;
    assert_eq!(opened["outcome"], "opened");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["outcome"] == "done")).await;
    let find = |field: &str, value: &str| {
        entries.iter().find(|entry| entry[field] == value).unwrap_or_else(|| panic!("{field} {value}: {entries:#?}"))
    };
    let (waiting, decided, done) = (find("outcome", "waiting"), find("type", "decision"), find("outcome", "done"));
    assert_eq!((waiting["changed"].as_bool(), waiting["policies"][0].as_str()), (Some(false), Some("four-eyes")));
    assert_eq!(
        (decided["who"]["subject"].as_str(), decided["requester"]["subject"].as_str()),
        (Some("bob"), Some("alice"))
    );
    assert_eq!((decided["request"].as_str(), decided["approved"].as_bool()), (Some(id.as_str()), Some(true)));
    let vouched = &done["approval"];
    assert_eq!(
        (vouched["how"].as_str(), vouched["by"]["subject"].as_str(), vouched["request"].as_str()),
        (Some("approved"), Some("bob"), Some(id.as_str()))
    );
    let begun =
        entries.iter().find(|entry| entry["type"] == "begin" && entry["call"] == done["call"]).expect("a begin");
    assert_eq!(begun["who"]["subject"], "alice", "both people are in the trail");

    // Closing it takes two people as well, and the word that was given is spent.
    let closing = json!({"security_group": "payroll-db", "address": "203.0.113.7"});
    let error = stack.refused("whitelist_remove", closing.clone()).await;
    let id = error["facts"]["approval"].as_str().expect("an id").to_owned();
    let word = login(&stack, "bob", &id, json!({}));
    client(&stack, "edge").decide(decision(&id, true, Some(&bob), &word)).await.expect("decided");
    assert_eq!(stack.done("whitelist_remove", closing).await["outcome"], "removed");
    assert_ne!(ask(&stack, payroll("443")).await, id);
    stack.stop().await;
}

/// Microsoft Entra gives a person another `sub` at each application, and so in the access token and in the ID token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_the_same_in_both_tokens_by_the_claim_that_says_so() {
    let oidc_extra = "subject_claim = \"oid\"\n".to_owned();
    let stack = Stack::with(&AwsDouble::start().await.access(), Options { oidc_extra, ..options() }).await;
    let alice = stack.issuer.token_with("alice-at-the-api", "whitelist:write", json!({"oid": "alice"}));
    let asked = crate::support::error_of(&stack.call_as(&alice, "whitelist_add", payroll("443")).await);
    let id = asked["facts"]["approval"].as_str().unwrap_or_else(|| panic!("{asked:#}"));
    let bob = json!({"oid": "bob", "groups": ["approvers"]});
    let bob = stack.issuer.token_with("bob-at-the-api", "whitelist:write", bob);
    let word = |other: Value| login(&stack, "bob-at-the-page", id, other);
    let mut edge = client(&stack, "edge");
    let decide = |login: &str| decision(id, true, Some(&bob), login);
    assert_eq!(reason(edge.decide(decide(&word(json!({})))).await), "TOKEN_INVALID");
    assert_eq!(reason(edge.decide(decide(&word(json!({"oid": "dave"})))).await), "LOGIN_NEEDED");
    edge.decide(decide(&word(json!({"oid": "bob"})))).await.expect("decided");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_person_in_a_fresh_login_of_their_own_decides() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), options()).await;
    let id = ask(&stack, payroll("443")).await;
    let (mut edge, bob) = (client(&stack, "edge"), approver(&stack, "bob"));
    let good = login(&stack, "bob", &id, json!({}));
    // The requester, with everything in order but who they are.
    let alice = stack.issuer.token_with("alice", "whitelist:write", json!({"groups": ["approvers"]}));
    let own = login(&stack, "alice", &id, json!({}));
    assert_eq!(reason(edge.decide(decision(&id, true, Some(&alice), &own)).await), "APPROVAL_OWN_REQUEST");
    // Who may not decide is not even told that there is something.
    let carol = stack.issuer.token("carol", "whitelist:read whitelist:write");
    let word = login(&stack, "carol", &id, json!({}));
    assert_eq!(reason(edge.decide(decision(&id, true, Some(&carol), &word)).await), "APPROVAL_UNKNOWN");
    let unknown = "0".repeat(32);
    assert_eq!(reason(edge.decide(decision(&unknown, true, Some(&bob), &good)).await), "APPROVAL_UNKNOWN");
    let reader = stack.issuer.token_with("bob", "whitelist:read", json!({"groups": ["approvers"]}));
    assert_eq!(reason(edge.decide(decision(&id, true, Some(&reader), &good)).await), "SCOPE_MISSING");
    // An agent that holds an approver's access token is not the approver.
    let hour_ago = now() - 3600;
    for (what, word) in [
        ("none", String::new()),
        ("an old login", login(&stack, "bob", &id, json!({"auth_time": hour_ago}))),
        ("one from before the request", login(&stack, "bob", &id, json!({"auth_time": now() - 120}))),
        ("somebody else's", login(&stack, "dave", &id, json!({}))),
        ("one for another request", login(&stack, "bob", &unknown, json!({}))),
        ("one without a secret part", login(&stack, "bob", &id, json!({"nonce": id}))),
    ] {
        assert_eq!(reason(edge.decide(decision(&id, true, Some(&bob), &word)).await), "LOGIN_NEEDED", "{what}");
    }
    for (what, word) in [
        ("an access token", bob.clone()),
        ("one for another client", login(&stack, "bob", &id, json!({"aud": "somebody"}))),
        ("one for another client too", login(&stack, "bob", &id, json!({"aud": [LOGIN_CLIENT, "somebody"]}))),
        ("one of another issuer", login(&stack, "bob", &id, json!({"iss": "https://other.example"}))),
        ("an expired one", login(&stack, "bob", &id, json!({"exp": hour_ago}))),
        ("one that does not say when", login(&stack, "bob", &id, json!({"auth_time": null}))),
        ("one with another signature", good.chars().rev().collect()),
    ] {
        assert_eq!(reason(edge.decide(decision(&id, true, Some(&bob), &word)).await), "TOKEN_INVALID", "{what}");
    }
    let unsaid = Request::new(pb::DecideRequest { id: id.clone(), ..Default::default() });
    let refused = client(&stack, "ci-runner").decide(unsaid).await;
    assert_eq!(reason(refused), "VERDICT_MISSING");
    // All that left it as it was; and a no is a no.
    assert_eq!(ask(&stack, payroll("443")).await, id);
    edge.decide(decision(&id, false, Some(&bob), &good)).await.expect("declined");
    assert_eq!(reason(edge.decide(decision(&id, true, Some(&bob), &good)).await), "APPROVAL_DECIDED");
    let declined = stack.refused("whitelist_add", payroll("443")).await;
    assert_eq!(declined["reason"], "APPROVAL_DECLINED");
    assert!(
        declined["message"]
            .as_str()
            .is_some_and(|text| text.contains("bob@example.test has declined this, saying: looks right")),
        "{declined}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_decides_by_its_certificate_and_nobody_by_another_s_word() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), options()).await;
    let id = ask(&stack, payroll("443")).await;
    let mut runner = client(&stack, "ci-runner");
    let seen = runner.get_approval(pb::GetApprovalRequest { id: id.clone() }).await.expect("seen").into_inner();
    let seen = seen.approval.expect("a request");
    assert!(seen.yours_to_decide && seen.requester == "alice@example.test", "{seen:#?}");
    assert!(
        seen.details.iter().any(|detail| detail.value.contains("tcp port 443 (https) from 203.0.113.7/32")),
        "{seen:#?}"
    );
    assert!(
        seen.details.iter().any(|detail| detail.name == "Reason given" && detail.value == "month's end"),
        "{seen:#?}"
    );
    runner.decide(decision(&id, true, None, "")).await.expect("decided");
    assert_eq!(stack.done("whitelist_add", payroll("443")).await["outcome"], "opened");
    // The same word does not carry somebody else's change, nor another of the same person's.
    let bob = stack.issuer.token("bob", "whitelist:write");
    let id = ask(&stack, payroll("444")).await;
    runner.decide(decision(&id, true, None, "")).await.expect("decided");
    for (token, arguments) in [
        (bob, payroll("444")),
        (stack.token(), payroll("445")),
        (
            stack.token(),
            json!({"security_group": "payroll-db", "address": "203.0.113.8", "port": "444", "reason": "month's end"}),
        ),
        (
            stack.token(),
            json!({"security_group": "payroll-db", "address": "203.0.113.7", "port": "444", "reason": "another"}),
        ),
        (
            stack.token(),
            json!({"security_group": "payroll-db", "address": "203.0.113.7", "port": "444", "reason": "month's end", "duration": "8h"}),
        ),
    ] {
        let result = stack.call_as(&token, "whitelist_add", arguments.clone()).await;
        assert_eq!(crate::support::error_of(&result)["reason"], "APPROVAL_NEEDED", "{arguments}");
    }
    assert_eq!(stack.done("whitelist_add", payroll("444")).await["outcome"], "opened");
    // What a program cannot give is a person's own word.
    let rdp = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "3389", "reason": "look"});
    let id = ask(&stack, rdp.clone()).await;
    assert_eq!(reason(runner.decide(decision(&id, true, None, "")).await), "APPROVAL_NOT_REQUESTER");
    let (alice, word) = (stack.token(), login(&stack, "alice", &id, json!({})));
    let mut edge = client(&stack, "edge");
    edge.decide(decision(&id, true, Some(&alice), &word)).await.expect("decided");
    assert_eq!(stack.done("whitelist_add", rdp).await["outcome"], "opened");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_groups_wait_each_for_a_word_of_its_own() {
    let aws = AwsDouble::start().await;
    let everywhere: &str = r#"
        @id("all") permit (principal, action, resource);
        @id("an-hour") @duration("1h") permit (principal, action == Action::"default_duration", resource);
        @id("four-eyes") @approval("another") @message("Two people.")
        forbid (principal, action == Action::"whitelist_add", resource);
        @id("anybody-decides") permit (principal, action == Action::"approve", resource);
        @id("no-glass") @message("Never.") forbid (principal, action == Action::"break_glass", resource);
    "#;
    let stack = Stack::with(&aws.access(), Options { policy: Some(everywhere), ..options() }).await;
    let arguments = json!({"security_groups": ["payroll-db", "staging-db"], "address": "203.0.113.7", "port": "443", "reason": "both"});
    let ids = ask(&stack, arguments.clone()).await;
    let [first, second] = ids.split(',').collect::<Vec<_>>()[..] else { panic!("two requests: {ids}") };
    let mut runner = client(&stack, "ci-runner");
    runner.decide(decision(second, true, None, "")).await.expect("decided");
    let done = stack.done("whitelist_add", arguments.clone()).await;
    assert_eq!(done["outcome"], "mixed", "{done:#}");
    assert!(done["items"].to_string().contains(first), "what still waits is named: {done:#}");
    runner.decide(decision(first, true, None, "")).await.expect("decided");
    // What was done is held already, and needs no word.
    let done = stack.done("whitelist_add", arguments).await;
    assert_eq!(
        (done["items"][0]["outcome"].as_str(), done["items"][1]["outcome"].as_str()),
        (Some("opened"), Some("already_yours"))
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_glass_is_heard_and_marked() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), options()).await;
    let mut arguments = payroll("443");
    arguments["break_glass"] = true.into();
    let error = stack.refused("whitelist_add", arguments.clone()).await;
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("Who is on call may. (policy `on-call`)")),
        "{error}"
    );
    let on_call = stack.issuer.token_with("alice", "whitelist:write", json!({"groups": ["on-call"]}));
    let result = stack.call_as(&on_call, "whitelist_add", arguments.clone()).await;
    assert_eq!(result["structuredContent"]["outcome"], "opened", "{result:#}");
    assert!(result["structuredContent"]["notes"].to_string().contains("marked for review"), "{result:#}");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["outcome"] == "done")).await;
    let done = entries.iter().find(|entry| entry["outcome"] == "done").expect("an end");
    let vouched = &done["approval"];
    assert_eq!((vouched["how"].as_str(), vouched["review"].as_bool()), (Some("break_glass"), Some(true)));
    assert_eq!(vouched["demanded_by"][0], "four-eyes");
    // It opens nothing that is forbidden outright.
    let mut telnet = payroll("23");
    telnet["break_glass"] = true.into();
    let result = stack.call_as(&on_call, "whitelist_add", telnet).await;
    assert_eq!(crate::support::error_of(&result)["reason"], "POLICY_FORBIDS");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_approvals_what_wants_one_is_refused_and_a_dry_run_says_what_it_would_wait_for() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { policy: Some(FOUR_EYES), ..Options::default() }).await;
    let error = stack.refused("whitelist_add", payroll("443")).await;
    assert_eq!(error["reason"], "POLICY_FORBIDS", "{error}");
    let mut dry = payroll("443");
    dry["dry_run"] = true.into();
    let plan = stack.done("whitelist_add", dry).await;
    assert!(plan["plans"][0]["warnings"].to_string().contains("It would wait for another person's word"), "{plan:#}");
    let unknown = client(&stack, "ci-runner").get_approval(pb::GetApprovalRequest { id: "0".repeat(32) }).await;
    assert_eq!(unknown.expect_err("nothing").code(), Code::NotFound);
    stack.stop().await;
}
