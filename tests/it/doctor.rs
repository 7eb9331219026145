//! The doctor: all is well, and then one thing after another is not.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::certificates::Authority;
use crate::support::collector::free_port;
use crate::support::issuer::{Issuer, Shape, signing_key};
use crate::support::processes::Processes;
use crate::support::{EDGE, GROUP, Ground, Options, eventually};

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

    fn count(&self, part: &str) -> usize {
        self.said.lines().filter(|line| line.contains(part)).count()
    }
}

fn doctor(service: &Processes, file: &str, environment: &[(&str, &str)]) -> Visit {
    let at = service.path();
    let (ca, url) = (at.join("ca.pem"), format!("https://localhost:{}/mcp", service.edge_port));
    visit(&at.join(file), &["--ca", ca.to_str().expect("a path"), "--url", &url], environment)
}

fn visit(config: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Visit {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    command.arg("doctor").arg("--config").arg(config).args(arguments);
    let output = command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").envs(environment.iter().copied()).output();
    let output = output.expect("it runs");
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
    // What is throttled says nothing of the trust policy. The SDK asks three times by itself.
    for _ in 0..3 {
        aws.fail("AssumeRole", Fault::Refuse(400, "Throttling"));
    }
    let visit = doctor(&service, "core.toml", &[]);
    visit.has("WRONG", &["aws.trust", "Throttling", "the way to STS"]);
    assert!(!visit.said.contains("external_id"), "{}", visit.said);
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
    let visit = doctor(&service, "other.toml", &[]);
    visit.has("WRONG", &["journal", "which `[audit] journal` names"]);
    assert_eq!(visit.count("  journal  "), 1, "one line says it: {}", visit.said);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_asks_its_core_as_it_would_call_it() {
    let aws = AwsDouble::start().await;
    let options = Options { shutdown: "lame_duck = \"2m\"", ..Options::default() };
    let mut service = Processes::start(&aws.access(), &options, &[]).await;
    let at = service.path().display().to_string();
    let backend = |name: &str, ca: &str| {
        let own = format!("certificate = \"{at}/edge.pem\"\nkey = \"{at}/edge.key\"\nca = \"{at}/ca.pem\"");
        let other = format!("certificate = \"{at}/{name}.pem\"\nkey = \"{at}/{name}.key\"\nca = \"{at}/{ca}\"");
        changed(&service, "edge.toml", &own, &other);
        doctor(&service, "other.toml", &[])
    };
    eventually("it is ready", async || doctor(&service, "edge.toml", &[]).sound.then_some(())).await;
    let visit = doctor(&service, "edge.toml", &[]);
    visit.has("ok", &["core ", "is ready"]);
    visit.has("ok", &["core.peers", "knows this edge"]);
    doctor(&service, "core.toml", &[]).has("ok", &["core.listen", "shows the core's certificate"]);

    let others = Authority::unpublished(service.path());
    others.publish("other-ca.pem");
    others.issue("foreign", &[EDGE, "localhost"]);
    backend("edge", "other-ca.pem").has("WRONG", &["core ", "does not come from", "other-ca.pem"]);
    backend("foreign", "ca.pem").has("WRONG", &["core ", "does not take the edge's certificate", "client_ca"]);
    backend("stranger", "ca.pem").has("WRONG", &["core.peers", "[[core.peers]]", "spiffe://test.example/stranger"]);
    backend("ci-runner", "ca.pem").has("WRONG", &["core.peers", "known as a service, not as an edge"]);
    let port = service.core_port;
    changed(&service, "edge.toml", &format!("localhost:{port}"), &format!("127.0.0.1:{port}"));
    doctor(&service, "other.toml", &[]).has("WRONG", &["core ", "another name", "server_name"]);
    changed(&service, "core.toml", &format!("{at}/core.pem"), &format!("{at}/reader.pem"));
    doctor(&service, "other.toml", &[]).has("WRONG", &["core.listen", "another certificate"]);

    service.core.signal("TERM");
    eventually("it is not ready", async || {
        let visit = doctor(&service, "edge.toml", &[]);
        visit.said.lines().any(|line| line.starts_with("WRONG  core ") && line.contains("not ready")).then_some(())
    })
    .await;
    service.core.kill();
    doctor(&service, "edge.toml", &[]).has("WRONG", &["core ", "nobody listens there"]);
    let visit = doctor(&service, "core.toml", &[]);
    assert!(visit.sound, "{}", visit.said);
    visit.has("note", &["core.listen", "no core runs here"]);

    // Somebody listens and says nothing; somebody speaks, and not TLS.
    let mute = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
    let begun = Instant::now();
    doctor(&service, "edge.toml", &[]).has("WRONG", &["core ", "no answer within"]);
    doctor(&service, "core.toml", &[]).has("WRONG", &["core.listen", "says nothing"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    tokio::spawn(plain(mute));
    doctor(&service, "edge.toml", &[]).has("WRONG", &["core ", "does not speak TLS"]);
}

/// Answers everybody in plain text.
async fn plain(listener: tokio::net::TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap_or_default();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_not_known_is_told_before_all_else() {
    let aws = AwsDouble::start().await;
    let service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    let url = format!("https://localhost:{}/mcp", service.edge_port);
    let visit = visit(&service.path().join("edge.toml"), &["--url", &url], &[]);
    visit.has("WRONG", &["edge ", "--ca FILE"]);
    assert_eq!((visit.count("proxy"), visit.count("  edge.")), (0, 2), "the certificates' lines: {}", visit.said);

    // A receiver of telemetry, the edge for once: by the CA that is named, and by the system's.
    let receiver = format!("https://localhost:{}", service.edge_port);
    let ca = service.path().join("ca.pem").display().to_string();
    let named = [("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.as_str()), ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str())];
    doctor(&service, "core.toml", &named).has("ok", &["collector", &receiver, "can be reached"]);
    doctor(&service, "core.toml", &named[..1]).has("WRONG", &["collector", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_is_looked_at_as_the_service_looks_at_it() {
    let aws = AwsDouble::start().await;
    let service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    let (own, other) = (&service.ground.issuer.url, Issuer::start().await);
    let leading = async |metadata: Value| Issuer::shaped(Shape { metadata, ..Shape::default() }).await;
    let told = |issuer: &Issuer, more: &str| {
        let (from, to) = (format!("issuer = \"{own}\""), format!("issuer = \"{}\"{more}", issuer.url));
        changed(&service, "edge.toml", &from, &to);
        doctor(&service, "other.toml", &[])
    };
    // Whoever writes metadata does not choose whom the service asks.
    let astray = leading(json!({"jwks_uri": format!("{}/jwks", other.url)})).await;
    told(&astray, "").has("WRONG", &["issuer", "neither on its own origin nor in `origins`", "list its origin"]);
    assert_eq!(other.asked(), 0, "nor does doctor ask there");
    told(&astray, &format!("\norigins = [\"{}\"]", other.url)).has("ok", &["issuer", "1 keys"]);
    told(&leading(json!({"jwks_uri": null})).await, "").has("WRONG", &["issuer", "has no `jwks_uri`"]);
    // A key that is for something else counts for nothing.
    let (_, mut key) = signing_key("k1");
    key["use"] = "enc".into();
    other.publish(json!({"keys": [key]}));
    told(&other, "").has("WRONG", &["issuer", "no key that a signature can be verified by"]);
    told(&leading(json!({})).await, "\nalgorithms = [\"RS256\"]").has("WRONG", &["issuer", "no key", "RS256"]);

    let secret = service.ground.directory.write("client-secret", "s3cret").display().to_string();
    let opaque =
        format!("\ntokens = \"opaque\"\nintrospection = {{ client_id = \"edge\", client_secret_file = \"{secret}\" }}");
    told(&other, &opaque).has("ok", &["issuer", "opaque tokens, asked at", "/introspect"]);
    let astray = leading(json!({"introspection_endpoint": "https://elsewhere.example/introspect"})).await;
    told(&astray, &opaque).has("WRONG", &["issuer", "https://elsewhere.example/introspect", "list its origin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_is_asked_by_its_public_name_wherever_it_is() {
    let aws = AwsDouble::start().await;
    let service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    // Neither its certificate nor `allowed_hosts` knows the address.
    let ca = service.path().join("ca.pem").display().to_string();
    let url = format!("https://127.0.0.1:{}/", service.edge_port);
    let inside = visit(&service.path().join("edge.toml"), &["--url", &url, "--ca", &ca], &[]);
    assert!(inside.sound, "{}", inside.said);
    inside.has("ok", &["edge.endpoint", "/mcp asks for a token"]);

    // Behind what ends TLS it speaks plainly, and is asked in the same name.
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&hosts);
    let answer = async move |headers: http::HeaderMap| {
        heard.lock().expect("not poisoned").push(headers["host"].to_str().expect("text").to_owned());
        http::StatusCode::NOT_FOUND
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    changed(
        &service,
        "edge.toml",
        "public_url = \"https://localhost/mcp\"",
        "public_url = \"https://whitelist.example.com/mcp\"",
    );
    let other = service.path().join("other.toml");
    tokio::task::block_in_place(|| visit(&other, &["--url", &plain], &[]))
        .has("WRONG", &["edge.endpoint", "answers 404"]);
    let hosts = hosts.lock().expect("not poisoned").clone();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| host == "whitelist.example.com"), "{hosts:?}");
    // And never over a wire.
    visit(&other, &["--url", "http://192.0.2.1/"], &[]).has("WRONG", &["edge ", "http to a loopback address"]);
}

/// A core's file that needs nobody: no AWS, no issuer.
fn core_alone(ground: &Ground) -> String {
    let at = ground.directory.path().display();
    let config = format!(
        "[core]\nlisten = \"127.0.0.1:0\"\nclient_ca = \"{at}/ca.pem\"\n[core.tls]\ncertificate = \"{at}/core.pem\"\nkey = \"{at}/core.key\"\n[audit]\ndirectory = \"{at}/journal\"\nvolume = \"persistent\"\n"
    );
    ground.directory.write("alone.toml", &config);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_are_asked_by_each_signals_own_variable_and_shown_without_passwords() {
    let ground = Ground::new(&Options::default()).await;
    core_alone(&ground);
    let config = ground.directory.path().join("alone.toml");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(plain(listener));

    let endpoint = format!("https://u:secret-word@127.0.0.1:{port}/?key=secret-word#secret-word");
    let tls = visit(&config, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    tls.has("WRONG", &["collector", &format!("https://127.0.0.1:{port}: "), "no TLS comes about"]);
    assert!(!tls.said.contains("secret-word") && tls.count("collector") == 1, "{}", tls.said);
    let broken = visit(&config, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "u:secret-word@collector:4317")]);
    broken.has("WRONG", &["collector", "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL"]);
    assert!(!broken.said.contains("secret-word"), "{}", broken.said);

    for signal in ["TRACES", "METRICS", "LOGS"] {
        let variable = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let alone = visit(&config, &[], &[(&variable, &format!("http://127.0.0.1:{port}"))]);
        alone.has("ok", &["collector", "can be reached"]);
        assert!(alone.sound && alone.count("collector") == 1, "{}", alone.said);
    }
    let two = visit(
        &config,
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{port}")),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &format!("http://127.0.0.1:{}", free_port())),
        ],
    );
    two.has("ok", &["collector", "can be reached"]);
    two.has("WRONG", &["collector", "nobody listens"]);
    assert_eq!(two.count("collector"), 2, "{}", two.said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_could_not_be_kept_is_told() {
    let ground = Ground::new(&Options::default()).await;
    let at = ground.directory.path().display().to_string();
    let config = core_alone(&ground);
    let file = ground.directory.path().join("alone.toml");
    let fresh = visit(&file, &[], &[]);
    assert!(fresh.sound, "{}", fresh.said);
    fresh.has("note", &["journal", "the core makes it"]);
    for place in ["/etc/hostname", "/etc/hostname/journal"] {
        ground.directory.write("other.toml", &config.replace(&format!("{at}/journal"), place));
        let visit = visit(&ground.directory.path().join("other.toml"), &[], &[]);
        visit.has("WRONG", &["journal", "/etc/hostname is not a directory"]);
        assert_eq!(visit.count("  journal  "), 1, "{}", visit.said);
    }
    ground.directory.write("bad-key.pem", "this is no key");
    for key in ["missing-key.pem", "bad-key.pem"] {
        let with = config.replace("[audit]\n", &format!("[audit]\nsigning_key = \"{at}/{key}\"\n"));
        ground.directory.write("other.toml", &with);
        visit(&ground.directory.path().join("other.toml"), &[], &[])
            .has("WRONG", &["journal", key, "the core does not start"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_the_journals_place_holds_nobody_up() {
    let ground = Ground::new(&Options::default()).await;
    core_alone(&ground);
    let journal = ground.directory.path().join("journal");
    std::fs::create_dir_all(&journal).expect("a directory");
    let chain = "journal-01980000-0000-7000-8000-000000000001";
    for name in [&format!("{chain}-000001.jsonl"), &format!("{chain}.lock"), "journal-id", "journal-key.pem"] {
        let made = Command::new("mkfifo").arg(journal.join(name)).status().expect("mkfifo runs");
        assert!(made.success(), "{name}");
    }
    let begun = Instant::now();
    let visit = visit(&ground.directory.path().join("alone.toml"), &[], &[]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    visit.has("ok", &["core.tls"]);
    visit.has("WRONG", &["journal", "not as they were written"]);
    visit.has("WRONG", &["journal", "journal-key.pem", "the core does not start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told() {
    let ground = Ground::new(&Options::default()).await;
    core_alone(&ground);
    let journal = ground.directory.path().join("journal");
    std::fs::create_dir_all(&journal).expect("a directory");
    let script = format!(
        "mount -t tmpfs -o size=64k tmpfs {journal} || exit 1; cat /dev/zero >{journal}/full; {binary} doctor --config {config}; {binary} check --config {config}; ls -A {journal}",
        journal = journal.display(),
        binary = env!("CARGO_BIN_EXE_whitelistmcp"),
        config = ground.directory.path().join("alone.toml").display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &script])
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .stdin(Stdio::null())
        .output()
        .expect("a namespace; the tests run as root");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["journal", "audit"] {
        let told = |line: &str| line.starts_with(&format!("WRONG  {part} ")) && line.contains("is full");
        assert!(said.lines().any(told), "{part}: {said}");
    }
    assert!(said.ends_with("\nfull\n"), "nothing is left behind: {said}");
}
