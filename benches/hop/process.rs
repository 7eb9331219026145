//! The release binary as a process: how soon it answers, and how much memory it takes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use whitelistmcp::clock::Clock;
use whitelistmcp::tls::{ClientFiles, Material as _};

use crate::stack::Certificates;
use crate::{Result, environment};

/// How long a start may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running core or edge; dropping it ends it.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) ready: Duration,
}

impl Process {
    /// Starts a role and waits until its port completes a TLS handshake. `config` is the text for a port.
    pub(crate) fn start(
        runtime: &Runtime,
        directory: &Path,
        role: &str,
        certificates: &Certificates,
        config: impl Fn(u16) -> String,
    ) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let path = directory.join(format!("{role}.toml"));
        std::fs::write(&path, config(port))?;
        let files = ClientFiles::mutual("edge.backend", &certificates.identity("edge"), &certificates.ca());
        let tls = TlsConnector::from(Arc::clone(files.load(Clock::system().now())?.config()));
        let log = std::fs::File::create(directory.join(format!("{role}.log")))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
        environment(&mut command).arg(role).arg("--config").arg(path).stdin(Stdio::null()).stderr(log);
        let started = Instant::now();
        let child = command.spawn()?;
        let mut process = Self { child, address, ready: Duration::ZERO };
        runtime.block_on(async {
            while started.elapsed() < PATIENCE {
                if let Ok(stream) = TcpStream::connect(address).await {
                    tls.connect("localhost".try_into()?, stream).await?;
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(crate::Error::from("it does not answer"))
        })?;
        process.ready = started.elapsed();
        Ok(process)
    }

    /// The memory that is resident now, in MiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to be done for one that is gone already.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
