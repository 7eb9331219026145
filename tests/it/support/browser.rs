//! A headless Chromium, driven by the `WebDriver` protocol (<https://www.w3.org/TR/webdriver2/>) as a person would.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::emulator::{free_port, leashed};
use super::processes::listens;
use super::temporary::Directory;

/// The key under which `WebDriver` names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    leash: Child,
    port: u16,
    session: String,
    _profile: Directory,
}

impl Browser {
    /// A browser with nothing in it, for which `https://localhost` is that port. It takes any certificate.
    pub(crate) async fn start(port: u16) -> Self {
        let own = free_port();
        let mut command = leashed(&[PathBuf::from("chromedriver")]);
        let leash = command.arg(format!("--port={own}")).stdout(Stdio::null()).spawn().expect("chromedriver starts");
        let profile = Directory::new();
        listens(own, || "chromedriver".to_owned()).await;
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--no-proxy-server".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            // Nothing but this machine is ever reached.
            format!("--host-resolver-rules=MAP localhost:443 127.0.0.1:{port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true, "goog:chromeOptions": {"args": arguments},
        }}});
        let mut browser = Self { leash, port: own, session: String::new(), _profile: profile };
        let answer = browser.send("POST", "/session", &wanted).await.expect("a session");
        answer["sessionId"].as_str().expect("an id").clone_into(&mut browser.session);
        browser
    }

    /// One exchange on a connection of its own. A page may take its time on a busy machine, so it has a minute.
    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            let (mut stream, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
            while stream.read_line(&mut head).await? > 2 {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                if let Some(said) = line.strip_prefix("content-length:") {
                    length = said.trim().parse().unwrap_or_default();
                }
            }
            // It keeps the connection, whatever is asked.
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            Ok::<_, std::io::Error>((head, body))
        };
        let answer = tokio::time::timeout(Duration::from_secs(60), exchange).await.map_err(|late| late.to_string())?;
        let (head, body) = answer.map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        if head.starts_with("HTTP/1.1 200") { Ok(value["value"].clone()) } else { Err(value.to_string()) }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        self.send(method, &format!("/session/{}{path}", self.session), &body).await
    }

    pub(crate) async fn open(&self, url: &str) {
        self.ask("POST", "/url", json!({"url": url})).await.expect("the page opens");
    }

    /// The text of an element, once it is there.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let text = self.on(selector, "GET", "text", json!({})).await;
        text.as_str().expect("text").to_owned()
    }

    /// Waits until an element says this.
    pub(crate) async fn reads(&self, selector: &str, part: &str) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.text(selector).await.contains(part) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("`{part}` is not in {:?}", self.text(selector).await);
    }

    pub(crate) async fn url(&self) -> String {
        self.ask("GET", "/url", json!({})).await.expect("an URL").as_str().expect("text").to_owned()
    }

    pub(crate) async fn write(&self, selector: &str, text: &str) {
        self.on(selector, "POST", "value", json!({"text": text})).await;
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.on(selector, "POST", "click", json!({})).await;
    }

    /// Does something with an element, once it is there: the page may be replaced under one's hands.
    async fn on(&self, selector: &str, method: &str, what: &str, body: Value) -> Value {
        for _ in 0..20 {
            let element = self.find(selector).await;
            match self.ask(method, &format!("/element/{element}/{what}"), body.clone()).await {
                Ok(value) => return value,
                Err(error) if error.contains("stale element") => {}
                Err(error) => panic!("{what} of `{selector}`: {error}"),
            }
        }
        panic!("`{selector}` never stays")
    }

    /// Runs a script in the page; what it returns.
    pub(crate) async fn run(&self, script: &str) -> Result<Value, String> {
        self.ask("POST", "/execute/sync", json!({"script": script, "args": []})).await
    }

    pub(crate) async fn has(&self, selector: &str) -> bool {
        self.look(selector).await.is_some()
    }

    /// Keeps what is seen, for a person to look at.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        use base64::Engine;
        let picture = self.ask("GET", "/screenshot", json!({})).await.expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(picture.as_str().expect("text")).expect("base64")
    }

    /// Forgets every cookie: another person's browser.
    pub(crate) async fn forget(&self) {
        self.ask("DELETE", "/cookie", json!({})).await.expect("forgotten");
    }

    async fn look(&self, selector: &str) -> Option<String> {
        let found = self.ask("POST", "/element", json!({"using": "css selector", "value": selector})).await.ok()?;
        Some(found[ELEMENT].as_str()?.to_owned())
    }

    async fn find(&self, selector: &str) -> String {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(element) = self.look(selector).await {
                return element;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let source = self.ask("GET", "/source", json!({})).await;
        panic!("no `{selector}` on {}: {source:?}", self.url().await)
    }

    /// Signs in at the demo's provider, which asks who one is and then whether one agrees.
    pub(crate) async fn sign_in(&self, name: &str) {
        self.write("input[name=login]", name).await;
        self.write("input[name=password]", "any").await;
        self.click("button[type=submit]").await;
        // The page that asks for consent is shown once for each person.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !self.url().await.contains("/interaction/") {
                return;
            }
            if !self.has("input[name=login]").await && self.has("button[type=submit]").await {
                self.click("button[type=submit]").await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the provider did not let {name} through: {}", self.url().await);
    }

    pub(crate) async fn end(self) {
        // Not its window alone: the whole browser.
        self.ask("DELETE", "", json!({})).await.expect("it ends");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        // Its group is gone when it is.
        self.leash.wait().map(drop).unwrap_or_default();
    }
}
