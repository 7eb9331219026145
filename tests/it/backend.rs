//! What the edge carries for any service that is annotated: streams, questions, resources, prompts, news, and every kind of
//! value, in both eras.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use whitelistmcp::pb::mcp::v1::changed::What;
use whitelistmcp::pb::mcp::v1::{Changed, ChangedList};

use crate::support::backend::Stage;
use crate::support::{eventually, soon, tls};

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A modern request, and its headers.
fn modern(
    id: u64,
    method: &'static str,
    mut params: Value,
    capabilities: Value,
) -> (Vec<(&'static str, String)>, Value) {
    let mut headers = vec![("mcp-protocol-version", "2026-07-28".to_owned()), ("mcp-method", method.to_owned())];
    if let Some(name) = params.get("name").or(params.get("uri")).and_then(Value::as_str) {
        headers.push(("mcp-name", name.to_owned()));
    }
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": capabilities});
    match params.get_mut("_meta").and_then(Value::as_object_mut) {
        Some(more) => more.extend(meta.as_object().expect("an object").clone()),
        None => params["_meta"] = meta,
    }
    (headers, request(id, method, params))
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn ask(stage: &Stage, method: &'static str, params: Value, capabilities: Value) -> (u16, Value) {
    let (headers, body) = modern(1, method, params, capabilities);
    let answer = stage.post(&borrowed(&headers), &body).await;
    (answer.status, answer.json())
}

/// The session of a legacy client that says what it can.
async fn session(stage: &Stage, name: &str, capabilities: Value) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
    let answer = stage.post_as(name, &[], &request(0, "initialize", params)).await;
    assert_eq!(answer.status, 200);
    answer.header("mcp-session-id").to_owned()
}

fn count(to: u32, pause: u32) -> Value {
    json!({"name": "count", "arguments": {"to": to, "pause": pause}, "_meta": {"progressToken": "p-1"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_comes_on_a_stream_where_it_is_asked_for_and_nowhere_else() {
    let stage = Stage::start().await;
    // A legacy client that asks for progress.
    let mut events = stage.open("POST", &[], &request(7, "tools/call", count(3, 30)).to_string()).await;
    let (status, headers) = events.head().await;
    assert_eq!((status, headers["content-type"].as_str()), (200, "text/event-stream"));
    assert_eq!((headers["cache-control"].as_str(), headers["x-accel-buffering"].as_str()), ("no-store", "no"));
    for at in 1..=3 {
        let params = json!({"progressToken": "p-1", "progress": at, "total": 3, "message": format!("at {at}")});
        let expected = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        assert_eq!(events.message().await, expected);
    }
    let answer = events.message().await;
    assert_eq!((answer["id"].as_u64(), answer["result"]["structuredContent"]["counted"].as_u64()), (Some(7), Some(3)));
    assert_eq!(answer["result"]["content"][0]["text"], "Counted to 3.");
    assert_eq!(answer["result"]["structuredContent"].get("notice"), None);

    // One that does not ask, one that takes no stream, and a refusal: plain answers.
    let mut quiet = count(3, 1);
    quiet["_meta"] = json!({});
    let answer =
        stage.post(&[("accept", "application/json, text/event-stream")], &request(1, "tools/call", quiet)).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let answer = stage.post(&[], &request(1, "tools/call", count(3, 1))).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.json()["result"]["structuredContent"]["counted"], 3);
    let answer = stage.post(&[("accept", "text/event-stream")], &request(1, "tools/call", count(999, 1))).await;
    let result = &answer.json()["result"];
    assert_eq!(result["isError"], true, "{result:#}");
    assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.contains("does not count that far")));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_stream_gives_up_a_modern_call_and_not_a_legacy_one() {
    let stage = Stage::start().await;
    let mut params = count(40, 50);
    params["arguments"]["to"] = json!(40);
    let (mut headers, body) = modern(1, "tools/call", params.clone(), json!({}));
    headers.push(("mcp-param-to", "40".to_owned()));
    let mut events = stage.open("POST", &borrowed(&headers), &body.to_string()).await;
    assert_eq!(events.head().await.0, 200);
    assert_eq!(events.message().await["method"], "notifications/progress");
    drop(events);
    let given_up = async || (stage.seen.given_up.load(Ordering::SeqCst) == 1).then_some(());
    eventually("the modern call is given up", given_up).await;

    let mut events = stage.open("POST", &[], &request(2, "tools/call", count(40, 50)).to_string()).await;
    assert_eq!(events.head().await.0, 200);
    assert_eq!(events.message().await["method"], "notifications/progress");
    drop(events);
    // It counts for two seconds; whoever gives up is seen at once.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(stage.seen.given_up.load(Ordering::SeqCst), 1, "the legacy call went on to its end");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modern_client_is_asked_by_a_state_that_is_good_for_this_call_alone() {
    let stage = Stage::start().await;
    let forms = json!({"elicitation": {}});
    let greet = |more: Value| {
        let mut params = json!({"name": "greet", "arguments": {"word": "Hello"}});
        params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        params
    };
    let accept = |state: &Value| json!({"inputResponses": {"who": {"action": "accept", "content": {"name": "Ada"}}}, "requestState": state});

    // Whoever has not declared that it can be asked is told what it would need.
    for capabilities in [json!({}), json!({"elicitation": {"url": {}}})] {
        let (status, answer) = ask(&stage, "tools/call", greet(json!({})), capabilities).await;
        assert_eq!((status, answer["error"]["code"].as_i64()), (400, Some(-32021)), "{answer:#}");
        assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"form": {}}}));
    }
    let (_, asked) = ask(&stage, "tools/call", greet(json!({})), forms.clone()).await;
    let asked = &asked["result"];
    assert_eq!(asked["resultType"], "input_required", "{asked:#}");
    assert_eq!(asked.get("ttlMs"), None);
    let question = &asked["inputRequests"]["who"];
    assert_eq!(
        (question["method"].as_str(), question["params"]["message"].as_str()),
        (Some("elicitation/create"), Some("Who are you?"))
    );
    assert_eq!(question["params"]["requestedSchema"]["properties"]["name"]["type"], "string");
    let state = &asked["requestState"];
    assert!(!state.as_str().expect("a state").contains("kept"));

    // Another person, other arguments, another tool, a changed state.
    let (headers, body) = modern(1, "tools/call", greet(accept(state)), forms.clone());
    let answer = stage.post_as("bob", &borrowed(&headers), &body).await.json();
    assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    let mut other = greet(accept(state));
    other["arguments"]["word"] = json!("Bye");
    let (_, answer) = ask(&stage, "tools/call", other, forms.clone()).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    let mut show = greet(accept(state));
    (show["name"], show["arguments"]) = (json!("show"), json!({}));
    let (_, answer) = ask(&stage, "tools/call", show, forms.clone()).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    let changed = json!(format!("{}A", state.as_str().expect("a state")));
    let (_, answer) = ask(&stage, "tools/call", greet(accept(&changed)), forms.clone()).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    // What is malformed.
    for wrong in [
        json!({"inputResponses": null}),
        json!({"inputResponses": []}),
        json!({"inputResponses": {"who": 1}}),
        json!({"requestState": 5}),
    ] {
        let (_, answer) = ask(&stage, "tools/call", greet(wrong), forms.clone()).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    }
    // An answer without a state, and answers to something else, are asked again.
    let (_, again) =
        ask(&stage, "tools/call", greet(json!({"inputResponses": accept(state)["inputResponses"]})), forms.clone())
            .await;
    assert_eq!(again["result"]["resultType"], "input_required");
    let other =
        json!({"inputResponses": {"what": {"action": "accept"}}, "requestState": again["result"]["requestState"]});
    let (_, again) = ask(&stage, "tools/call", greet(other), forms.clone()).await;
    assert_eq!(again["result"]["resultType"], "input_required");
    // The right one, once.
    let (_, answer) = ask(&stage, "tools/call", greet(accept(state)), forms.clone()).await;
    assert_eq!(answer["result"]["structuredContent"]["greeting"], "Hello, Ada!", "{answer:#}");
    let (_, answer) = ask(&stage, "tools/call", greet(accept(state)), forms).await;
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("used already")), "{answer:#}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_is_asked_on_its_stream_and_answers_by_another_message() {
    let stage = Stage::start().await;
    let greet = request(5, "tools/call", json!({"name": "greet", "arguments": {"word": "Hello"}}));
    // Without a session nobody knows what the client can; with one that cannot be asked, neither is it.
    let unable = session(&stage, "alice", json!({})).await;
    for headers in [&[][..], &[("mcp-session-id", unable.as_str())]] {
        let answer = stage.post(headers, &greet).await.json();
        let text = answer["result"]["content"][0]["text"].as_str().expect("words").to_owned();
        assert!(answer["result"]["isError"] == true && text.contains("has not declared"), "{answer:#}");
    }
    let able = session(&stage, "alice", json!({"elicitation": {}})).await;
    // The session is nobody else's, and a foreign one is answered so that the client begins anew.
    assert_eq!(stage.post_as("bob", &[("mcp-session-id", &able)], &greet).await.status, 404);
    assert_eq!(stage.post(&[("mcp-session-id", "made-up")], &greet).await.status, 404);
    // One that takes no stream cannot be asked.
    let answer = stage.post(&[("mcp-session-id", &able), ("accept", "application/json")], &greet).await.json();
    assert!(answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("text/event-stream")));

    let mut events = stage.open("POST", &[("mcp-session-id", &able)], &greet.to_string()).await;
    assert_eq!(events.head().await.0, 200);
    let question = events.message().await;
    assert_eq!(
        (question["method"].as_str(), question["params"]["message"].as_str()),
        (Some("elicitation/create"), Some("Who are you?"))
    );
    let response =
        json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}});
    let headers = [("mcp-session-id", able.as_str()), ("mcp-protocol-version", "2025-11-25")];
    // Somebody else's answer is none, and neither is one to nothing.
    assert_eq!(stage.post_as("bob", &[], &response).await.status, 400);
    let nothing = json!({"jsonrpc": "2.0", "id": 77, "result": {}});
    assert_eq!(stage.post(&headers, &nothing).await.status, 400);
    assert_eq!(stage.post(&headers, &response).await.status, 202);
    let answer = events.message().await;
    assert_eq!(answer["result"]["structuredContent"]["greeting"], "Hello, Ada!", "{answer:#}");
    assert_eq!(stage.post(&headers, &response).await.status, 400, "it waits no more");

    // A client that refuses the question, in JSON-RPC's words.
    let mut events = stage.open("POST", &[("mcp-session-id", &able)], &greet.to_string()).await;
    events.head().await;
    let question = events.message().await;
    let refusal = json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no form here"}});
    assert_eq!(stage.post(&headers, &refusal).await.status, 202);
    let answer = events.message().await;
    assert!(answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("no form here")));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_come_to_another_replica_where_redis_carries_it() {
    let redis = crate::support::redis::Redis::start().await;
    let mut stage = Stage::with("sealing_key = \"{at}/sealing.key\"").await;
    let greet = request(5, "tools/call", json!({"name": "greet", "arguments": {"word": "Hello"}})).to_string();
    let apart = session(&stage, "alice", json!({"elicitation": {}})).await;
    let mut events = stage.open("POST", &[("mcp-session-id", &apart)], &greet).await;
    let (_, headers) = events.head().await;
    let answer = events.json(headers["content-length"].parse().expect("a length")).await;
    let text = answer["result"]["content"][0]["text"].as_str().expect("words");
    assert!(text.contains("several replicas") && text.contains("[redis]"), "{text}");

    let url = redis.url();
    let first = stage.another_edge("sealing_key = \"{at}/sealing.key\"", Some(&url)).await;
    stage.edge = stage.another_edge("sealing_key = \"{at}/sealing.key\"", Some(&url)).await;
    // The session was begun at a third, and the answer comes to the second.
    let mut events = stage.open_at(first, "alice", "POST", &[("mcp-session-id", &apart)], &greet).await;
    assert_eq!(events.head().await.0, 200);
    let question = events.message().await;
    let response = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(stage.post(&[("mcp-session-id", &apart)], &response).await.status, 202);
    let answer = events.message().await;
    assert_eq!(answer["result"]["structuredContent"]["greeting"], "Nobody was greeted.", "{answer:#}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_prompts_and_completion_are_carried() {
    let stage = Stage::start().await;
    let ask = async |method, params| ask(&stage, method, params, json!({})).await;
    let (_, discovered) = ask("server/discover", json!({})).await;
    let expected = json!({
        "tools": {"listChanged": true}, "resources": {"subscribe": true}, "prompts": {}, "completions": {}, "logging": {},
    });
    assert_eq!(discovered["result"]["capabilities"], expected);
    assert_eq!(discovered["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["title"], "Somebody else's");

    // What the scopes do not hold is not listed, and reading it asks for the scope.
    let (_, listed) = ask("resources/list", json!({})).await;
    let cover = json!([{"uri": "book://cover", "name": "cover", "title": "Cover", "mimeType": "text/plain", "description": "What the book is about."}]);
    assert_eq!(listed["result"]["resources"], cover);
    assert_eq!((listed["result"]["cacheScope"].as_str(), listed["result"]["ttlMs"].is_u64()), (Some("private"), true));
    let (_, templates) = ask("resources/templates/list", json!({})).await;
    assert_eq!(templates["result"]["resourceTemplates"][0]["uriTemplate"], "book://{part}/{chapter}");
    let (status, refused) = ask("resources/read", json!({"uri": "book://secret"})).await;
    assert_eq!((status, refused["id"].as_i64()), (403, Some(1)), "{refused:#}");

    let (_, read) = ask("resources/read", json!({"uri": "book://one/7%20b"})).await;
    let contents = json!([{"uri": "book://one/7 b", "mimeType": "text/plain", "text": "Chapter 7 b of one."}]);
    assert_eq!((&read["result"]["contents"], read["result"]["ttlMs"].as_u64()), (&contents, Some(0)));
    for uri in ["book://one/404", "book://one/0", "book://one", "other://x", "book://a/b/c"] {
        let (status, missing) = ask("resources/read", json!({"uri": uri})).await;
        assert_eq!((status, missing["error"]["code"].as_i64()), (200, Some(-32602)), "{missing:#}");
        assert_eq!(missing["error"]["data"]["uri"], uri);
        let legacy = stage.post(&[], &request(1, "resources/read", json!({"uri": uri}))).await.json();
        assert_eq!(legacy["error"]["code"], -32002);
    }

    let (_, prompts) = ask("prompts/list", json!({})).await;
    let arguments = json!([
        {"name": "chapter", "description": "The chapter.", "required": true},
        {"name": "tone", "description": "How strict.", "required": false},
    ]);
    assert_eq!(prompts["result"]["prompts"][0]["arguments"], arguments);
    let (_, prompt) =
        ask("prompts/get", json!({"name": "review", "arguments": {"chapter": "7", "tone": "kind"}})).await;
    let message = json!({"role": "user", "content": {"type": "text", "text": "Review 7, kind"}});
    assert_eq!(
        (prompt["result"]["description"].as_str(), &prompt["result"]["messages"][0]),
        (Some("A review."), &message)
    );
    for wrong in [
        json!({"name": "review"}),
        json!({"name": "review", "arguments": {"chapter": 7}}),
        json!({"name": "none"}),
        json!({"name": "review", "arguments": {"chapter": "7", "x": "y"}}),
    ] {
        let (_, answer) = ask("prompts/get", wrong).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    }

    let complete = |of: Value, name: &str| json!({"ref": of, "argument": {"name": name, "value": "v"}, "context": {"arguments": {"tone": "x"}}});
    let (_, completion) =
        ask("completion/complete", complete(json!({"type": "ref/prompt", "name": "review"}), "chapter")).await;
    let completion = &completion["result"]["completion"];
    assert_eq!(
        (completion["values"].as_array().map(Vec::len), completion["hasMore"].as_bool(), completion["total"].as_u64()),
        (Some(100), Some(true), Some(150))
    );
    let template = json!({"type": "ref/resource", "uri": "book://{part}/{chapter}"});
    let (_, completion) = ask("completion/complete", complete(template.clone(), "part")).await;
    assert_eq!(completion["result"]["completion"]["values"][0], "v0");
    for wrong in [
        complete(template, "none"),
        complete(json!({"type": "ref/prompt", "name": "none"}), "a"),
        complete(json!({"type": "ref/other"}), "a"),
        json!({}),
    ] {
        let (_, answer) = ask("completion/complete", wrong).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer:#}");
    }
    let (_, cursor) = ask("tools/list", json!({"cursor": "x"})).await;
    assert_eq!(cursor["error"]["code"], -32602);

    // Content without structure has no schema and no structure.
    let (_, shown) = ask("tools/call", json!({"name": "show", "arguments": {}})).await;
    let content =
        json!([{"type": "text", "text": "Look."}, {"type": "image", "data": "AQID", "mimeType": "image/png"}]);
    assert_eq!((&shown["result"]["content"], shown["result"].get("structuredContent")), (&content, None));
    let (_, tools) = ask("tools/list", json!({})).await;
    let tool = |name: &str| {
        tools["result"]["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .find(|tool| tool["name"] == name)
            .expect("it")
            .clone()
    };
    assert_eq!(tool("show").get("outputSchema"), None);
    assert_eq!(tool("greet")["inputSchema"]["properties"].get("client"), None);
    assert_eq!(tool("count")["inputSchema"]["properties"]["to"]["x-mcp-header"], "To");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_repeats_an_argument_must_say_the_same() {
    let stage = Stage::start().await;
    let call = async |said: Option<&str>, to: Value| {
        let arguments = if to.is_null() { json!({}) } else { json!({"to": to}) };
        let (mut headers, body) = modern(1, "tools/call", json!({"name": "count", "arguments": arguments}), json!({}));
        headers.extend(said.map(|said| ("mcp-param-to", said.to_owned())));
        let answer = stage.post(&borrowed(&headers), &body).await;
        (answer.status, answer.json()["error"]["code"].as_i64())
    };
    for said in ["2", "02", "=?base64?Mg==?="] {
        assert_eq!(call(Some(said), json!(2)).await, (200, None), "{said}");
    }
    for said in [None, Some("3"), Some("=?base64?!?="), Some("two"), Some("")] {
        assert_eq!(call(said, json!(2)).await, (400, Some(-32020)), "{said:?}");
    }
    // A legacy client knows of no such headers.
    let answer = stage.post(&[], &request(1, "tools/call", json!({"name": "count", "arguments": {"to": 1}}))).await;
    assert_eq!(answer.json()["result"]["isError"], false);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_to_who_listens_and_of_what_they_listen_to() {
    let stage = Stage::start().await;
    let filter = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["book://cover"]}});
    let (headers, body) = modern(9, "subscriptions/listen", filter, json!({}));
    let mut events = stage.open("POST", &borrowed(&headers), &body.to_string()).await;
    assert_eq!(events.head().await.0, 200);
    let first = events.message().await;
    let id = json!({"io.modelcontextprotocol/subscriptionId": 9});
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    // Of prompts the service tells nothing, so nothing is promised.
    let accepted = json!({"toolsListChanged": true, "resourceSubscriptions": ["book://cover"]});
    assert_eq!((&first["params"]["notifications"], &first["params"]["_meta"]), (&accepted, &id));
    let watching = async || (stage.changes.receiver_count() == 1).then_some(());
    eventually("the service is watched", watching).await;
    let wanted = stage.seen.watched.lock().expect("seen").clone();
    assert_eq!((wanted.tools, wanted.prompts, wanted.uris.as_slice()), (true, false, &["book://cover".to_owned()][..]));
    stage.changes.send(Changed { what: Some(What::List(ChangedList::Tools.into())) }).expect("heard");
    stage.changes.send(Changed { what: Some(What::Uri("book://cover".to_owned())) }).expect("heard");
    let told = events.message().await;
    assert_eq!((told["method"].as_str(), &told["params"]["_meta"]), (Some("notifications/tools/list_changed"), &id));
    let told = events.message().await;
    assert_eq!(
        (told["method"].as_str(), told["params"]["uri"].as_str()),
        (Some("notifications/resources/updated"), Some("book://cover"))
    );
    drop(events);
    let unwatched = async || (stage.changes.receiver_count() == 0).then_some(());
    soon("nobody watches any more", unwatched).await;

    // A legacy client names a resource and hears of it on its own stream.
    let able = session(&stage, "alice", json!({})).await;
    let headers = [("mcp-session-id", able.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let mut events = stage.open("GET", &headers, "").await;
    assert_eq!(events.head().await.0, 200);
    let named = stage.post(&headers, &request(1, "resources/subscribe", json!({"uri": "book://cover"}))).await;
    assert_eq!(named.json()["result"], json!({}));
    let watching = async || {
        (stage.seen.watched.lock().expect("seen").uris.len() == 1 && stage.changes.receiver_count() == 1).then_some(())
    };
    eventually("the resource is watched", watching).await;
    stage.changes.send(Changed { what: Some(What::Uri("book://cover".to_owned())) }).expect("heard");
    assert_eq!(events.message().await["method"], "notifications/resources/updated");
    assert_eq!(
        stage.post(&headers, &request(1, "resources/unsubscribe", json!({"uri": "book://cover"}))).await.json()["result"],
        json!({})
    );
    assert_eq!(
        stage.post(&[], &request(1, "resources/subscribe", json!({"uri": "book://cover"}))).await.json()["error"]["code"],
        -32602,
        "no session"
    );
    // The methods of one era are not the other's.
    let (status, answer) = ask(&stage, "resources/subscribe", json!({"uri": "book://cover"}), json!({})).await;
    assert_eq!((status, answer["error"]["code"].as_i64()), (404, Some(-32601)));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_the_edge_cannot_serve_is_refused_at_the_start() {
    use whitelistmcp::annotations::Annotations;
    let compile = |body: &str| {
        let directory = crate::support::temporary::Directory::new();
        directory.write("wrong.proto", &format!(
            "syntax = \"proto3\"; package wrong.v1; import \"mcp/v1/annotations.proto\"; import \"mcp/v1/offers.proto\"; import \"google/protobuf/any.proto\";\n{body}"
        ));
        let at = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let mut compiler = protox::Compiler::new([directory.path().to_owned(), at]).expect("a compiler");
        compiler.include_imports(true);
        compiler.open_file("wrong.proto").expect("it compiles");
        Annotations::read(&compiler.encode_file_descriptor_set())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let service = |rpc: &str, more: &str| {
        compile(&format!(
            "service S {{ option (mcp.v1.service) = {{ scopes: {{ name: \"s\" }} }}; {rpc} }} message E {{}} {more}"
        ))
    };
    let tool = r#"{ option (mcp.v1.tool) = { name: "t" scope: "s" }; }"#;
    for (rpc, more, part) in [
        (format!("rpc T(E) returns (E) {}", tool.replace("\"s\"", "\"x\"")), "", "scope"),
        (format!("rpc T(stream E) returns (E) {tool}"), "", "takes a stream"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { B b = 1; } message B { repeated A a = 1; }", "holds itself"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { map<int32, string> m = 1; }", "keys that are no strings"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { google.protobuf.Any any = 1; }", "an Any"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { double d = 1 [(mcp.v1.field) = { header: \"D\" }]; }", "integer of 32 bits"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { string a = 1 [(mcp.v1.field) = { header: \"a b\" }]; }", "no token"),
        (format!("rpc T(A) returns (E) {tool}"), "message A { string a = 1 [(mcp.v1.field) = { header: \"X\" }]; string b = 2 [(mcp.v1.field) = { header: \"x\" }]; }", "another field's"),
        ("rpc R(E) returns (E) { option (mcp.v1.resource) = { uri: \"a://b\" name: \"r\" scope: \"s\" }; }".into(), "", "ReadResourceResponse"),
        ("rpc R(E) returns (mcp.v1.ReadResourceResponse) { option (mcp.v1.resource) = { name: \"r\" scope: \"s\" }; }".into(), "", "neither"),
        ("rpc R(E) returns (mcp.v1.ReadResourceResponse) { option (mcp.v1.resource) = { uri_template: \"a://{x}\" name: \"r\" scope: \"s\" }; }".into(), "", "no field for the variable"),
        ("rpc P(A) returns (mcp.v1.GetPromptResponse) { option (mcp.v1.prompt) = { name: \"p\" scope: \"s\" }; }".into(), "message A { int32 n = 1; }", "single string"),
        ("rpc C(E) returns (E) { option (mcp.v1.completes) = true; }".into(), "", "CompleteRequest"),
    ] {
        let error = service(&rpc, more);
        assert!(error.contains(part), "{rpc} {more}: {error}");
    }
}

/// A socket to the edge, as alice.
struct Socket(tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>);

impl Socket {
    async fn open(stage: &Stage) -> Self {
        let tls = tls::client(stage.ground.directory.path(), None, &[b"http/1.1"]);
        let stream = tokio::net::TcpStream::connect(stage.edge).await.expect("it listens");
        let name = "localhost".try_into().expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("TLS");
        let url = format!("wss://localhost:{}/ws", stage.edge.port());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("it upgrades");
        let mut socket = Self(socket);
        socket.say(json!({"token": stage.token("alice")})).await;
        socket
    }

    async fn say(&mut self, message: Value) {
        self.0.send(tokio_tungstenite::tungstenite::Message::text(message.to_string())).await.expect("sent");
    }

    async fn hear(&mut self) -> Value {
        let heard = async {
            loop {
                if let tokio_tungstenite::tungstenite::Message::Text(text) =
                    self.0.next().await.expect("a frame").expect("a sound one")
                {
                    return serde_json::from_str(&text).expect("JSON");
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_hears_whatever_else_is_going_on_on_it() {
    let stage = Stage::start().await;
    let mut socket = Socket::open(&stage).await;
    // As much as one caller may listen to, and more calls than run at once.
    for id in 1..=17 {
        let (_, body) =
            modern(id, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}), json!({}));
        socket.say(body).await;
        let answer = socket.hear().await;
        if id <= 16 {
            assert_eq!(answer["method"], "notifications/subscriptions/acknowledged", "{answer:#}");
        } else {
            assert_eq!(answer["error"]["code"], 429, "{answer:#}");
        }
    }
    for id in 100..140 {
        socket.say(request(id, "tools/call", json!({"name": "count", "arguments": {"to": 40, "pause": 500}}))).await;
    }
    for id in 100..139 {
        socket.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})).await;
    }
    // The first sixteen were begun, all but the last are given up, and so the last is worked on.
    socket.say(request(200, "ping", json!({}))).await;
    let answer = socket.hear().await;
    assert_eq!((answer["id"].as_u64(), &answer["result"]), (Some(200), &json!({})), "{answer:#}");
    socket.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 139}})).await;
    drop(socket);
    let unwatched = async || (stage.changes.receiver_count() == 0).then_some(());
    soon("nobody watches any more", unwatched).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_of_a_batch_is_for_itself() {
    let stage = Stage::start().await;
    let mut socket = Socket::open(&stage).await;
    let slow =
        |id: u64, to: u32| request(id, "tools/call", json!({"name": "count", "arguments": {"to": to, "pause": 100}}));
    // One is given up, and the other is answered.
    socket.say(json!([slow(1, 300), slow(2, 10)])).await;
    socket.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})).await;
    let answer = socket.hear().await;
    assert_eq!((answer.as_array().map(Vec::len), answer[0]["id"].as_u64()), (Some(1), Some(2)), "{answer:#}");
    // An id that is in use costs the whole batch, and each of it is told.
    socket.say(slow(5, 300)).await;
    socket.say(json!([request(5, "ping", json!({})), request(6, "ping", json!({}))])).await;
    for id in [5, 6] {
        let answer = socket.hear().await;
        assert_eq!((answer["id"].as_u64(), answer["error"]["code"].as_i64()), (Some(id), Some(-32600)), "{answer:#}");
    }
    drop(socket);
    // Answers come in batches too (2025-03-26, "Streamable HTTP").
    let able = session(&stage, "alice", json!({"elicitation": {}})).await;
    let greet = request(5, "tools/call", json!({"name": "greet", "arguments": {"word": "Hello"}}));
    let mut events = stage.open("POST", &[("mcp-session-id", &able)], &greet.to_string()).await;
    events.head().await;
    let question = events.message().await;
    let response =
        json!([{"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}]);
    assert_eq!(stage.post(&[("mcp-session-id", &able)], &response).await.status, 202);
    assert_eq!(events.message().await["result"]["structuredContent"]["greeting"], "Hello, Ada!");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_leaves_behind_is_not_in_its_way() {
    let stage = Stage::start().await;
    let able = session(&stage, "alice", json!({"elicitation": {}})).await;
    let greet = request(5, "tools/call", json!({"name": "greet", "arguments": {"word": "Hello"}})).to_string();
    // More than wait at once, each left alone.
    for _ in 0..12 {
        let mut events = stage.open("POST", &[("mcp-session-id", &able)], &greet).await;
        let (_, headers) = events.head().await;
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(events.message().await["method"], "elicitation/create");
        drop(events);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One stream of a session is enough, and a revision that is not served is refused whatever is sent.
    let headers = [("mcp-session-id", able.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let mut first = stage.open("GET", &headers, "").await;
    assert_eq!(first.head().await.0, 200);
    let watching = async || (stage.changes.receiver_count() == 1).then_some(());
    eventually("the service is watched", watching).await;
    assert_eq!(stage.open("GET", &headers, "").await.head().await.0, 409);
    let unknown = [("mcp-session-id", able.as_str()), ("mcp-protocol-version", "1999-01-01")];
    assert_eq!(stage.open("GET", &unknown, "").await.head().await.0, 400);
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(stage.post(&unknown, &notification).await.status, 400);
    // What a service says of its own quota is said.
    let answer = stage.post(&[], &request(1, "tools/call", json!({"name": "count", "arguments": {"to": 998}}))).await;
    let answer = answer.json();
    assert!(
        answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("quota of 5")),
        "{answer:#}"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_holds_whatever_the_order_of_a_map() {
    let stage = Stage::start().await;
    let titles = json!({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6"});
    for round in 0..8 {
        let mut params = json!({"name": "greet", "arguments": {"word": "Hello", "titles": titles}});
        let (_, asked) = ask(&stage, "tools/call", params.clone(), json!({"elicitation": {}})).await;
        params["requestState"] = asked["result"]["requestState"].clone();
        params["inputResponses"] = json!({"who": {"action": "accept", "content": {"name": "Ada"}}});
        let (_, answer) = ask(&stage, "tools/call", params, json!({"elicitation": {}})).await;
        assert_eq!(answer["result"]["structuredContent"]["greeting"], "Hello, Ada!", "round {round}: {answer:#}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_of_what_they_may_not_read() {
    let stage = Stage::start().await;
    let uris = json!(["book://cover", "book://secret", "book://one/2", "other://x"]);
    let filter = json!({"notifications": {"resourceSubscriptions": uris}});
    let (headers, body) = modern(9, "subscriptions/listen", filter, json!({}));
    let mut events = stage.open("POST", &borrowed(&headers), &body.to_string()).await;
    events.head().await;
    let first = events.message().await;
    assert_eq!(first["params"]["notifications"], json!({"resourceSubscriptions": ["book://cover", "book://one/2"]}));
    let able = session(&stage, "alice", json!({})).await;
    for uri in ["book://secret", "other://x"] {
        let answer =
            stage.post(&[("mcp-session-id", &able)], &request(1, "resources/subscribe", json!({"uri": uri}))).await;
        assert_eq!(answer.json()["error"]["code"], -32002, "{uri}");
    }
    stage.stop().await;
}
