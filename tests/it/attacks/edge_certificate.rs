//! A stolen edge certificate alone can do nothing: every RPC, by whoever holds it, with everything but a person's token.

use tonic::metadata::MetadataMap;

use super::*;

/// A call of the core with no message in it, by method name, as whoever holds that certificate.
async fn call(stack: &Stack, certificate: &str, path: &str, metadata: &MetadataMap) -> Refusal {
    let mut grpc = tonic::client::Grpc::new(stack.channel(certificate));
    grpc.ready().await.expect("the core listens");
    let mut request = Request::new(prost_types::Any::default());
    *request.metadata_mut() = metadata.clone();
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<prost_types::Any, prost_types::Any>::default();
    Refusal::of(&grpc.unary(request, path, codec).await.expect_err("refused"))
}

/// The paths of every RPC that the embedded descriptors hold.
fn every_rpc() -> Vec<String> {
    let pool = prost_reflect::DescriptorPool::decode(whitelistmcp::pb::DESCRIPTOR_SET).expect("descriptors");
    let services: Vec<_> = pool.services().collect();
    let rpcs = services.iter().flat_map(|service| {
        service.methods().map(|method| format!("/{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
    });
    let rpcs: Vec<String> = rpcs.collect();
    for service in SERVED {
        assert!(rpcs.iter().any(|path| path.starts_with(service)), "{service}: {rpcs:?}");
    }
    rpcs
}

/// The services that this core serves.
const SERVED: [&str; 3] = ["/whitelistmcp.v1.WhitelistService/", "/mcp.v1.Approvals/", "/mcp.v1.Catalogue/"];

fn is_served(path: &str) -> bool {
    SERVED.iter().any(|service| path.starts_with(service))
}

/// How a call is refused that has no good token: as nobody's, or as one of a service that is not there at all.
fn without_a_token(path: &str) -> Code {
    if is_served(path) { Code::Unauthenticated } else { Code::Unimplemented }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_edge_certificate_alone_can_do_nothing() {
    let (aws, stack) = ordinary().await;
    let (forger, _) = signing_key("k1");
    let claims = stack.issuer.claims("alice", "whitelist:write");
    let forged = jsonwebtoken::encode(&header(), &claims, &forger).expect("a token");
    let expired = stack.issuer.token_with("alice", "whitelist:write", json!({"exp": now() - 60}));
    let elsewhere = stack.issuer.token_with("alice", "whitelist:write", json!({"aud": "https://other.example"}));
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let attempts: [Vec<(&'static str, String)>; 9] = [
        vec![],
        vec![bearer(&forged)],
        vec![bearer(&expired)],
        vec![bearer(&elsewhere)],
        vec![("authorization", "Basic YWxpY2U6YQ==".to_owned())],
        vec![("authorization", "Bearer ".to_owned())],
        vec![("mcp-client-address", "203.0.113.7".to_owned())],
        // As a service would be known, or as if somebody in front had checked already.
        vec![
            ("x-peer", "spiffe://test.example/ci-runner".to_owned()),
            ("x-forwarded-client-cert", "URI=spiffe://test.example/ci-runner".to_owned()),
        ],
        vec![
            ("x-scopes", "whitelist:write".to_owned()),
            ("x-principal", "alice".to_owned()),
            bearer("wlk_000000000000_0"),
        ],
    ];
    for path in every_rpc() {
        for attempt in &attempts {
            let mut metadata = MetadataMap::new();
            for (name, value) in attempt {
                metadata.insert(*name, value.parse().expect("ASCII"));
            }
            let refused = call(&stack, "edge", &path, &metadata).await;
            assert_eq!(refused.code, without_a_token(&path), "{path} {attempt:?}: {refused:?}");
        }
        let mut twice = MetadataMap::new();
        twice.append("authorization", format!("Bearer {}", stack.token()).parse().expect("ASCII"));
        twice.append("authorization", format!("Bearer {forged}").parse().expect("ASCII"));
        let refused = call(&stack, "edge", &path, &twice).await;
        assert_eq!(refused.code, without_a_token(&path), "{path}: {refused:?}");
    }
    assert!(aws.actions().is_empty(), "{:?}", aws.actions());
    let entries = stack.journal();
    assert!(!entries.iter().any(|entry| entry["type"] == "begin" && entry["changes"] == true), "{entries:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_an_edge_s_certificate_does_not_reach_the_core() {
    let (aws, stack) = ordinary().await;
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {}", stack.token()).parse().expect("ASCII"));
    for path in every_rpc() {
        for certificate in ["ci-runner", "stranger"] {
            let refused = call(&stack, certificate, &path, &metadata).await;
            let expected = if is_served(&path) { Code::PermissionDenied } else { Code::Unimplemented };
            assert_eq!(refused.code, expected, "{path} {certificate}: {refused:?}");
        }
    }
    assert!(aws.actions().is_empty());
    stack.stop().await;
}
