//! The bridge logs in: at a real provider, through a browser that a program stands in for, and with what it keeps afterwards.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::bridge::{Bridge, command, list};
use crate::support::aws_double::AwsDouble;
use crate::support::emulator::{self, Provider};
use crate::support::temporary::Directory;
use crate::support::{Options, Stack, eventually};

/// A stack whose edge stands where it says that it does, a provider that lets people in to it, and a person's machine.
struct Place {
    stack: Stack,
    provider: Provider,
    url: String,
    /// The person's home.
    home: Directory,
}

impl Place {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://localhost:{}/mcp", listener.local_addr().expect("an address").port());
        let provider = provider(&[&[("RESOURCE", url.as_str())], settings].concat());
        let options = Options {
            issuer_url: Some(provider.issuer()),
            audience: Some(url.clone()),
            public_url: Some(Box::leak(url.clone().into_boxed_str())),
            ..Options::default()
        };
        let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
        forward(listener, stack.edge);
        let place = Self { stack, provider, url, home: Directory::new() };
        let browser = emulator::demo("client/browser.py");
        place.opener(&format!("exec python3 {} \"$1\"", browser.display()));
        place
    }

    /// What opens a page on this machine. Each page is written down before.
    fn opener(&self, script: &str) {
        let directory = self.home.path().join("bin");
        std::fs::create_dir_all(&directory).expect("a directory");
        let text = format!("#!/bin/sh\necho \"$1\" >> {}\n{script}\n", self.home.path().join("opened").display());
        // A script that another process is about to start must not be open for writing.
        let (new, path) = (directory.join("new"), directory.join("xdg-open"));
        std::fs::write(&new, text).expect("a script");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("executable");
        std::fs::rename(new, path).expect("a script");
    }

    /// The pages that were opened.
    fn opened(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.path().join("opened")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The binary on this person's machine.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(words);
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", self.home.path().join("bin").display()));
        command.env("HOME", self.home.path()).arg("--ca").arg(self.stack.directory.path().join("ca.pem"));
        command.env("WHITELISTMCP_BRIDGE_STORE", "file");
        command
    }

    fn bridge(&self, more: &[&str]) -> Bridge {
        Bridge::spawn(self.command(&[&["bridge", &self.url], more].concat()))
    }

    async fn run(&self, words: &[&str]) -> (bool, String, String) {
        let output = self.command(words).output().await.expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// The one file that ends so.
    fn file(&self, ending: &str) -> PathBuf {
        let state = self.home.path().join(".local/state/whitelistmcp");
        let files = std::fs::read_dir(&state).expect("a directory").map(|file| file.expect("a file").path());
        files.into_iter().find(|file| file.extension().is_some_and(|found| found == ending)).expect("the file")
    }

    async fn end(self) {
        self.stack.stop().await;
        self.provider.end();
    }
}

fn provider(settings: &[(&str, &str)]) -> Provider {
    Provider::start(&[emulator::tool("node/node_modules/.bin/node"), emulator::demo("oidc/provider.mjs")], settings)
}

/// Leads every connection on to that address.
fn forward(listener: TcpListener, to: SocketAddr) {
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
}

/// Reads until that has been said.
async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), part: &str) -> String {
    let mut said = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&said).into_owned();
        if text.contains(part) {
            return text;
        }
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_buf(&mut said)).await.expect("in time");
        assert!(read.expect("it reads") > 0, "{text}");
    }
}

/// Calls a tool as whoever has logged in.
async fn called(bridge: &mut Bridge) -> Value {
    let answer = bridge.ask(json!(1), "tools/call", list()).await;
    assert_eq!(answer["result"]["isError"], false, "{answer:#}");
    answer
}

/// Calls a tool that cannot be called; the words.
async fn refused(bridge: &mut Bridge, code: i64) -> String {
    let answer = bridge.ask(json!(1), "tools/call", list()).await;
    assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(1), Some(code)), "{answer:#}");
    answer["error"]["message"].as_str().expect("words").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_logs_in_by_itself_and_the_next_one_asks_nobody() {
    let place = Place::new(&[]).await;
    let mut bridge = place.bridge(&[]);
    let first =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let begun = bridge.ask(json!(0), "initialize", first).await;
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25", "{begun:#}");
    let open = json!({"name": "whitelist_add", "arguments":
        {"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "trying"}});
    let opened = bridge.ask(json!(1), "tools/call", open).await;
    assert_eq!(opened["result"]["structuredContent"]["rule"]["holder"], "alice@example.test", "{opened:#}");
    let (rest, said) = bridge.end().await;
    assert_eq!(rest, "");
    // The page asks for what the server wants, for the server, and says who asks.
    let pages = place.opened();
    let page = url::Url::parse(pages.first().expect("a page")).expect("a URL");
    assert!(pages.len() == 1 && said.contains(page.as_str()), "{pages:?} {said}");
    let asked = |name: &str| page.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert_eq!(asked("resource").as_deref(), Some(place.url.as_str()));
    assert_eq!(asked("code_challenge_method").as_deref(), Some("S256"));
    assert!(asked("scope").is_some_and(|scope| scope.contains("whitelist:")), "{page}");
    // What is kept is this person's alone, and is in no words.
    let file = place.file("json");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().expect("a directory"))), (0o600, 0o700));
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    let login = &kept["logins"][0];
    assert_eq!(
        (kept["server"].as_str(), login["issuer"].as_str()),
        (Some(place.url.as_str()), Some(place.provider.issuer().as_str()))
    );
    for secret in [&login["access_token"], &login["refresh_token"]] {
        assert!(!said.contains(secret.as_str().expect("a token")), "{said}");
    }
    // The next one has it already, and sends it with its first request.
    let mut bridge = place.bridge(&["--no-login"]);
    called(&mut bridge).await;
    assert_eq!(bridge.end().await, (String::new(), String::new()));
    // Once it is forgotten, somebody has to log in again.
    assert!(place.run(&["logout", &place.url]).await.1.contains("logged out"));
    assert!(!file.exists() && place.run(&["logout", &place.url]).await.1.contains("nobody was logged in"));
    let mut bridge = place.bridge(&["--no-login"]);
    assert!(refused(&mut bridge, 401).await.contains(&format!("`whitelistmcp login {}`", place.url)));
    bridge.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_at_once_share_one_login() {
    let place = Place::new(&[]).await;
    let mut bridges: Vec<Bridge> = (0..5).map(|_| place.bridge(&[])).collect();
    for bridge in &mut bridges {
        bridge.say(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": list()}).to_string()).await;
    }
    for bridge in &mut bridges {
        let answer = bridge.hear().await;
        assert_eq!(answer["result"]["isError"], false, "{answer:#}");
    }
    assert_eq!(place.opened().len(), 1, "one page for all of them: {:?}", place.opened());
    for bridge in bridges {
        bridge.end().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_logs_in_over_a_socket_as_well() {
    let place = Place::new(&[]).await;
    let socket = place.url.replace("https:", "wss:").replace("/mcp", "/ws");
    for (url, pages) in [(&place.url, 1), (&socket, 2)] {
        let mut bridge = Bridge::spawn(place.command(&["bridge", url, "--transport", "websocket"]));
        for id in 0..5 {
            bridge.say(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": list()}).to_string()).await;
        }
        for _ in 0..5 {
            let answer = bridge.hear().await;
            assert_eq!(answer["result"]["isError"], false, "{url}: {answer:#}");
        }
        assert_eq!(place.opened().len(), pages, "{:?}", place.opened());
        bridge.end().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rights_are_asked_for_when_they_are_needed() {
    let place = Place::new(&[]).await;
    for (round, more) in [&[][..], &["--transport", "websocket"]].into_iter().enumerate() {
        let mut bridge = place.bridge(&[&["--scope", "whitelist:read"], more].concat());
        called(&mut bridge).await;
        let address = format!("203.0.113.{round}");
        let open = json!({"name": "whitelist_add", "arguments":
            {"security_group": "staging-db", "address": address, "port": "22", "reason": "trying"}});
        let opened = bridge.ask(json!(2), "tools/call", open).await;
        assert_eq!(opened["result"]["isError"], false, "{opened:#}");
        bridge.end().await;
        let scopes = place.opened().into_iter().skip(2 * round).map(|page| {
            let page = url::Url::parse(&page).expect("a URL");
            let scope = page.query_pairs().find(|(key, _)| key == "scope").expect("scopes").1.into_owned();
            scope.split(' ').map(str::to_owned).collect::<Vec<_>>()
        });
        let scopes: Vec<_> = scopes.collect();
        let [first, second] = scopes.as_slice() else { panic!("{scopes:?}") };
        let writes = |scopes: &[String]| scopes.iter().any(|scope| scope == "whitelist:write");
        assert!(!writes(first) && writes(second), "{scopes:?}");
        assert!(first.iter().all(|scope| second.contains(scope)), "nothing is given up: {scopes:?}");
        assert!(place.run(&["logout", &place.url]).await.0);
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_waits_holds_up_nobody_who_has_a_token() {
    let place = Place::new(&[("TTL", "4")]).await;
    let mut bridge = place.bridge(&[]);
    called(&mut bridge).await;
    place.opener("exit 0");
    let mut other =
        place.command(&["login", &place.url]).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    read_until(&mut other.stderr.take().expect("stderr"), "log in in the browser").await;
    let (done, _, said) = place.run(&["logout", &place.url]).await;
    assert!(!done && said.contains("waits for a login already") && said.contains("try again"), "{said}");
    // By then it would renew its token; the server lets it in with the old one for a while.
    tokio::time::sleep(Duration::from_secs(4)).await;
    called(&mut bridge).await;
    assert!(other.try_wait().expect("asked").is_none(), "somebody is still waited for");
    other.kill().await.expect("killed");
    bridge.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_logs_in_as_itself() {
    let place = Place::new(&[]).await;
    let secret = place.home.write("secret", "ci-secret\n");
    let (secret, issuer) = (secret.to_str().expect("a path"), place.provider.issuer());
    let person = ["--client-id", "ci", "--client-secret-file", secret, "--issuer", &issuer, "--no-login"];
    let words = [&person[..], &["--as-program"]].concat();
    let mut bridge = place.bridge(&words);
    called(&mut bridge).await;
    bridge.end().await;
    assert_eq!(place.opened(), Vec::<String>::new());
    // What the program was given is not the person's, though the client is the same.
    let mut bridge = place.bridge(&person);
    assert!(refused(&mut bridge, 401).await.contains("whitelistmcp login"));
    bridge.end().await;
    place.home.write("secret", "wrong");
    assert!(place.run(&["logout", &place.url]).await.0);
    let mut bridge = place.bridge(&words);
    let said = refused(&mut bridge, 401).await;
    assert!(said.contains("invalid_client") && !said.contains("wrong"), "{said}");
    bridge.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_to_its_own_issuer_alone() {
    let place = Place::new(&[]).await;
    let secret = place.home.write("secret", "ci-secret\n");
    // The one that the secret is for, which here is asked nothing: the server leads to another.
    let own = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let issuer = format!("http://{}", own.local_addr().expect("an address"));
    let words = ["--client-id", "ci", "--client-secret-file", secret.to_str().expect("a path"), "--issuer", &issuer];
    for more in [&["--as-program"][..], &[]] {
        let mut bridge = place.bridge(&[&words[..], more].concat());
        let said = refused(&mut bridge, 401).await;
        assert!(said.contains(&place.provider.issuer()) && said.contains(&issuer), "{said}");
        bridge.end().await;
    }
    assert_eq!(place.opened(), Vec::<String>::new());
    place.end().await;
}

/// A session bus with an open keychain, which ends with its stdin.
struct Keychain {
    bus: String,
    _leash: std::process::Child,
}

impl Keychain {
    fn start(home: &Directory) -> Self {
        let script = "mkdir -p \"$XDG_RUNTIME_DIR\" \"$XDG_DATA_HOME/keyrings\" && chmod 700 \"$XDG_RUNTIME_DIR\"
            printf '\\n' | gnome-keyring-daemon --unlock --foreground --components=secrets \\
                --control-directory=\"$XDG_RUNTIME_DIR/keyring\" >/dev/null 2>&1 &
            until dbus-send --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \\
                string:org.freedesktop.secrets | grep -q true; do sleep 0.1; done
            echo \"$DBUS_SESSION_BUS_ADDRESS\"; read -r end; kill %1";
        let mut command = std::process::Command::new("dbus-run-session");
        command.args(["--", "bash", "-c", script]).env("HOME", home.path());
        for name in ["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            command.env(name, home.path().join(name));
        }
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null());
        let mut leash = command.spawn().expect("it starts");
        let mut bus = String::new();
        let mut output = std::io::BufReader::new(leash.stdout.take().expect("stdout"));
        std::io::BufRead::read_line(&mut output, &mut bus).expect("its address");
        Self { bus: bus.trim().to_owned(), _leash: leash }
    }

    /// What is kept of a server.
    async fn kept(&self, url: &str) -> String {
        let mut command = Command::new("secret-tool");
        command.args(["lookup", "service", "whitelistmcp", "server", url]).env("DBUS_SESSION_BUS_ADDRESS", &self.bus);
        String::from_utf8(command.output().await.expect("it runs").stdout).expect("text")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_kept_in_the_keychain_where_there_is_one() {
    let place = Place::new(&[]).await;
    let home = Directory::new();
    let keychain = Keychain::start(&home);
    let run = async |words: &[&str], bus: &str| {
        // The last word on where to keep it counts.
        let mut command = place.command(words);
        command.env("DBUS_SESSION_BUS_ADDRESS", bus).args(["--store", "keychain"]);
        Bridge::spawn(command)
    };
    let files = || {
        std::fs::read_dir(place.home.path().join(".local/state/whitelistmcp")).map_or(0, |files| {
            files
                .filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|end| end == "json")))
                .count()
        })
    };
    for round in 0..2 {
        let mut bridge = run(&["bridge", &place.url], &keychain.bus).await;
        called(&mut bridge).await;
        bridge.end().await;
        assert_eq!((place.opened().len(), files()), (1, 0), "round {round}");
        let kept: Value = serde_json::from_str(&keychain.kept(&place.url).await).expect("JSON");
        assert_eq!(kept["logins"][0]["issuer"].as_str(), Some(place.provider.issuer().as_str()));
    }
    let (rest, _) = run(&["logout", &place.url], &keychain.bus).await.end().await;
    assert!(rest.contains("logged out"), "{rest}");
    assert_eq!(keychain.kept(&place.url).await, "");
    // Without one it is kept in a file all the same.
    let mut bridge = run(&["bridge", &place.url], "unix:path=/nonexistent").await;
    called(&mut bridge).await;
    bridge.end().await;
    assert_eq!((place.opened().len(), files()), (2, 1));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_outlives_the_bridge_that_opened_it() {
    let place = Place::new(&[]).await;
    place.opener("exit 0");
    let mut first = place.bridge(&[]);
    first.say(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": list()}).to_string()).await;
    // It is ended once it has said that its page is open.
    let told = eventually("the page is open", async || {
        let attempt: Value = serde_json::from_slice(&std::fs::read(place.file("attempt")).ok()?).ok()?;
        (attempt["open"]["opened"] == true).then_some(())
    });
    eventually("a page is opened", async || place.opened().pop()).await;
    told.await;
    first.kill().await;
    // The next one waits at the same place for the same page, and opens no other.
    let mut second = place.bridge(&[]);
    second.say(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": list()}).to_string()).await;
    let page = place.opened().pop().expect("a page");
    let browser = Command::new("python3").arg(emulator::demo("client/browser.py")).arg(&page).status().await;
    assert!(browser.expect("it runs").success());
    let answer = second.hear().await;
    assert_eq!(answer["result"]["isError"], false, "{answer:#}");
    assert_eq!(place.opened().len(), 1);
    second.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_by_one_for_all() {
    // The provider takes every token of a login back when a refresh token is used twice.
    let place = Place::new(&[("TTL", "4")]).await;
    let mut bridges: Vec<Bridge> = (0..3).map(|_| place.bridge(&[])).collect();
    let kept = async || std::fs::read(place.file("json")).ok();
    let mut tokens = std::collections::BTreeSet::new();
    for round in 0.. {
        for (number, bridge) in bridges.iter_mut().enumerate() {
            bridge.say(json!({"jsonrpc": "2.0", "id": round, "method": "tools/list"}).to_string()).await;
            // They come by it on their own, except for the first time.
            if round == 0 && number == 0 {
                assert!(bridge.hear().await["result"].is_object());
            }
        }
        for (number, bridge) in bridges.iter_mut().enumerate().filter(|(number, _)| round > 0 || *number > 0) {
            let answer = bridge.hear().await;
            assert!(answer["result"].is_object(), "bridge {number}, round {round}: {answer:#}");
        }
        let login: Value = serde_json::from_slice(&kept().await.expect("kept")).expect("JSON");
        tokens.insert(login["logins"][0]["refresh_token"].as_str().expect("a token").to_owned());
        if tokens.len() > 3 {
            break;
        }
        assert!(round < 600, "never renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(place.opened().len(), 1, "nobody had to log in again");
    for bridge in bridges {
        bridge.end().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_logs_in_by_hand_or_on_another_machine() {
    let place = Place::new(&[]).await;
    let (done, out, said) = place.run(&["login", &place.url]).await;
    assert!(done && out.contains("logged in") && said.contains("log in in the browser"), "{out} {said}");
    assert_eq!(place.opened().len(), 1);
    assert!(place.run(&["logout", &place.url]).await.0);
    // With a code.
    let mut child = place.command(&["login", &place.url, "--device"]);
    let mut child = child.stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut stderr = child.stderr.take().expect("stderr");
    let said = read_until(&mut stderr, "at once)").await;
    let (_, page) = said.split_once("or open ").expect("a page");
    let page = page.split(' ').next().expect("a page");
    let browser = emulator::demo("client/browser.py");
    let walked = Command::new("python3").arg(browser).args([page, "--device", "--user", "bob"]).status().await;
    assert!(walked.expect("it runs").success());
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("it ends");
    stderr.read_to_end(&mut Vec::new()).await.expect("read");
    assert!(status.expect("a status").success());
    assert_eq!(place.opened().len(), 1, "no browser here");
    let mut bridge = place.bridge(&["--no-login"]);
    called(&mut bridge).await;
    bridge.end().await;
    // Where no browser can be opened, the code is what is offered.
    place.opener("exit 3");
    let mut child = place.command(&["login", &place.url]);
    let mut child = child.stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut stderr = child.stderr.take().expect("stderr");
    read_until(&mut stderr, "enter the code").await;
    child.kill().await.expect("killed");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_fails_is_answered_with_what_to_do() {
    let place = Place::new(&[]).await;
    // No browser.
    place.opener("exit 3");
    let mut bridge = place.bridge(&[]);
    let words = refused(&mut bridge, 401).await;
    assert!(words.contains("no browser") && words.contains("whitelistmcp login"), "{words}");
    bridge.end().await;
    // Nobody is there: the page is named, so that it can be opened by hand.
    place.opener("exit 0");
    let mut bridge = place.bridge(&["--timeout", "10"]);
    let words = refused(&mut bridge, 401).await;
    let page = place.opened().pop().expect("a page");
    assert!(words.contains(&page), "{words}");
    // Whoever has gone is not waited for, however long the login would.
    let mut other = place.bridge(&[]);
    other.say(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).to_string()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let last: Value = serde_json::from_str(&other.end().await.0).expect("an answer all the same");
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(1), &json!(504)), "{last:#}");
    // Somebody else's answer changes nothing, and a refusal is passed on.
    let asked = url::Url::parse(&page).expect("a URL");
    let of = |name: &str| asked.query_pairs().find(|(key, _)| key == name).expect("said").1.into_owned();
    let (redirect, state, issuer) = (of("redirect_uri"), of("state"), place.provider.issuer());
    let http = &place.stack.http;
    let get = async |query: &str| {
        let request = http::Request::get(format!("{redirect}?{query}")).body(Vec::new()).expect("a request");
        let answer = http.send(request).await.expect("an answer");
        (answer.status().as_u16(), answer.headers().clone(), String::from_utf8(answer.into_body()).expect("text"))
    };
    for query in ["", "code=x", "code=x&state=other", "error=access_denied&state="] {
        assert_eq!(get(query).await.0, 400, "{query}");
    }
    bridge.say(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string()).await;
    let (status, headers, text) =
        get(&format!("error=access_denied&error_description=%3Cb%3Eno&state={state}&iss={issuer}")).await;
    assert_eq!(status, 200);
    assert!(text.contains("&lt;b&gt;no") && text.contains("close this page"), "{text}");
    assert!(headers["content-security-policy"].to_str().is_ok_and(|policy| policy.contains("default-src 'none'")));
    let answer = bridge.hear().await;
    let words = answer["error"]["message"].as_str().expect("words");
    assert!(answer["id"] == 2 && words.contains("access_denied"), "{answer:#}");
    // Who has said no is not asked again for each request, by whichever bridge.
    let pages = place.opened().len();
    let mut other = place.bridge(&[]);
    for bridge in [&mut bridge, &mut other] {
        assert!(refused(bridge, 401).await.contains("access_denied"));
    }
    assert_eq!(place.opened().len(), pages);
    other.end().await;
    bridge.end().await;
    // A server that is somewhere else than it says is not logged in to.
    let elsewhere = format!("https://localhost:{}/mcp", place.stack.edge.port());
    let mut bridge = Bridge::spawn(place.command(&["bridge", &elsewhere]));
    let words = refused(&mut bridge, 401).await;
    assert!(words.contains(&format!("says that it is `{}`", place.url)), "{words}");
    bridge.end().await;
    // A provider that gives out no ids is told of, with what to register there.
    assert!(place.opened().iter().all(|page| page.starts_with(&issuer)), "{:?}", place.opened());
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_has_forgotten_everything_is_logged_in_to_again() {
    let port = emulator::free_port().to_string();
    let mut place = Place::new(&[("PORT", &port)]).await;
    let mut bridge = place.bridge(&[]);
    called(&mut bridge).await;
    bridge.end().await;
    // It comes back with other keys, and knows neither the client nor the login.
    place.provider.end();
    place.provider = provider(&[("PORT", &port), ("RESOURCE", &place.url)]);
    // The edge would believe the old token for as long as it remembers the old key.
    let mut kept: Value = serde_json::from_slice(&std::fs::read(place.file("json")).expect("read")).expect("JSON");
    kept["logins"][0]["access_token"] = json!("of-another-time");
    std::fs::write(place.file("json"), kept.to_string()).expect("written");
    let mut bridge = place.bridge(&[]);
    let mut answer = Value::Null;
    // The edge looks for a key that it does not know once in a while only.
    for _ in 0..60 {
        answer = bridge.ask(json!(3), "tools/call", list()).await;
        if answer["result"]["isError"] == false {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(answer["result"]["isError"], false, "{answer:#}");
    assert_eq!(place.opened().len(), 2);
    bridge.end().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_registered_by_hand_is_used() {
    let place = Place::new(&[("REDIRECTS", "http://127.0.0.1/callback")]).await;
    let mut bridge = place.bridge(&["--client-id", "demo"]);
    called(&mut bridge).await;
    bridge.end().await;
    let page = place.opened().pop().expect("a page");
    assert!(page.contains("client_id=demo"), "{page}");
    // Somebody who asks as another client is not let in by that one's login.
    let mut bridge = place.bridge(&["--client-id", "nobody", "--no-login"]);
    refused(&mut bridge, 401).await;
    bridge.end().await;
    for (words, part) in [
        (&["--redirect-uri", "https://example.com/callback"][..], "loopback"),
        (&["--redirect-uri", "http://example.com/callback"], "loopback"),
        (&["--client-metadata", "http://example.com/client.json"], "https"),
        (&["--client-metadata", "https://example.com"], "path"),
        (&["--client-secret-file", "x"], "--client-id"),
        (&["--client-id", "x", "--client-secret-file", "x"], "--issuer"),
        (&["--client-id", "x", "--client-secret-file", "x", "--issuer", "http://example.com"], "issuer"),
        (&["--certificate", "x"], "--key"),
    ] {
        let (done, _, said) = place.run(&[&["login", &place.url], words].concat()).await;
        assert!(!done && said.contains(part), "{words:?}: {said}");
    }
    let (done, _, said) = place.run(&["login", "http://example.com/mcp"]).await;
    assert!(!done && said.contains("must be https://"), "{said}");
    for words in [&["login"][..], &["logout"], &["bridge"], &["bridge", "--print-config"]] {
        let (done, out, said) = place.run(&[words, &["http://user:pass-word@example.com/mcp"]].concat()).await;
        assert!(!done && said.contains("before the `@`") && !format!("{out}{said}").contains("pass-word"), "{said}");
    }
    place.end().await;
}
