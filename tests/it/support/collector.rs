//! A real OpenTelemetry receiver (rotel), and what it received.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::processes::listens;
use super::temporary::Directory;
use super::{PATIENCE, emulator};

/// A receiver that is running.
pub(crate) struct Collector {
    pub(crate) grpc: u16,
    pub(crate) http: u16,
    file: PathBuf,
    agent: Option<Child>,
}

impl Collector {
    /// Starts one that writes what it receives to a file.
    pub(crate) async fn start(directory: &Directory) -> Self {
        let (grpc, http) = (free_port(), free_port());
        Self::start_at(directory, grpc, http, "telemetry").await
    }

    /// Starts one on ports that are known before.
    pub(crate) async fn start_at(directory: &Directory, grpc: u16, http: u16, name: &str) -> Self {
        let file = directory.path().join(name);
        let dump = std::fs::File::create(&file).expect("a file");
        let agent = Command::new(emulator::checkout().join(".tools/python/bin/rotel-agent"))
            .args(["start", "--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}"), "--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"])
            .args(["--debug-log-verbosity", "detailed"])
            .stdin(Stdio::null())
            .stdout(dump)
            .stderr(Stdio::null())
            .spawn()
            .expect("the receiver starts; `make tools-python` installs it");
        let collector = Self { grpc, http, file, agent: Some(agent) };
        for port in [grpc, http] {
            listens(port, || "the receiver".to_owned()).await;
        }
        collector
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("killed");
            agent.wait().expect("gone");
        }
    }

    /// Everything that it wrote, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).expect("a file")).into_owned()
    }

    /// What it received: `spans`, `metrics` and `logs`.
    pub(crate) fn received(&self) -> Value {
        let output = Command::new("python3")
            .arg(emulator::checkout().join("examples/demo/otel/spans.py"))
            .arg(&self.file)
            .output()
            .expect("it runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What it received, once there is enough.
    pub(crate) async fn received_when(&self, enough: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let received = self.received();
            if enough(&received) {
                return received;
            }
            assert!(begun.elapsed() < PATIENCE, "it never received enough: {received:#}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}
