//! The page on which people decide, in a real browser, with a real provider.

use serde_json::{Value, json};

use crate::approvals::{FOUR_EYES, LOGIN_CLIENT};
use crate::support::aws_double::AwsDouble;
use crate::support::browser::Browser;
use crate::support::{AUDIENCE, Options, Stack, emulator, error_of};

const LOGIN: &str = r#"
[edge.login]
issuer = "company"
client_id = "approval-page"
client_secret_file = "{at}/login-secret"
"#;

/// A stack whose issuer is the real provider.
async fn stack(aws: &AwsDouble) -> (Stack, String) {
    let issuer = emulator::provider(AUDIENCE);
    let options = Options {
        policy: Some(FOUR_EYES),
        issuer_url: Some(issuer.clone()),
        core_extra: format!("[approvals]\nwait = \"10m\"\nlogin_client = \"{LOGIN_CLIENT}\"\n"),
        edge_extra: LOGIN,
        ..Options::default()
    };
    (Stack::with(&aws.access(), options).await, issuer)
}

fn payroll(port: &str) -> Value {
    json!({"security_group": "payroll-db", "address": "203.0.113.7", "port": port, "reason": "<script>document.title='x'</script> & month's end"})
}

/// Asks for a change that waits; its page's URL.
async fn ask(stack: &Stack, token: &str, arguments: Value) -> String {
    let result = stack.call_as(token, "whitelist_add", arguments).await;
    let error = error_of(&result);
    assert_eq!(error["reason"], "APPROVAL_NEEDED", "{error}");
    let url = error["facts"]["approval_url"].as_str().expect("a link").to_owned();
    assert!(error["message"].as_str().is_some_and(|text| text.contains(&url)), "the words hold the link: {error}");
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_approves_in_a_browser_under_a_login_of_their_own() {
    let aws = AwsDouble::start().await;
    let (stack, issuer) = stack(&aws).await;
    let alice = emulator::person_token(&issuer, "alice");
    let url = ask(&stack, &alice, payroll("443")).await;
    assert!(url.starts_with("https://localhost/approvals/") && !url.contains("alice"), "{url}");

    let browser = Browser::start(stack.edge.port()).await;
    // The requester may look, and is told whose word it needs.
    browser.open(&url).await;
    browser.sign_in("alice").await;
    browser.reads("#state", "the word of somebody other than alice@example.test").await;
    assert!(!browser.has("button[value=approve]").await);
    // Somebody who is no approver is told nothing.
    browser.forget().await;
    browser.open(&url).await;
    browser.sign_in("carol").await;
    let told = browser.text("#message").await;
    assert!(told.contains("There is no request") && !told.contains("alice"), "{told}");

    // Whoever is logged in at the provider already is asked again: a browser left open approves nothing.
    browser.open(&url).await;
    assert!(browser.has("input[name=login]").await, "{}", browser.url().await);
    browser.sign_in("bob").await;
    let details = browser.text("dl").await;
    assert!(details.contains("<script>document.title='x'</script> & month's end"), "{details}");
    assert!(details.contains("would open: tcp port 443 (https) from 203.0.113.7/32"), "{details}");
    assert!(browser.text("h1").await.contains("alice@example.test asks for whitelist_add on payroll-db"));
    let inline = browser.run("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); return window.ran").await;
    assert!(inline.is_ok_and(|ran| ran.is_null()), "the page's policy lets no script run");
    browser.write("#note", "seen & <fine>").await;
    if let Some(at) = std::env::var_os("SCREENSHOTS") {
        std::fs::write(std::path::Path::new(&at).join("approval.png"), browser.screenshot().await).expect("kept");
    }
    browser.click("button[value=approve]").await;
    browser.reads("#state", "bob@example.test has approved this, saying: seen & <fine>").await;

    let opened = stack.call_as(&alice, "whitelist_add", payroll("443")).await;
    assert_eq!(opened["structuredContent"]["outcome"], "opened", "{opened:#}");
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["outcome"] == "done")).await;
    let done = entries.iter().find(|entry| entry["outcome"] == "done").expect("an end");
    assert_eq!(
        (done["approval"]["by"]["subject"].as_str(), done["approval"]["note"].as_str()),
        (Some("bob"), Some("seen & <fine>"))
    );

    // Another approver says no, and it stays no.
    let url = ask(&stack, &alice, payroll("8443")).await;
    browser.forget().await;
    browser.open(&url).await;
    browser.sign_in("dora").await;
    browser.click("button[value=decline]").await;
    browser.reads("#state", "dora@example.test has declined this").await;
    let result = stack.call_as(&alice, "whitelist_add", payroll("8443")).await;
    assert_eq!(error_of(&result)["reason"], "APPROVAL_DECLINED");

    // One's own word, where policy wants that: the agent has the token, the person the browser.
    let rdp = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "3389", "reason": "look"});
    let url = ask(&stack, &alice, rdp.clone()).await;
    browser.forget().await;
    browser.open(&url).await;
    browser.sign_in("alice").await;
    browser.click("button[value=approve]").await;
    browser.reads("#state", "alice@example.test has approved this").await;
    let opened = stack.call_as(&alice, "whitelist_add", rdp).await;
    assert_eq!(opened["structuredContent"]["outcome"], "opened", "{opened:#}");
    browser.end().await;
    stack.stop().await;
}

/// What a browser would have to be tricked into, sent by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_begin_here_goes_nowhere() {
    let aws = AwsDouble::start().await;
    let (stack, issuer) = stack(&aws).await;
    let alice = emulator::person_token(&issuer, "alice");
    let url = ask(&stack, &alice, payroll("443")).await;
    let path = url.strip_prefix("https://localhost").expect("ours");
    let get = async |path: &str, headers: &[(&str, &str)]| {
        stack.send(http::Method::GET, path, None, headers, Vec::new()).await
    };

    let begun = get(path, &[]).await;
    assert_eq!(begun.status, 303, "{begun:?}");
    let cookie = begun.header("set-cookie").to_owned();
    for part in ["__Host-approval-", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let location = url::Url::parse(begun.header("location")).expect("an URL");
    let asked = |name: &str| location.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert!(location.as_str().starts_with(&issuer), "{location}");
    for (name, value) in [
        ("prompt", "login"),
        ("code_challenge_method", "S256"),
        ("resource", AUDIENCE),
        ("redirect_uri", "https://localhost/approvals/callback"),
        ("response_type", "code"),
    ] {
        assert_eq!(asked(name).as_deref(), Some(value), "{location}");
    }
    assert!(asked("max_age").is_some() && asked("nonce").is_some());
    let state = asked("state").expect("a state");
    let own = cookie.split(';').next().expect("a pair").to_owned();
    let first = if state.starts_with('x') { "y" } else { "x" };
    let forged = format!("{first}{}", state.get(1..).expect("ASCII"));
    for (what, query, cookie) in [
        ("no cookie", format!("state={state}&code=x"), ""),
        ("another state", format!("state={forged}&code=x"), own.as_str()),
        ("no state", "code=x".to_owned(), own.as_str()),
        ("two states", format!("state={state}&state={state}&code=x"), own.as_str()),
        ("another issuer", format!("state={state}&code=x&iss=https://evil.example"), own.as_str()),
        ("no code", format!("state={state}"), own.as_str()),
    ] {
        let answer = get(&format!("/approvals/callback?{query}"), &[("cookie", cookie)]).await;
        assert_eq!(answer.status, 400, "{what}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{what}");
        assert_eq!(answer.header("cache-control"), "no-store", "{what}");
    }
    let refused = get(&format!("/approvals/callback?state={state}&error=access_denied"), &[("cookie", &own)]).await;
    assert_eq!(refused.status, 403);
    let wrong = get(&format!("/approvals/callback?state={state}&code=wrong"), &[("cookie", &own)]).await;
    assert_eq!(wrong.status, 502, "the provider does not know the code");
    for path in ["/approvals/1", "/approvals/..%2f", "/approvals/%3Cscript%3E"] {
        assert_eq!(get(path, &[]).await.status, 404, "{path}");
    }
    let form = "application/x-www-form-urlencoded";
    let own_value = own.split('=').nth(1).expect("a value");
    for (what, origin, body) in [
        ("no origin", "", "sealed=x&verdict=approve".to_owned()),
        ("another origin", "https://evil.example", "sealed=x&verdict=approve".to_owned()),
        ("its own word", "https://localhost", "sealed=x&verdict=approve".to_owned()),
        ("nothing", "https://localhost", String::new()),
        ("too much", "https://localhost", "x".repeat(100_000)),
        ("the login's cookie", "https://localhost", format!("sealed={own_value}&verdict=approve")),
    ] {
        let mut headers = vec![("content-type", form), ("cookie", own.as_str())];
        if !origin.is_empty() {
            headers.push(("origin", origin));
        }
        let answer = stack.send(http::Method::POST, "/approvals/decide", None, &headers, body.into_bytes()).await;
        assert!(matches!(answer.status, 400 | 403), "{what}: {answer:?}");
    }
    assert_eq!(ask(&stack, &alice, payroll("443")).await, url, "it waits as before");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_urls_is_asked_to_and_its_yes_is_no_approval() {
    let aws = AwsDouble::start().await;
    let (stack, issuer) = stack(&aws).await;
    let alice = emulator::person_token(&issuer, "alice");
    let call = async |capabilities: Value, more: Value| {
        let mut params = json!({"name": "whitelist_add", "arguments": payroll("443"), "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": capabilities,
        }});
        for (name, value) in more.as_object().expect("an object") {
            params[name] = value.clone();
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        let headers =
            [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "whitelist_add")];
        let answer = stack.post(Some(&alice), &headers, body).await.json();
        answer.get("result").unwrap_or(&answer["error"]).clone()
    };
    let urls = json!({"elicitation": {"url": {}}});
    let asked = call(urls.clone(), json!({})).await;
    assert_eq!(asked["resultType"], "input_required", "{asked:#}");
    let question = &asked["inputRequests"]["approval"];
    assert_eq!(
        (question["method"].as_str(), question["params"]["mode"].as_str()),
        (Some("elicitation/create"), Some("url"))
    );
    let url = question["params"]["url"].as_str().expect("a link");
    assert!(url.starts_with("https://localhost/approvals/"));
    // An agent that fills in "accept" by itself approves nothing, and what it was not given it cannot bring back.
    let state = asked["requestState"].as_str().expect("a state").to_owned();
    let accepted = |state: Value| json!({"inputResponses": {"approval": {"action": "accept", "content": {"approved": true}}}, "requestState": state});
    for state in [json!("forged"), json!(null), json!(7), json!(format!("{state}A"))] {
        let refused = call(urls.clone(), accepted(state)).await;
        assert_eq!(refused["code"], -32602, "{refused:#}");
    }
    let again = call(urls.clone(), accepted(json!(state))).await;
    assert_eq!(error_of(&again)["reason"], "APPROVAL_NEEDED", "{again:#}");
    assert_eq!(error_of(&again)["facts"]["approval_url"], url);
    let twice = call(urls.clone(), accepted(json!(state))).await;
    assert_eq!(twice["code"], -32602, "a state is good for once: {twice:#}");
    let without = call(urls.clone(), json!({"inputResponses": {"approval": {"action": "accept"}}})).await;
    assert_eq!(without["resultType"], "input_required", "an answer to nothing is none: {without:#}");
    let state = &without["requestState"];
    let declined = json!({"inputResponses": {"approval": {"action": "decline"}}, "requestState": state});
    let declined = call(urls, declined).await;
    assert_eq!(
        (declined["isError"].as_bool(), declined["resultType"].as_str()),
        (Some(true), Some("complete")),
        "{declined:#}"
    );
    // Forms alone are no place for this, and neither is silence: words then.
    for capabilities in [
        json!({}),
        json!({"elicitation": {}}),
        json!({"elicitation": {"form": {}}}),
        json!({"elicitation": {"url": true}}),
    ] {
        let words = call(capabilities, json!({})).await;
        assert_eq!(error_of(&words)["facts"]["approval_url"], url, "{words:#}");
    }
    stack.stop().await;
}
