//! Who reaches the core, and as what.

use tonic::{Code, Request};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::certificates::Authority;
use crate::support::{CI_RUNNER, EDGE, Stack};

fn list() -> pb::ListRulesRequest {
    pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() }
}

async fn refusal(stack: &Stack, certificate: &str, request: Request<pb::ListRulesRequest>) -> Refusal {
    let status = stack.grpc(certificate).list_rules(request).await.expect_err(certificate);
    Refusal::of(&status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_valid_certificates_of_known_peers_get_in() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let at = stack.directory.path();
    assert!(stack.grpc("ci-runner").list_rules(list()).await.is_ok());

    stack.authority.issue_until("expired", &[CI_RUNNER], 2024);
    Authority::unpublished(at).issue("foreign", &[CI_RUNNER]);
    for certificate in ["expired", "foreign"] {
        // Under TLS 1.3 the refusal comes after the handshake, so only a call shows it.
        let refused = refusal(&stack, certificate, Request::new(list())).await;
        assert!(
            matches!(refused.code, Code::Unavailable | Code::Unknown | Code::Cancelled) && refused.reason.is_empty(),
            "{certificate}: {refused:?}"
        );
    }
    stack.authority.issue("similar", &["spiffe://test.example/ci-runner/x"]);
    stack.authority.issue("dns", &["ci-runner"]);
    stack.authority.issue("both", &[CI_RUNNER, EDGE]);
    for certificate in ["stranger", "similar", "dns", "both"] {
        let refused = refusal(&stack, certificate, Request::new(list())).await;
        assert_eq!((refused.code, refused.reason.as_str()), (Code::PermissionDenied, "PEER_UNKNOWN"), "{certificate}");
    }
    assert_eq!(aws.actions().iter().filter(|action| *action == "AssumeRole").count(), 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate_and_no_old_tls() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let ca = stack.directory.path().join("ca.pem");
    let client = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let roots = whitelistmcp::tls::load_roots(&ca).expect("a CA");
        let config = rustls::ClientConfig::builder_with_provider(whitelistmcp::tls::provider())
            .with_protocol_versions(versions)
            .expect("versions");
        config.with_root_certificates(roots).with_no_client_auth()
    };
    for (versions, shakes) in [(&[&rustls::version::TLS13][..], true), (&[&rustls::version::TLS12], false)] {
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client(versions)));
        let tcp = tokio::net::TcpStream::connect(stack.core).await.expect("it listens");
        let tls = connector.connect("localhost".try_into().expect("a name"), tcp).await;
        assert_eq!(tls.is_ok(), shakes);
        if let Ok(mut tls) = tls {
            // The alert arrives instead of an answer.
            let mut byte = [0];
            assert!(tokio::io::AsyncReadExt::read(&mut tls, &mut byte).await.is_err());
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_nobody_without_a_person() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let with = |key: &'static str, value: String| {
        let mut request = Request::new(list());
        request.metadata_mut().insert(key, value.parse().expect("ASCII"));
        request
    };
    let refused = refusal(&stack, "edge", Request::new(list())).await;
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
    let refused = refusal(&stack, "edge", with("authorization", "Bearer made-up".to_owned())).await;
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
    let other = stack.issuer.sign(&crate::support::issuer::header(), &{
        let mut claims = stack.issuer.claims("alice", "whitelist:read");
        claims["aud"] = "https://other.example".into();
        claims
    });
    let refused = refusal(&stack, "edge", with("authorization", format!("Bearer {other}"))).await;
    assert_eq!(refused.reason, "TOKEN_INVALID");
    let mut good = with("authorization", format!("Bearer {}", stack.token()));
    good.metadata_mut().insert("mcp-client-address", "not-an-address".parse().expect("ASCII"));
    assert_eq!(refusal(&stack, "edge", good).await.reason, "CLIENT_ADDRESS_INVALID");
    assert!(stack.grpc("edge").list_rules(with("authorization", format!("Bearer {}", stack.token()))).await.is_ok());

    // A service is itself, whatever it sends along.
    let refused = refusal(&stack, "ci-runner", with("authorization", format!("Bearer {}", stack.token()))).await;
    assert_eq!((refused.code, refused.reason.as_str()), (Code::PermissionDenied, "BEARER_REFUSED"));
    let refused = refusal(&stack, "ci-runner", with("mcp-client-address", "203.0.113.7".to_owned())).await;
    assert_eq!(refused.reason, "CLIENT_ADDRESS_REFUSED");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_the_scopes_of_its_configuration() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    assert!(stack.grpc("reader").list_rules(list()).await.is_ok());
    let add = pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.7".to_owned(),
        port: "22".to_owned(),
        reason: "trying".to_owned(),
        ..Default::default()
    };
    let refused = Refusal::of(&stack.grpc("reader").add_rule(add).await.expect_err("a reader"));
    assert_eq!((refused.code, refused.reason.as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
    assert_eq!(refused.facts.get("scope").map(String::as_str), Some("whitelist:write"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_are_served() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(stack.channel("ci-runner"));
    let request = tonic_health::pb::HealthCheckRequest { service: "whitelistmcp.v1.WhitelistService".to_owned() };
    assert_eq!(health.check(request).await.expect("healthy").into_inner().status, 1);
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(stack.channel("ci-runner"));
    let question = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::FileContainingSymbol(
                "whitelistmcp.v1.WhitelistService".to_owned(),
            ),
        ),
    };
    let mut answers = reflection
        .server_reflection_info(futures_util::stream::once(async { question }))
        .await
        .expect("reflection")
        .into_inner();
    let answer = format!("{:?}", answers.message().await.expect("an answer").expect("one"));
    assert!(answer.contains("FileDescriptorResponse"), "{answer}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept() {
    let aws = AwsDouble::start().await;
    aws.fail("DescribeSecurityGroupRules", crate::support::aws_double::Fault::Hang(std::time::Duration::from_secs(20)));
    let stack = Stack::start(&aws).await;
    let mut request = Request::new(list());
    request.set_timeout(std::time::Duration::from_millis(400));
    let started = std::time::Instant::now();
    let status = stack.grpc("ci-runner").list_rules(request).await.expect_err("too slow");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "end")).await;
    assert!(entries.iter().any(|entry| entry["type"] == "end" && entry["outcome"] != "done"));
    stack.stop().await;
}
