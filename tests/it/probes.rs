//! `[health] listen`, and `whitelistmcp health`, which asks the service that runs on this host.

use std::process::{Command, Stdio};
use std::time::Duration;

use whitelistmcp::http_client;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::collector::free_port;
use crate::support::issuer::Issuer;
use crate::support::processes::{Process, listens};
use crate::support::temporary::Directory;
use crate::support::{Ground, Options, core_file, edge_file, eventually, send};

/// What `health` says, and whether it found the service well.
fn health(arguments: &[&str], environment: &[(String, String)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    let begun = std::time::Instant::now();
    command.env_clear().envs(environment.iter().cloned()).arg("health").args(arguments).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}: {said}", begun.elapsed());
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    (output.status.success(), said)
}

async fn plain(port: u16, method: http::Method, path: &str) -> (u16, String) {
    let http = http_client::HttpClient::new(whitelistmcp::tls::public_client(None).expect("roots"));
    let answer = send(&http, method, format!("http://127.0.0.1:{port}{path}"), None, &[], Vec::new()).await;
    let answer = answer.expect("an answer");
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_have_an_address_of_their_own_and_go_last() {
    let aws = AwsDouble::start().await;
    let (core_probes, edge_probes) = (free_port(), free_port());
    let options = Options { shutdown: "grace = \"20s\"\nlame_duck = \"1s\"", ..Options::default() };
    let ground = Ground::new(&options).await;
    let directory = &ground.directory;
    let (core_port, edge_port) = (free_port(), free_port());
    let probes = |text: String, port: u16| match text.contains("[health]\n") {
        true => text.replacen("[health]\n", &format!("[health]\nlisten = \"0.0.0.0:{port}\"\n"), 1),
        false => format!("{text}[health]\nlisten = \"0.0.0.0:{port}\"\n"),
    };
    let core = core_file(directory, &aws.access(), &options, &ground.issuer, core_port);
    let core = directory.write("core.toml", &probes(core, core_probes)).display().to_string();
    let edge = edge_file(directory, &options, &ground.issuer, edge_port, core_port);
    let edge = directory.write("edge.toml", &probes(edge, edge_probes)).display().to_string();

    // Before anything runs there is nothing that is well.
    let (well, said) = health(&["--config", &core], &[]);
    assert!(!well && said.contains("no answer from"), "{said}");

    let mut processes = [
        Process::start(&["core", "--config", &core], &[], directory.path().join("core.log")),
        Process::start(&["edge", "--config", &edge], &[], directory.path().join("edge.log")),
    ];
    for port in [core_probes, edge_probes] {
        listens(port, || format!("{}\n{}", processes[0].log(), processes[1].log())).await;
    }
    for (port, config) in [(core_probes, &core), (edge_probes, &edge)] {
        assert_eq!(plain(port, http::Method::GET, "/livez").await, (200, "ok".to_owned()));
        let ready = async || (plain(port, http::Method::GET, "/readyz").await.0 == 200).then_some(());
        eventually("it is ready", ready).await;
        let (status, body) = plain(port, http::Method::GET, "/health").await;
        assert!(status == 200 && body.contains("\"healthy\""), "{body}");
        // Nothing else is there, whoever asks and however.
        for path in ["/", "/mcp", "/metrics", "/approvals", "/.well-known/oauth-protected-resource"] {
            assert_eq!(plain(port, http::Method::GET, path).await.0, 404, "{path}");
        }
        assert_eq!(plain(port, http::Method::POST, "/livez").await.0, 405);
        assert!(!plain(port, http::Method::GET, "/readyz").await.1.contains("journal"));
        let (well, said) = health(&["--config", config], &[]);
        assert!(well && said.contains("/livez says that it is alive"), "{said}");
        let (well, said) = health(&["--config", config, "--ready"], &[]);
        assert!(well && said.contains("/readyz says that it is ready"), "{said}");
        let named = [("WHITELISTMCP_CONFIG".to_owned(), config.clone())];
        assert!(health(&["--live"], &named).0);
    }

    // While the core drains it is alive and not ready, and a probe hears so until the end.
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(6)));
    let token = ground.issuer.token("alice", "whitelist:read");
    let call = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}});
    let ca = directory.path().join("ca.pem");
    let client = whitelistmcp::tls::public_client(Some(&ca)).expect("the CA");
    let client = http_client::HttpClient::of(http_client::pooled(client, http_client::IDLE), Duration::from_secs(30));
    let uri = format!("https://localhost:{edge_port}/mcp");
    let calling = tokio::spawn(async move {
        send(&client, http::Method::POST, uri, Some(&token), &[], call.to_string().into_bytes()).await
    });
    eventually("the call is with AWS", async || {
        aws.actions().iter().any(|action| action == "DescribeSecurityGroupRules").then_some(())
    })
    .await;
    processes[0].signal("TERM");
    let not_ready = async || (!health(&["--config", &core, "--ready"], &[]).0).then_some(());
    eventually("it says that it drains", not_ready).await;
    // The core itself takes nothing any more, and its probes are still answered.
    eventually("the core takes no connections", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", core_port)).await.is_err().then_some(())
    })
    .await;
    let (well, said) = health(&["--config", &core], &[]);
    assert!(well, "{said}");
    assert_eq!(plain(core_probes, http::Method::GET, "/readyz").await, (503, "not ready".to_owned()));
    let answer = calling.await.expect("no panic").expect("an answer");
    assert!(answer.status == 200 && answer.json()["result"]["isError"] == false, "{answer:?}");
    assert!(processes[0].end_within(Duration::from_secs(20)).await.success(), "{}", processes[0].log());
    assert!(!health(&["--config", &core], &[]).0, "it is gone");
    // An edge without its core is alive and not ready.
    let not_ready = async || (!health(&["--config", &edge, "--ready"], &[]).0).then_some(());
    eventually("the edge misses its core", not_ready).await;
    assert!(health(&["--config", &edge], &[]).0);
    processes[1].signal("TERM");
    assert!(processes[1].end_within(Duration::from_secs(20)).await.success(), "{}", processes[1].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_asked_where_it_listens_and_known_by_its_own_certificate() {
    let aws = AwsDouble::start().await;
    let options = Options::default();
    let ground = Ground::new(&options).await;
    let (directory, port) = (&ground.directory, free_port());
    let text = edge_file(directory, &options, &ground.issuer, port, free_port());
    let text = text.replacen("listen = \"127.0.0.1:", "listen = \"0.0.0.0:", 1);
    let file = directory.write("edge.toml", &text).display().to_string();
    let mut edge = Process::start(&["edge", "--config", &file], &[], directory.path().join("edge.log"));
    listens(port, || edge.log()).await;
    let (well, said) = health(&["--config", &file], &[]);
    assert!(well && said.contains(&format!("https://127.0.0.1:{port}/livez")), "{said}");
    // A good certificate of the same CA is not that one.
    let another = text.replacen("[edge.tls]\ncertificate = \"", "[edge.tls]\ncertificate = \"x", 1);
    let another = another.replace(
        &format!("\"x{}/edge.pem\"", directory.path().display()),
        &format!("\"{}/core.pem\"", directory.path().display()),
    );
    assert!(another.contains("core.pem"), "{another}");
    let another = directory.write("another.toml", &another).display().to_string();
    let (well, said) = health(&["--config", &another], &[]);
    assert!(!well && said.contains("no answer from"), "{said}");
    // Where the CA is not the system's, a URL from outside is not believed.
    let (well, said) = health(&["--url", &format!("https://localhost:{port}")], &[]);
    assert!(!well, "{said}");
    let (well, said) = health(&["--url", "http://192.0.2.1:80"], &[]);
    assert!(!well && said.contains("neither https nor http to a loopback"), "{said}");
    edge.kill();
    drop(aws);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_the_environment_alone_is_asked_by_it() {
    let (aws, issuer, directory, port) =
        (AwsDouble::start().await, Issuer::start().await, Directory::new(), free_port());
    let mut environment = crate::mode::remote(&aws, &issuer, &directory, port);
    let mut server = Process::start(&[], &environment, directory.path().join("server.log"));
    listens(port, || server.log()).await;
    let (well, said) = health(&[], &environment);
    assert!(well && said.contains(&format!("http://127.0.0.1:{port}/livez")), "{said}");
    let (well, said) = health(&["--url", &format!("http://localhost:{port}"), "--ready"], &[]);
    assert!(well, "{said}");
    server.kill();
    assert!(!health(&[], &environment).0);
    // Somebody takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
    let (well, said) = tokio::task::spawn_blocking({
        let environment = environment.clone();
        move || health(&[], &environment)
    })
    .await
    .expect("no panic");
    assert!(!well && said.contains("no whole answer"), "{said}");
    drop(silent);

    environment.retain(|(name, _)| !name.starts_with("WHITELISTMCP_EDGE__"));
    let (well, said) = health(&[], &environment);
    assert!(!well && said.contains("set `[health] listen"), "{said}");
    environment.push(("WHITELISTMCP_HEALTH__LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
    let (well, said) = health(&[], &environment);
    assert!(!well && said.contains("has port 0"), "{said}");
}
