//! Certificates, CAs and revocation lists that change under open connections.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::Code;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::certificates::Authority;
use crate::support::{CI_RUNNER, EDGE, Options, READER, Stack, tls};

/// How long a change may take: a look, the wait for the files to settle, and the busiest of machines.
const SOON: Duration = Duration::from_secs(8);

/// A connection to a core that stays open for as long as the core lets it.
struct Held {
    certificate: CertificateDer<'static>,
    requests: SendRequest<Empty<bytes::Bytes>>,
    end: JoinHandle<()>,
}

impl Held {
    async fn open(directory: &Path, certificate: &str, port: u16) -> Self {
        let connector = TlsConnector::from(Arc::new(tls::client(directory, Some(certificate), &[b"h2"])));
        let tcp = TcpStream::connect(("localhost", port)).await.expect("it listens");
        let tls = connector.connect("localhost".try_into().expect("a name"), tcp).await.expect("a handshake");
        let certificate = tls.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned();
        let (requests, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
        let end = tokio::spawn(async move { drop(connection.await) });
        Self { certificate, requests, end }
    }

    /// Whether a request on this very connection is answered.
    async fn is_served(&mut self) -> bool {
        let request = http::Request::post("http://localhost/nothing").header("content-type", "application/grpc");
        let request = request.body(Empty::new()).expect("a request");
        self.requests.send_request(request).await.is_ok_and(|answer| answer.headers()["grpc-status"] == "12")
    }

    /// How long it takes until the core closes it.
    async fn closed(self) -> Duration {
        let started = Instant::now();
        tokio::time::timeout(SOON, self.end).await.expect("the connection is closed").expect("no panic");
        started.elapsed()
    }
}

fn list() -> pb::ListRulesRequest {
    pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() }
}

/// Waits until that holds.
async fn soon<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < SOON, "{what} never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn with_list() -> Options {
    Options { core_keys: "client_crl = [\"{at}/ca.crl\"]", ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_in_force_at_once_and_a_bad_one_never() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let (at, port) = (stack.directory.path(), stack.core.port());
    let shown = || async { Held::open(at, "ci-runner", port).await.certificate };
    let mut before = Held::open(at, "ci-runner", port).await;
    let first = before.certificate.clone();

    stack.authority.issue("core", &["localhost"]);
    soon("the renewed certificate", || async { shown().await != first }).await;
    let renewed = shown().await;
    assert!(before.is_served().await, "what was open stays open");

    // A key that does not fit, an expired certificate, one for another purpose, half a file, none.
    let good = ["core.pem", "core.key", "ca.pem"].map(|file| (file, std::fs::read(at.join(file)).expect("a file")));
    let put_back = || good.iter().for_each(|(file, bytes)| std::fs::write(at.join(file), bytes).expect("a file"));
    stack.authority.issue("other", &["localhost"]);
    stack.authority.issue_until("expired", &["localhost"], 2024);
    let bad: [&dyn Fn(); 5] = [
        &|| {
            std::fs::copy(at.join("other.key"), at.join("core.key")).expect("a copy");
        },
        &|| {
            for ending in ["pem", "key"] {
                std::fs::copy(at.join(format!("expired.{ending}")), at.join(format!("core.{ending}"))).expect("a copy");
            }
        },
        &|| std::fs::write(at.join("core.pem"), &good[0].1[..good[0].1.len() / 2]).expect("a file"),
        &|| std::fs::remove_file(at.join("core.key")).expect("a file"),
        &|| std::fs::write(at.join("ca.pem"), &good[0].1).expect("a file"),
    ];
    for (number, spoil) in bad.iter().enumerate() {
        // The test's own client reads the CA too: it is made before.
        let connector = TlsConnector::from(Arc::new(tls::client(at, Some("ci-runner"), &[b"h2"])));
        spoil();
        tokio::time::sleep(Duration::from_millis(900)).await;
        let tcp = TcpStream::connect(("localhost", port)).await.expect("it listens");
        let tls = connector.connect("localhost".try_into().expect("a name"), tcp).await.expect("a handshake");
        let shown = tls.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
        assert_eq!(shown, renewed, "bad set {number} changed something");
        assert!(before.is_served().await, "bad set {number}");
        put_back();
    }
    stack.authority.issue("core", &["localhost"]);
    soon("a good set after bad ones", || async { shown().await != renewed }).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_loses_open_connections_and_nobody_else_does() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), with_list()).await;
    let (at, port) = (stack.directory.path(), stack.core.port());
    let mut other = Held::open(at, "reader", port).await;
    let mut held = Held::open(at, "ci-runner", port).await;
    assert!(held.is_served().await && other.is_served().await);
    // A request that runs when it happens has a short grace, and no more.
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(20)));
    let mut client = stack.grpc("ci-runner");
    let running = tokio::spawn(async move { client.list_rules(list()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;

    stack.authority.revoke("ca.crl", &["ci-runner"]);
    held.closed().await;
    let started = Instant::now();
    assert!(running.await.expect("no panic").is_err());
    assert!(started.elapsed() < Duration::from_secs(6), "cut, not waited for: {:?}", started.elapsed());
    assert!(stack.grpc("ci-runner").list_rules(list()).await.is_err(), "and it does not get in again");
    assert!(other.is_served().await, "nobody else is touched");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_revocation_lists_what_none_speaks_of_is_refused() {
    let stack = Stack::with(&AwsDouble::start().await.access(), with_list()).await;
    let (at, port) = (stack.directory.path(), stack.core.port());
    let mut held = Held::open(at, "ci-runner", port).await;
    // Lists that another CA signed, that are no lists, and that are overdue, change nothing.
    let stranger = Authority::unpublished(at);
    for spoil in [
        &(|| stranger.revoke("ca.crl", &[])) as &dyn Fn(),
        &|| std::fs::write(at.join("ca.crl"), "nothing").expect("a file"),
        &|| std::fs::write(at.join("ca.crl"), [0x30, 0x03, 0x02, 0x01, 0x01]).expect("a file"),
    ] {
        spoil();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(held.is_served().await && Held::open(at, "ci-runner", port).await.is_served().await);
    }
    // A second CA without a list: its certificates are refused, since nobody says that they are not revoked.
    let second = Authority::unpublished(at);
    second.publish("second.pem");
    second.issue("unlisted", &[CI_RUNNER]);
    let both = ["ca.pem", "second.pem"].map(|file| std::fs::read_to_string(at.join(file)).expect("a file")).concat();
    stack.authority.revoke("ca.crl", &[]);
    std::fs::write(at.join("ca.pem"), both).expect("a file");
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(stack.grpc("unlisted").list_rules(list()).await.is_err());
    assert!(stack.grpc("ci-runner").list_rules(list()).await.is_ok());
    // A list that is in force and comes to its end lets nobody in any more.
    stack.authority.revoke_for("ca.crl", &[], 3);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stack.grpc("ci-runner").list_rules(list()).await.is_ok());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(stack.grpc("ci-runner").list_rules(list()).await.is_err());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_takes_its_connection_along() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let (at, port) = (stack.directory.path(), stack.core.port());
    stack.authority.issue_for("brief", &[CI_RUNNER], 4);
    let mut held = Held::open(at, "brief", port).await;
    let mut lasting = Held::open(at, "ci-runner", port).await;
    assert!(held.is_served().await);
    let open = held.closed().await;
    assert!((Duration::from_secs(2)..Duration::from_secs(7)).contains(&open), "{open:?}");
    assert!(lasting.is_served().await);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_goes_takes_its_connections_along() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let (at, port) = (stack.directory.path(), stack.core.port());
    let old = Held::open(at, "ci-runner", port).await;
    let next = Authority::unpublished(at);
    next.publish("next.pem");

    // As a CA is changed in practice: trust both, give out new certificates, take the old one away.
    let both = ["ca.pem", "next.pem"].map(|file| std::fs::read_to_string(at.join(file)).expect("a file")).concat();
    std::fs::write(at.join("ca.pem"), both).expect("a file");
    next.issue("moved", &[READER]);
    soon("trust in the new CA", || async { stack.grpc("moved").list_rules(list()).await.is_ok() }).await;
    let mut moved = Held::open(at, "moved", port).await;
    next.issue("edge", &[EDGE, "localhost"]);
    next.issue("core", &["localhost"]);
    std::fs::copy(at.join("next.pem"), at.join("ca.pem")).expect("a copy");
    old.closed().await;
    assert!(moved.is_served().await);
    let status = stack.grpc("ci-runner").list_rules(list()).await.expect_err("its CA is gone");
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status:?}");
    // The edge has moved as well.
    let edge = whitelistmcp::http_client::HttpClient::new(tls::client(at, None, &[]));
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}});
    soon("the edge with its new identity", || async {
        let request = http::Request::post(format!("https://localhost:{}/mcp", stack.edge.port()))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", stack.token()))
            .body(body.to_string().into_bytes())
            .expect("a request");
        let Ok(answer) = edge.send(request).await else { return false };
        let answer: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
        answer["result"]["isError"] == false
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_changes_its_identity_without_losing_a_call() {
    let stack = Stack::with(&AwsDouble::start().await.access(), with_list()).await;
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    for file in ["edge.pem", "edge.key"] {
        let at = stack.directory.path();
        std::fs::copy(at.join(file), at.join(file.replace("edge", "former"))).expect("a copy");
    }
    let former = stack.authority.copy_of("edge", "former");
    stack.authority.issue("edge", &[EDGE, "localhost"]);
    // While the files change, and while the former certificate is revoked, every call is answered.
    let started = Instant::now();
    let mut revoked = false;
    while started.elapsed() < Duration::from_secs(5) {
        stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
        if started.elapsed() > Duration::from_secs(2) && !std::mem::replace(&mut revoked, true) {
            stack.authority.revoke("ca.crl", &[former]);
        }
    }
    assert!(stack.grpc("former").list_rules(list()).await.is_err());
    stack.stop().await;
}
