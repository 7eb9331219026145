//! The doctor: all is well, and then one thing after another is not.

use std::process::Command;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::processes::Processes;
use crate::support::{GROUP, Options};

struct Visit {
    sound: bool,
    said: String,
}

impl Visit {
    fn has(&self, verdict: &str, parts: &[&str]) {
        let found =
            self.said.lines().any(|line| line.starts_with(verdict) && parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line `{verdict}` with {parts:?}:\n{}", self.said);
    }
}

fn doctor(service: &Processes, file: &str, environment: &[(&str, &str)]) -> Visit {
    let at = service.path();
    let output = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["doctor", "--config"])
        .arg(at.join(file))
        .arg("--ca")
        .arg(at.join("ca.pem"))
        .args(["--url", &format!("https://localhost:{}/mcp", service.edge_port)])
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .envs(environment.iter().copied())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Visit { sound: output.status.success(), said }
}

/// The configuration with something else in it.
fn changed(service: &Processes, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(service.path().join(file)).expect("text");
    assert!(text.contains(from), "{from}: {text}");
    service.ground.directory.write("other.toml", &text.replacen(from, to, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_says_what_is_wrong_and_what_to_do() {
    let aws = AwsDouble::start().await;
    let mut service = Processes::start(&aws.access(), &Options::default(), &[]).await;

    // All is well.
    let edge = doctor(&service, "edge.toml", &[]);
    assert!(edge.sound, "{}", edge.said);
    edge.has("ok", &["edge.metadata", "https://localhost/mcp"]);
    edge.has("ok", &["edge.endpoint", "/mcp asks for a token"]);
    edge.has("ok", &["issuer", "keys"]);
    edge.has("ok", &["audience"]);
    let core = doctor(&service, "core.toml", &[]);
    assert!(core.sound, "{}", core.said);
    core.has("ok", &["aws.trust", "eu-central-1"]);
    core.has("ok", &["aws.group", "staging-db"]);
    core.has("ok", &["clock", "AWS"]);
    core.has("ok", &["journal", "nothing speaks against"]);
    core.has("note", &["collector"]);
    assert!(aws.history().is_empty(), "nothing was changed");
    for secret in ["base-secret", "session-secret", "test-external-id"] {
        assert!(!core.said.contains(secret), "{secret}");
    }

    // One thing after another is not.
    changed(&service, "edge.toml", "audience = \"https://localhost/mcp\"", "audience = \"https://other/mcp\"");
    let visit = doctor(&service, "other.toml", &[]);
    assert!(!visit.sound);
    visit.has("WRONG", &["audience", "set `audience` and `public_url` alike"]);
    changed(
        &service,
        "edge.toml",
        "public_url = \"https://localhost/mcp\"",
        "public_url = \"https://localhost/elsewhere/mcp\"",
    );
    doctor(&service, "other.toml", &[]).has("WRONG", &["edge.metadata"]);
    changed(&service, "edge.toml", &service.ground.issuer.url, "http://127.0.0.1:9");
    doctor(&service, "other.toml", &[]).has("WRONG", &["issuer", "nobody can log in"]);

    // STS lends nothing without tags: each attempt with them is refused.
    aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
    let visit = doctor(&service, "core.toml", &[]);
    visit.has("WRONG", &["aws.trust", "must allow sts:TagSession"]);
    aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
    aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
    doctor(&service, "core.toml", &[]).has("WRONG", &["aws.trust", "must allow sts:SetSourceIdentity"]);
    for _ in 0..4 {
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
    }
    doctor(&service, "core.toml", &[]).has("WRONG", &["aws.trust", "external_id", "trust policy must name"]);
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(403, "UnauthorizedOperation"));
    doctor(&service, "core.toml", &[])
        .has("WRONG", &["aws.group", "UnauthorizedOperation", "the role's policy must allow"]);
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Refuse(400, "InvalidGroup.NotFound"));
    doctor(&service, "core.toml", &[]).has("WRONG", &["aws.group", GROUP, "is not there"]);
    aws.clock_offset(600);
    doctor(&service, "core.toml", &[]).has("WRONG", &["clock", "ahead of AWS", "NTP"]);
    aws.clock_offset(0);

    // What stands around it.
    let collector = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    doctor(&service, "core.toml", &collector).has("WRONG", &["collector", "audit replay"]);
    let text = std::fs::read_to_string(service.path().join("core.toml")).expect("text");
    service.ground.directory.write("other.toml", &(text + "[redis]\nurl = \"redis://127.0.0.1:9\"\n"));
    doctor(&service, "other.toml", &[]).has("WRONG", &["redis", "does not answer"]);
    changed(&service, "core.toml", "[audit]\n", "[audit]\njournal = \"01980000-0000-7000-8000-000000000000\"\n");
    doctor(&service, "other.toml", &[]).has("WRONG", &["journal", "which `[audit] journal` names"]);
    service.stop().await;
    let file = crate::support::journal_file(&service.path().join("journal"));
    let forged = std::fs::read_to_string(&file).expect("text").replacen("\"version\":\"", "\"version\":\"9", 1);
    std::fs::write(&file, forged).expect("written");
    doctor(&service, "core.toml", &[]).has("WRONG", &["journal", "not as they were written"]);
    let gone = doctor(&service, "edge.toml", &[]);
    gone.has("WRONG", &["edge.endpoint", "is it running"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_the_core_does_not_know_is_told() {
    let aws = AwsDouble::start().await;
    let service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    let at = service.path().display().to_string();
    // Both halves in one file, as for `serve`.
    let (core, edge) = (
        std::fs::read_to_string(service.path().join("core.toml")).expect("text"),
        std::fs::read_to_string(service.path().join("edge.toml")).expect("text"),
    );
    let edge = edge.split_once("[edge]").expect("a section").1.to_owned();
    let both = format!("{core}\n[edge]{edge}");
    service.ground.directory.write("both.toml", &both);
    doctor(&service, "both.toml", &[]).has("ok", &["core.peers", "spiffe://test.example/edge"]);
    service.ground.directory.write(
        "other.toml",
        &both.replace(
            &format!("certificate = \"{at}/edge.pem\"\nkey = \"{at}/edge.key\"\nca"),
            &format!("certificate = \"{at}/stranger.pem\"\nkey = \"{at}/stranger.key\"\nca"),
        ),
    );
    let visit = doctor(&service, "other.toml", &[]);
    visit.has("WRONG", &["core.peers", "[[core.peers]]"]);
}
