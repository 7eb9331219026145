//! What leaves the service for a real receiver, and what never does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Options;
use crate::support::aws_double::AwsDouble;
use crate::support::collector::{Collector, free_port};
use crate::support::processes::Processes;
use crate::support::temporary::Directory;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn environment(collector: &Collector, protocol: &str) -> Vec<(&'static str, String)> {
    let port = if protocol == "grpc" { collector.grpc } else { collector.http };
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
    ]
}

fn add(meta: Value) -> String {
    json!({"jsonrpc": "2.0", "id": "req-1", "method": "tools/call", "params": {"name": "whitelist_add", "_meta": meta,
        "arguments": {"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "traced", "duration": "1h"}}})
    .to_string()
}

fn is_in<'a>(received: &'a Value, kind: &str) -> Vec<&'a Value> {
    received[kind].as_array().expect("a list").iter().collect()
}

async fn one_tree(protocol: &str) {
    let aws = AwsDouble::start().await;
    let directory = Directory::new();
    let collector = Collector::start(&directory).await;
    let mut service = Processes::start(&aws.access(), &Options::default(), &environment(&collector, protocol)).await;
    let traceparent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    let ambient = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let meta = json!({"traceparent": traceparent});
    let token = service.token();
    let answer = service.post(Some(&token), &[("traceparent", ambient)], add(meta)).await.expect("an answer");
    assert_eq!(answer.json()["result"]["isError"], false, "{answer:?}");
    assert!(uuid::Uuid::try_parse(answer.header("x-request-id")).is_ok(), "{answer:?}");
    let listed = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string();
    service.post(Some(&token), &[], listed).await.expect("an answer");
    service
        .post(Some(&token), &[], json!({"jsonrpc": "2.0", "id": 3, "method": "x/made-up"}).to_string())
        .await
        .expect("an answer");
    service.call("whitelist_list", json!({"security_group": "nowhere"})).await;
    service.post(Some("made-up"), &[], "{}".to_owned()).await.expect("an answer");
    service.stop().await;
    let received = collector
        .received_when(|received| {
            is_in(received, "spans").iter().filter(|span| span["trace_id"] == TRACE).count() >= 5
                && is_in(received, "logs")
                    .iter()
                    .any(|log| log["body"].as_str().is_some_and(|body| body.contains("\"type\":\"closed\"")))
        })
        .await;

    // One tree, from the client's own span to AWS.
    let spans: Vec<&Value> = is_in(&received, "spans").into_iter().filter(|span| span["trace_id"] == TRACE).collect();
    let named = |name: &str| {
        *spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
    };
    let edge = named("tools/call whitelist_add");
    assert_eq!((edge["parent_id"].as_str(), edge["kind"].as_str()), (Some(CLIENT_SPAN), Some("server")));
    assert_eq!(edge["attributes"]["mcp.method.name"], "tools/call");
    assert_eq!(edge["attributes"]["gen_ai.tool.name"], "whitelist_add");
    assert_eq!(edge["attributes"]["jsonrpc.request.id"], "req-1");
    let core = named("whitelistmcp.v1.WhitelistService/AddRule");
    assert_eq!(core["parent_id"], edge["span_id"], "{core:#}");
    let said = &core["attributes"];
    assert!(said["whitelistmcp.principal"].as_str().is_some_and(|id| id.starts_with("alice")), "{said:#}");
    assert_eq!(
        (said["whitelistmcp.tool"].as_str(), said["whitelistmcp.decision"].as_str()),
        (Some("whitelist_add"), Some("permit"))
    );
    assert_eq!(said["whitelistmcp.policies"], "people-on-configured-groups");
    assert!(said["whitelistmcp.session_policy.sha256"].as_str().is_some_and(|digest| digest.len() == 64));
    assert!(said["aws.request_ids"].as_str().is_some_and(|ids| ids.split(',').count() == 3), "{said:#}");
    assert!(said["whitelistmcp.target"].as_str().is_some_and(|target| target.contains("staging-db")));
    for aws in ["STS.AssumeRole", "EC2.DescribeSecurityGroupRules", "EC2.AuthorizeSecurityGroupIngress"] {
        let span = named(aws);
        assert_eq!(
            (span["parent_id"].as_str(), span["kind"].as_str()),
            (core["span_id"].as_str(), Some("client")),
            "{span:#}"
        );
        assert_eq!(span["attributes"]["rpc.system"], "aws-api");
        assert_eq!(span["attributes"]["aws.request_id"], "req-1");
        assert_eq!(span["attributes"]["http.response.status_code"], 200);
    }

    // The journal's lines are log records of the same trace.
    let lines = std::fs::read_dir(service.path().join("journal")).expect("a journal").count();
    assert!(lines > 0);
    let journal = service.journal();
    let logs = is_in(&received, "logs");
    let sent: Vec<&Value> =
        logs.iter().copied().filter(|log| log["attributes"]["whitelistmcp.audit.seq"].is_number()).collect();
    assert_eq!(sent.len(), journal.len(), "every line has left, once");
    for kind in ["begin", "end"] {
        let line = journal
            .iter()
            .find(|line| line["type"] == kind && line["call"] == said["whitelistmcp.call"])
            .expect("a line");
        let record =
            sent.iter().find(|log| log["attributes"]["whitelistmcp.audit.seq"] == line["seq"]).expect("a record");
        assert_eq!((record["trace_id"].as_str(), record["span_id"].as_str()), (Some(TRACE), core["span_id"].as_str()));
        assert_eq!(line["trace"], TRACE);
        assert_eq!(serde_json::from_str::<Value>(record["body"].as_str().expect("text")).expect("JSON"), *line);
    }

    // Failures and other methods have spans of their own.
    let all = is_in(&received, "spans");
    assert!(all.iter().any(|span| span["name"] == "tools/list" && span["kind"] == "server"));
    let unknown = all.iter().find(|span| span["name"] == "_OTHER").expect("an unknown method is no name");
    assert_eq!(
        (unknown["status"].as_str(), unknown["attributes"]["error.type"].as_str()),
        (Some("error"), Some("-32601"))
    );
    let refused =
        all.iter().find(|span| span["attributes"]["error.type"] == "SECURITY_GROUP_UNKNOWN").expect("a refusal");
    assert_eq!(refused["status"], "error");

    // Metrics.
    for metric in METRICS {
        assert!(
            is_in(&received, "metrics").iter().any(|name| *name == metric),
            "{metric} is missing: {:#}",
            received["metrics"]
        );
    }
}

/// What a run like this one must have measured.
const METRICS: [&str; 16] = [
    "http.server.active_requests",
    "http.server.request.duration",
    "mcp.server.operation.duration",
    "rpc.client.call.duration",
    "rpc.server.call.duration",
    "whitelistmcp.cache.requests",
    "whitelistmcp.call.duration",
    "whitelistmcp.certificate.days_left",
    "whitelistmcp.connections",
    "whitelistmcp.errors",
    "whitelistmcp.journal.waiting",
    "whitelistmcp.journal.writable",
    "whitelistmcp.journal.write.duration",
    "whitelistmcp.policy.decisions",
    "whitelistmcp.token.verifications",
    "whitelistmcp.build",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_is_one_tree_by_grpc() {
    one_tree("grpc").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_is_one_tree_by_http() {
    one_tree("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_down_loses_nothing_that_the_journal_holds() {
    let aws = AwsDouble::start().await;
    let directory = Directory::new();
    let (grpc, http) = (free_port(), free_port());
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{grpc}")),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500".to_owned()),
    ];
    let mut service = Processes::start(&aws.access(), &Options::default(), &environment).await;
    for n in 0..20 {
        let arguments = json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "unheard"});
        assert_eq!(service.call("whitelist_add", arguments).await["isError"], false);
    }
    service.stop().await;
    let journal = service.journal();
    assert_eq!(journal.iter().filter(|line| line["type"] == "end").count(), 20);

    let collector = Collector::start_at(&directory, grpc, http, "later").await;
    let place = service.path().join("journal");
    let replay = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(["audit", "replay", "--directory"])
            .arg(&place)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{grpc}"))
            .output()
            .expect("it runs")
    };
    let output = replay();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("{0} lines sent, {0} taken", journal.len())), "{said}");
    let received = collector.received_when(|received| is_in(received, "logs").len() >= journal.len()).await;
    let bodies: Vec<Value> = is_in(&received, "logs")
        .iter()
        .map(|log| serde_json::from_str(log["body"].as_str().expect("text")).expect("JSON"))
        .collect();
    assert!(journal.iter().all(|line| bodies.contains(line)), "every line arrives");
    assert!(is_in(&received, "logs").iter().all(|log| log["attributes"]["whitelistmcp.audit.replayed"] == true));

    // A second time there is nothing to send.
    let said = String::from_utf8_lossy(&replay().stdout).into_owned();
    assert!(said.starts_with("0 lines sent"), "{said}");

    // The heads that the receiver has keep the journal to its end.
    let heads = directory.path().join("heads.json");
    std::fs::write(&heads, bodies.iter().map(|body| format!("{body}\n")).collect::<String>()).expect("written");
    let verify = || {
        let verify = std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(["audit", "verify", "--directory"])
            .arg(&place)
            .arg("--heads")
            .arg(&heads)
            .output();
        let output = verify.expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (sound, said) = verify();
    assert!(sound, "{said}");
    let file = crate::support::journal_file(&place);
    let text = std::fs::read_to_string(&file).expect("text");
    let half: String = text.lines().take(20).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, half).expect("written");
    let (sound, said) = verify();
    assert!(!sound && said.contains("an older copy was put in its place"), "{said}");
    tokio::time::sleep(Duration::from_millis(1)).await;
}
