//! Ending in order: stop accepting, let what runs finish, and no later than a deadline.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long what runs may take to finish.
pub const GRACE: Duration = Duration::from_secs(25);

/// Everything that a shutdown stops and waits for. Clones are the same shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is cancelled when the shutdown begins.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Tracks what must finish before the process ends: connections, and changes to AWS.
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.token.cancel();
        self.tasks.close();
    }

    /// Waits for a shutdown to begin and for everything to finish; false if the grace ran out first.
    pub async fn finished(&self) -> bool {
        self.token.cancelled().await;
        tokio::time::timeout(GRACE, self.tasks.wait()).await.is_ok()
    }

    /// Begins the shutdown at SIGTERM or SIGINT.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = self.clone();
        // Not tracked: the shutdown must not wait for who begins it.
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "shutting down");
            shutdown.begin();
        });
        Ok(())
    }
}
