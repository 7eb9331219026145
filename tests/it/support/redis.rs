//! A real Redis of one's own, on loopback, that keeps nothing and ends with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::emulator::leashed;
use super::eventually;
use super::temporary::Directory;

/// A Redis that can be stopped, held and started again on the same port.
pub(crate) struct Redis {
    port: u16,
    directory: Directory,
    extra: Vec<String>,
    server: Option<Child>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further words on its command line; `DIR` in them is its directory.
    pub(crate) async fn with(extra: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let directory = Directory::new();
        let at = directory.path().display().to_string();
        let extra = extra.iter().map(|word| word.replace("DIR", &at)).collect();
        let mut redis = Self { port, directory, extra, server: None };
        redis.begin().await;
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it, empty, and waits until it listens.
    pub(crate) async fn begin(&mut self) {
        assert!(self.server.is_none(), "it is running");
        // Written by itself: what this process starts is the leash.
        let id = self.directory.path().join("id");
        std::fs::remove_file(&id).unwrap_or_default();
        let server = leashed(&["redis-server".into()])
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .arg("--pidfile")
            .arg(&id)
            .args(&self.extra)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts; `make test` installs it");
        self.server = Some(server);
        eventually("redis-server listens", async || {
            let listens = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            (listens && id.exists()).then_some(())
        })
        .await;
    }

    /// Kills it, with all that it knows.
    pub(crate) fn end(&mut self) {
        self.signal("-KILL");
        self.server.take().and_then(|mut leash| leash.wait().ok()).expect("it ends");
    }

    /// Stops it where it stands: it accepts, and answers nothing.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Asks it something in its own protocol, beside the service; what it says first.
    pub(crate) async fn ask(&self, words: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        socket.write_all(format!("{words}\r\n").as_bytes()).await.expect("it reads");
        let mut answer = vec![0; 64 * 1024];
        let length = socket.read(&mut answer).await.expect("it answers");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    fn signal(&self, signal: &str) {
        let id = std::fs::read_to_string(self.directory.path().join("id")).expect("it is running");
        assert!(Command::new("kill").args([signal, id.trim()]).status().expect("kill runs").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.server.is_some() {
            // A held process is killed as well as any other.
            self.end();
        }
    }
}
