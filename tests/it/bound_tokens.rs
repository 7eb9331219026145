//! Access tokens that are bound to a client certificate (RFC 8705, section 3): good on that certificate's connections and
//! on no other, at the edge and again at the core.

use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request};
use whitelistmcp::grpc::status::Refusal;
use whitelistmcp::http_client::HttpClient;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack, tls};

const OPTIONAL: &str =
    "client_ca = \"{at}/ca.pem\"\nclient_crl = [\"{at}/ca.crl\"]\nclient_certificates = \"optional\"";

const REQUIRED: &str =
    "client_ca = \"{at}/ca.pem\"\nclient_crl = [\"{at}/ca.crl\"]\nclient_certificates = \"required\"";

async fn start(edge: &'static str) -> Stack {
    let stack =
        Stack::with(&AwsDouble::start().await.access(), Options { edge_extra: edge, ..Options::default() }).await;
    for name in ["machine", "other"] {
        stack.authority.issue(name, &["spiffe://test.example/machine"]);
    }
    stack
}

/// A client of the edge that shows that certificate.
fn client(stack: &Stack, certificate: Option<&str>) -> HttpClient {
    HttpClient::new(tls::client(stack.directory.path(), certificate, &[]))
}

fn thumbprint(stack: &Stack, certificate: &str) -> String {
    let pem = std::fs::read(stack.directory.path().join(format!("{certificate}.pem"))).expect("a file");
    let der = CertificateDer::from_pem_slice(&pem).expect("a certificate");
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&der))
}

fn bound(stack: &Stack, confirmation: Value) -> String {
    stack.issuer.token_with("alice", "whitelist:read", json!({"cnf": confirmation}))
}

/// A call of a tool that goes all the way to AWS: the status, and the body.
async fn call(stack: &Stack, client: &HttpClient, token: Option<&str>) -> Option<(u16, Value)> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}});
    let mut request = http::Request::post(format!("https://localhost:{}/mcp", stack.edge.port()))
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = client.send(request.body(body.to_string().into_bytes()).expect("a request")).await.ok()?;
    Some((answer.status().as_u16(), serde_json::from_slice(answer.body()).expect("JSON")))
}

async fn served(stack: &Stack, client: &HttpClient, token: &str) {
    let (status, body) = call(stack, client, Some(token)).await.expect("an answer");
    assert_eq!((status, &body["result"]["isError"]), (200, &Value::from(false)), "{body:#}");
}

async fn refused(stack: &Stack, client: &HttpClient, token: &str, part: &str) {
    let (status, body) = call(stack, client, Some(token)).await.expect("an answer");
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 401 && message.contains(part), "{status} {body:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_comes_with_its_certificate_or_not_at_all() {
    let stack = start(OPTIONAL).await;
    let (machine, other, nobody) =
        (client(&stack, Some("machine")), client(&stack, Some("other")), client(&stack, None));
    let token = bound(&stack, json!({"x5t#S256": thumbprint(&stack, "machine")}));
    served(&stack, &machine, &token).await;
    // Also while the token is remembered as verified, and the other way round.
    for _ in 0..2 {
        refused(&stack, &other, &token, "bound to a client certificate").await;
        refused(&stack, &nobody, &token, "bound to a client certificate").await;
        served(&stack, &machine, &token).await;
    }
    let unseen = bound(&stack, json!({"x5t#S256": thumbprint(&stack, "machine")}));
    refused(&stack, &nobody, &unseen, "bound to a client certificate").await;
    served(&stack, &machine, &unseen).await;

    // A token that is bound to nothing needs no certificate, and one that is shown does no harm.
    served(&stack, &machine, &stack.token()).await;
    served(&stack, &nobody, &stack.token()).await;
    // A certificate alone is nobody.
    let (status, _) = call(&stack, &machine, None).await.expect("an answer");
    assert_eq!(status, 401);

    let metadata =
        stack.send(http::Method::GET, "/.well-known/oauth-protected-resource", None, &[], Vec::new()).await.json();
    assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], true);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bonds_stay_refused() {
    let stack = start(OPTIONAL).await;
    let machine = client(&stack, Some("machine"));
    let own = thumbprint(&stack, "machine");
    for confirmation in [
        json!({"jkt": own}),
        json!({"jwk": {"kty": "EC"}}),
        json!({"x5t#S256": own, "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
        json!({"x5t": own}),
        json!({"x5t#S256": format!("{own}=")}),
        json!({"x5t#S256": ""}),
        json!({"x5t#S256": [own]}),
        json!({"x5t#S256": null}),
        json!({}),
        json!(own),
        json!(null),
    ] {
        refused(&stack, &machine, &bound(&stack, confirmation), "bound to a key").await;
    }
    // An edge that asks for no certificates sees none.
    let plain = start("").await;
    let token = bound(&plain, json!({"x5t#S256": thumbprint(&plain, "machine")}));
    refused(&plain, &client(&plain, Some("machine")), &token, "bound to a client certificate").await;
    stack.stop().await;
    plain.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_required_are_required_and_good() {
    let stack = start(REQUIRED).await;
    assert!(call(&stack, &client(&stack, None), Some(&stack.token())).await.is_none());
    served(&stack, &client(&stack, Some("machine")), &stack.token()).await;
    stack.authority.issue_until("ended", &["spiffe://test.example/machine"], 2024);
    assert!(call(&stack, &client(&stack, Some("ended")), Some(&stack.token())).await.is_none());
    stack.authority.revoke("ca.crl", &["other"]);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert!(call(&stack, &client(&stack, Some("other")), Some(&stack.token())).await.is_none());
    served(&stack, &client(&stack, Some("machine")), &stack.token()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_core_demands_the_same_match() {
    let stack = start("").await;
    let own = thumbprint(&stack, "machine");
    let token = bound(&stack, json!({"x5t#S256": own}));
    let send = async |certificate: &str, values: &[&str], token: Option<&str>| {
        let list = pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() };
        let mut request = Request::new(list);
        for value in values {
            request.metadata_mut().append("mcp-client-certificate", value.parse().expect("ASCII"));
        }
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        }
        let answer = stack.grpc(certificate).list_rules(request).await;
        answer.map(drop).map_err(|status| Refusal::of(&status))
    };
    assert!(send("edge", &[&own], Some(&token)).await.is_ok());
    for values in [&[][..], &[thumbprint(&stack, "other").as_str()]] {
        let refused = send("edge", values, Some(&token)).await.expect_err("another certificate");
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{values:?}");
    }
    for values in [&["x"][..], &[""], &[&own, &own]] {
        let refused = send("edge", values, Some(&token)).await.expect_err("no thumbprint");
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "CLIENT_CERTIFICATE_INVALID"),
            "{values:?}"
        );
    }
    let refused = send("ci-runner", &[&own], None).await.expect_err("no edge");
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::PermissionDenied, "CLIENT_CERTIFICATE_REFUSED"),
        "a service shows its own certificate and speaks of no other"
    );
    stack.stop().await;
}
