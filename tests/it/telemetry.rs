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
    // What is asked for when metrics leave is there while the service runs.
    collector
        .received_when(|received| is_in(received, "metrics").iter().any(|name| *name == "whitelistmcp.journal.lag"))
        .await;
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
    let rpc = |kind: &str| {
        let is = |span: &&&Value| span["name"] == "whitelistmcp.v1.WhitelistService/AddRule" && span["kind"] == kind;
        *spans.iter().find(is).unwrap_or_else(|| panic!("no {kind} span of the RPC: {spans:#?}"))
    };
    let (link, core) = (rpc("client"), rpc("server"));
    assert_eq!(link["parent_id"], edge["span_id"], "{link:#}");
    assert_eq!(core["parent_id"], link["span_id"], "{core:#}");
    for span in [link, core] {
        assert_eq!(span["attributes"]["rpc.method"], "whitelistmcp.v1.WhitelistService/AddRule");
        assert_eq!(span["attributes"]["rpc.response.status_code"], "OK");
    }
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
        assert_eq!(span["attributes"]["rpc.system.name"], "aws-api");
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
const METRICS: [&str; 20] = [
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
    "whitelistmcp.break_glass",
    "whitelistmcp.journal.lag",
    "whitelistmcp.journal.waiting",
    "whitelistmcp.panics",
    "whitelistmcp.streams",
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

/// A receiver behind TLS, which shows the CA's own certificate; what it was sent first on each connection.
async fn behind_tls(directory: &std::path::Path, target: u16) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use whitelistmcp::tls;
    let pem = |name: &str| std::fs::read(directory.join(name)).expect("a file");
    use rustls::pki_types::pem::PemObject as _;
    let certificates = pem("core.pem");
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(&certificates);
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&pem("core.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let heard = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let hears = std::sync::Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, hears) = (acceptor.clone(), std::sync::Arc::clone(&hears));
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await else { return };
                let mut first = vec![0; 4096];
                let read = client.read(&mut first).await.unwrap_or(0);
                hears.lock().expect("not poisoned").push(String::from_utf8_lossy(&first[..read]).into_owned());
                if server.write_all(&first[..read]).await.is_ok() {
                    // Whoever closes first ends it.
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop).unwrap_or_default();
                }
            });
        }
    });
    (port, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_behind_tls_is_verified_and_told_the_headers_that_it_wants() {
    let aws = AwsDouble::start().await;
    let directory = Directory::new();
    let collector = Collector::start(&directory).await;
    let ground = crate::support::Ground::new(&Options::default()).await;
    let (port, heard) = behind_tls(ground.directory.path(), collector.http).await;
    let ca = ground.directory.path().join("ca.pem").display().to_string();
    let environment = |ca: Option<String>| {
        let mut variables = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://localhost:{port}")),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=whitelist,x-key=receiver-key-0815".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
            ("OTEL_BLRP_SCHEDULE_DELAY", "100".to_owned()),
        ];
        variables.extend(ca.map(|ca| ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca)));
        variables
    };
    let list = json!({"security_group": "staging-db"});
    // A receiver that cannot be verified gets nothing.
    let mut service = Processes::on(ground, &aws.access(), &Options::default(), &environment(None)).await;
    assert_eq!(service.call("whitelist_list", list.clone()).await["isError"], false);
    service.stop().await;
    assert!(heard.lock().expect("not poisoned").is_empty(), "{heard:?}");
    let Processes { ground, .. } = service;
    let mut service = Processes::on(ground, &aws.access(), &Options::default(), &environment(Some(ca))).await;
    assert_eq!(service.call("whitelist_list", list).await["isError"], false);
    service.stop().await;
    collector
        .received_when(|received| !is_in(received, "spans").is_empty() && !is_in(received, "logs").is_empty())
        .await;
    let heard = heard.lock().expect("not poisoned").clone();
    assert!(!heard.is_empty() && heard.iter().all(|first| first.contains("x-key: receiver-key-0815")), "{heard:?}");
    assert!(!service.core.log().contains("receiver-key-0815") && !service.edge.log().contains("receiver-key-0815"));
}

/// How much memory a process has, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_costs_no_memory() {
    let aws = AwsDouble::start().await;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", free_port())),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500".to_owned()),
        // Queues that are full soon.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64".to_owned()),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "64".to_owned()),
    ];
    let mut service = Processes::start(&aws.access(), &Options::default(), &environment).await;
    let call = async |times: usize| {
        for _ in 0..times {
            let result = service.call("whitelist_list", json!({"security_group": "staging-db"})).await;
            assert_eq!(result["isError"], false);
        }
    };
    call(150).await;
    let before = resident(service.core.id()) + resident(service.edge.id());
    call(450).await;
    let after = resident(service.core.id()) + resident(service.edge.id());
    assert!(after < before + 12 * 1024, "{before} KiB became {after} KiB");
    service.stop().await;
}

/// Every way in which a credential could be written down by mistake.
fn disguises(secret: &str) -> Vec<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let bytes = format!("{:?}", secret.as_bytes());
    let mut all = vec![secret.to_owned(), percent, bytes, hex(secret)];
    // Base64 takes three bytes at a time, so what stands before shifts the rest; the ends depend on what is beside them.
    for before in 0..3 {
        let shifted = [&vec![b'.'; before][..], secret.as_bytes()].concat();
        for text in [STANDARD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            let (begin, end) = (if before == 0 { 0 } else { 4 }, shifted.len() / 3 * 4);
            all.extend(text.get(begin..end).map(str::to_owned));
        }
    }
    all.retain(|text| text.len() >= 8);
    all
}

fn hex(secret: &str) -> String {
    secret.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_disguise_is_seen_through_wherever_it_stands() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let secret = "introspection-secret-0815";
    for before in ["", "a", "ab", "client:", "client-x:"] {
        for after in ["", "z", "zz"] {
            let text = STANDARD.encode(format!("{before}{secret}{after}"));
            assert!(disguises(secret).iter().any(|disguise| text.contains(disguise)), "{before} {after}");
        }
    }
}

/// What `[telemetry] log_requests` leaves out of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_logged_when_asked_for_and_then_without_what_could_be_anything() {
    let aws = AwsDouble::start().await;
    let pasted = "hunter2-correct-horse";
    let arguments = json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "protocol": "tcp",
        "reason": format!("ticket {pasted}"), "idempotency_key": pasted});
    for on in [false, true] {
        let section = if on { "[telemetry]\nlog_requests = true\n" } else { "" };
        let options = Options { oidc_extra: section.to_owned(), ..Options::default() };
        let mut service = Processes::start(&aws.access(), &options, &[]).await;
        let result = service.call("whitelist_add", arguments.clone()).await;
        assert_eq!(result["isError"], false, "{result:#}");
        service.call("whitelist_list", json!({"security_group": "nowhere"})).await;
        service.stop().await;
        for log in [service.core.log(), service.edge.log()] {
            assert!(!log.contains(pasted), "{log}");
            let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let said = |message: &str, field: &str, tool: &str| {
                let is = |line: &&Value| line["message"] == message && line["tool"] == tool;
                lines.iter().find(is).map(|line| line[field].to_string())
            };
            let (request, answer) =
                (said("a request", "request", "whitelist_add"), said("an answer", "answer", "whitelist_add"));
            assert_eq!((request.is_some(), answer.is_some()), (on, on), "{log}");
            if let (Some(request), Some(answer)) = (request, answer) {
                assert!(request.contains("<28 characters>") && request.contains("tcp"), "{request}");
                assert!(answer.contains("opened") || answer.contains("joined"), "{answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_of_a_whole_run_leaves_the_service() {
    let aws = AwsDouble::start().await;
    let directory = Directory::new();
    let collector = Collector::start(&directory).await;
    let redis = crate::support::redis::Redis::with(&["--requirepass", "redis-password-4711"]).await;
    let key = std::process::Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["key", "new", "--owner", "ops", "--scopes", "whitelist:read", "--days", "1", "--network", "127.0.0.0/8"])
        .output()
        .expect("a key");
    let printed = String::from_utf8_lossy(&key.stdout).into_owned() + &String::from_utf8_lossy(&key.stderr);
    let api_key = printed
        .split_whitespace()
        .find(|word| word.trim_matches('"').starts_with("wlk_"))
        .expect("a key")
        .trim_matches('"')
        .to_owned();
    let entry: String =
        printed.lines().skip_while(|line| !line.starts_with('[')).map(|line| format!("{line}\n")).collect();
    let keys = directory.write("keys.toml", &entry);
    let url = redis.url().replace("redis://", "redis://:redis-password-4711@");
    let secret = "introspection-secret-0815";
    let file = directory.write("introspection", secret);
    let options = Options {
        redis: Some(url),
        core_extra: "[aws.cache]\nkept_in = \"redis\"\nkey_file = \"{at}/sealing.key\"\n".to_owned(),
        oidc_extra: format!(
            "tokens = \"either\"\n[oidc.company.introspection]\nclient_id = \"core\"\nclient_secret_file = \"{}\"\n[api_keys]\nfile = \"{}\"\n[telemetry]\nlog = \"info,whitelistmcp=trace,hyper=debug,h2=info,rustls=debug,aws_config=debug,aws_smithy_runtime=debug\"\n",
            file.display(),
            keys.display()
        ),
        ..Options::default()
    };
    let mut service = Processes::start(&aws.access(), &options, &environment(&collector, "grpc")).await;
    let mut secrets = vec![
        api_key.clone(),
        secret.to_owned(),
        "redis-password-4711".to_owned(),
        "base-secret".to_owned(),
        "session-secret".to_owned(),
        "session-token".to_owned(),
        "test-external-id".to_owned(),
        "opaque-token-of-bob".to_owned(),
        "AKIAABCDEFGHIJKLMNOP".to_owned(),
        "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY99".to_owned(),
    ];
    service.ground.issuer.opaque("opaque-token-of-bob", service.ground.issuer.active("bob", "whitelist:read"));
    let mut answers = Vec::new();
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}}).to_string();
    let stolen = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {
        "security_group": "staging-db", "aws_access_key_id": "AKIAABCDEFGHIJKLMNOP", "aws_secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY99"}}}).to_string();
    let good = service.token();
    let expired = service.ground.issuer.token_with("alice", "whitelist:read", json!({"exp": 1}));
    secrets.extend([good.clone(), expired.clone(), good.rsplit('.').next().expect("a signature").to_owned()]);
    for token in [good.as_str(), &expired, &api_key, "opaque-token-of-bob", "unknown-opaque-token-1234"] {
        for body in [add(json!({})), list.clone(), stolen.clone(), "{not json".to_owned()] {
            answers.push(service.post(Some(token), &[], body).await.expect("an answer"));
        }
    }
    secrets.push("unknown-opaque-token-1234".to_owned());
    // AWS refuses, and says things in its refusal.
    aws.fail("AssumeRole", crate::support::aws_double::Fault::Refuse(403, "AccessDenied"));
    aws.fail("DescribeSecurityGroupRules", crate::support::aws_double::Fault::Refuse(500, "InternalError"));
    for _ in 0..3 {
        answers.push(service.post(Some(&good), &[], list.clone()).await.expect("an answer"));
    }
    let mut request = tonic::Request::new(whitelistmcp::pb::whitelistmcp::v1::ListRulesRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {good}").parse().expect("ASCII"));
    let status = service.grpc("ci-runner").list_rules(request).await.expect_err("a service with a token");
    service.stop().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The keys that the service proves itself, seals and signs with.
    secrets.push(std::fs::read_to_string(service.path().join("sealing.key")).expect("a key"));
    for file in ["core.key", "edge.key", "journal/journal-key.pem"] {
        let pem = std::fs::read_to_string(service.path().join(file)).expect("a key");
        secrets.extend(pem.lines().filter(|line| line.len() > 40).map(str::to_owned));
    }

    let mut written = vec![
        ("the core's log", service.core.log()),
        ("the edge's log", service.edge.log()),
        ("telemetry", collector.text()),
        ("the journal", crate::support::journal_lines(&service.path().join("journal")).join("\n")),
        ("a status", format!("{status:?}")),
    ];
    assert!(answers.iter().any(|answer| answer.status == 200) && answers.iter().any(|answer| answer.status == 401));
    written.extend(
        answers
            .iter()
            .map(|answer| ("an answer", format!("{:?}\n{}", answer.headers, String::from_utf8_lossy(&answer.body)))),
    );
    for (place, text) in &written {
        assert!(!text.is_empty(), "{place}");
        for secret in &secrets {
            for disguise in disguises(secret) {
                assert!(!text.contains(&disguise), "{place} holds {secret} as {disguise}");
            }
        }
    }
}
