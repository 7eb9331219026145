//! TLS as a stranger judges it: every version, suite and known weakness that sslyze tries, at the core and at the edge.

use std::process::Command;

use serde_json::Value;

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack, emulator};

/// What is asked for by the scan's own names; everything that has a verdict, except for the certificate itself.
const SCANS: [&str; 15] = [
    "--sslv2",
    "--sslv3",
    "--tlsv1",
    "--tlsv1_1",
    "--tlsv1_2",
    "--tlsv1_3",
    "--compression",
    "--reneg",
    "--heartbleed",
    "--robot",
    "--openssl_ccs",
    "--fallback",
    "--early_data",
    "--elliptic_curves",
    "--ems",
];

/// sslyze's verdict on that port.
async fn judged(stack: &Stack, port: u16, certificate: Option<&str>) -> Value {
    let mut command = Command::new(emulator::tool("sslyze/bin/sslyze"));
    command.args(SCANS).args(["--mozilla_config=disable", "--json_out=-"]);
    if let Some(name) = certificate {
        let at = stack.directory.path();
        command.arg("--cert").arg(at.join(format!("{name}.pem"))).arg("--key").arg(at.join(format!("{name}.key")));
    }
    command.arg(format!("localhost:{port}"));
    let said = tokio::task::spawn_blocking(move || emulator::output(&mut command)).await.expect("no panic");
    serde_json::from_str(&said).expect("JSON")
}

/// The suites that a server accepts under a version; none where it does not speak it.
fn suites(said: &Value, version: &str) -> Vec<String> {
    let result = &scan(said, &format!("{version}_cipher_suites"));
    let suites = result["accepted_cipher_suites"].as_array().expect("a list");
    assert_eq!(result["is_tls_version_supported"], !suites.is_empty(), "{version}");
    let mut names: Vec<_> =
        suites.iter().map(|suite| suite["cipher_suite"]["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// What one scan came to; one that did not come to an end fails the test.
fn scan(said: &Value, name: &str) -> Value {
    let scan = &said["server_scan_results"][0]["scan_result"][name];
    assert_eq!(scan["status"], "COMPLETED", "{name}: {scan:#}");
    scan["result"].clone()
}

fn client_certificate(said: &Value) -> &str {
    said["server_scan_results"][0]["connectivity_result"]["client_auth_requirement"].as_str().expect("a word")
}

const TLS13_SUITES: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// What must hold of both listeners, whatever is configured.
fn assert_sound(said: &Value) {
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        assert!(suites(said, version).is_empty(), "{version}");
    }
    assert_eq!(suites(said, "tls_1_3"), TLS13_SUITES);
    for (name, verdict) in [
        ("tls_compression", ("supports_compression", Value::from(false))),
        ("tls_1_3_early_data", ("supports_early_data", false.into())),
        ("openssl_ccs_injection", ("is_vulnerable_to_ccs_injection", false.into())),
        ("heartbleed", ("is_vulnerable_to_heartbleed", false.into())),
        ("robot", ("robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into())),
        ("tls_fallback_scsv", ("supports_fallback_scsv", true.into())),
        ("session_renegotiation", ("is_vulnerable_to_client_renegotiation_dos", false.into())),
        ("tls_extended_master_secret", ("supports_ems_extension", true.into())),
    ] {
        let (key, wanted) = verdict;
        assert_eq!(scan(said, name)[key], wanted, "{name}");
    }
    let curves = scan(said, "elliptic_curves")["supported_curves"].clone();
    let curves: Vec<_> = curves.as_array().expect("a list").iter().filter_map(|curve| curve["name"].as_str()).collect();
    assert_eq!(curves, ["X25519", "secp256r1", "secp384r1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslyze_finds_tls_1_3_alone_and_a_certificate_demanded_at_the_core() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let said = judged(&stack, stack.core.port(), Some("ci-runner")).await;
    assert_sound(&said);
    assert!(suites(&said, "tls_1_2").is_empty());
    let said = judged(&stack, stack.core.port(), None).await;
    assert_eq!(client_certificate(&said), "REQUIRED");

    let said = judged(&stack, stack.edge.port(), None).await;
    assert_sound(&said);
    assert!(suites(&said, "tls_1_2").is_empty());
    assert_eq!(client_certificate(&said), "DISABLED");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslyze_finds_tls_1_2_at_the_edge_when_asked_for_and_no_weak_suite() {
    let keys = "tls_minimum = \"1.2\"\nclient_ca = \"{at}/ca.pem\"\nclient_certificates = \"required\"";
    let options = Options { edge_extra: keys, ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    let said = judged(&stack, stack.edge.port(), Some("ci-runner")).await;
    assert_sound(&said);
    assert_eq!(
        suites(&said, "tls_1_2"),
        [
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
        ]
    );
    let said = judged(&stack, stack.edge.port(), None).await;
    assert_eq!(client_certificate(&said), "REQUIRED");
    stack.stop().await;
}
