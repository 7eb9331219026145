//! Ending in order: say so, stop accepting, let what runs finish, and no later than a deadline. And reading again what can be
//! read again, when a signal asks for it.

mod signals;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use signals::{Endings, Rereads};

use crate::duration::{self, MINUTE};
use crate::schema::Length;

/// `[shutdown]` in the configuration.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long what runs may take to finish.
    #[serde(deserialize_with = "duration::within::<_, _, 0, { 5 * MINUTE }>")]
    #[schemars(with = "Length<0, { 5 * MINUTE }>")]
    pub grace: Duration,
    /// How long the process goes on taking work after it has said that it is not ready any more, so that balancers
    /// notice before connections are refused.
    #[serde(deserialize_with = "duration::within::<_, _, 0, { 5 * MINUTE }>")]
    #[schemars(with = "Length<0, { 5 * MINUTE }>")]
    pub lame_duck: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace: Duration::from_secs(25), lame_duck: Duration::ZERO }
    }
}

/// Everything that a shutdown stops and waits for. Clones are the same shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    config: Config,
    ending: CancellationToken,
    token: CancellationToken,
    tasks: TaskTracker,
    reload: watch::Sender<u64>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    /// The same, by the configuration.
    pub fn with(config: Config) -> Self {
        let (ending, token) = (CancellationToken::new(), CancellationToken::new());
        Self { config, ending, token, tasks: TaskTracker::new(), reload: watch::Sender::new(0) }
    }

    /// Is cancelled when the process is to be given no more work, which may be a while before [`Shutdown::token`].
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Is cancelled when the shutdown begins. A connection that has become something else than HTTP must watch it itself.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Changes whenever everything that can be read again is to be read again.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reload.subscribe()
    }

    /// Asks for everything to be read again.
    pub fn reload(&self) {
        self.reload.send_modify(|times| *times += 1);
    }

    /// Tracks what must finish before the process ends: connections, and changes to AWS.
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.ending.cancel();
        self.token.cancel();
        self.tasks.close();
    }

    /// Waits for a shutdown to begin and for everything to finish; false if the grace ran out first.
    pub async fn finished(&self) -> bool {
        self.token.cancelled().await;
        tokio::time::timeout(self.config.grace, self.tasks.wait()).await.is_ok()
    }

    /// Begins the shutdown at SIGTERM or SIGINT, ends the process at the second one, and reloads at SIGHUP.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut endings, mut rereads) = (Endings::listen()?, Rereads::listen()?);
        let shutdown = self.clone();
        // Not tracked: the shutdown must not wait for who begins it.
        tokio::spawn(async move {
            while let Some(name) = rereads.next().await {
                tracing::info!(signal = name, "everything that can be read again is read again");
                shutdown.reload();
            }
        });
        let shutdown = self.clone();
        tokio::spawn(async move {
            let (name, _) = endings.next().await;
            tracing::info!(signal = name, lame_duck = ?shutdown.config.lame_duck, "shutting down");
            shutdown.ending.cancel();
            let second = tokio::select! {
                () = tokio::time::sleep(shutdown.config.lame_duck) => None,
                second = endings.next() => Some(second),
            };
            shutdown.begin();
            let (name, code) = match second {
                Some(second) => second,
                None => endings.next().await,
            };
            tracing::error!(
                signal = name,
                "a second signal: what runs is cut off; what it had begun is found at the next start"
            );
            // Whoever sends a second signal wants no more waiting.
            std::process::exit(code);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_finish_is_not_waited_for() {
        let config: Config = toml::from_str("grace = \"50ms\"").expect("sound");
        let shutdown = Shutdown::with(config);
        shutdown.tasks().spawn(std::future::pending::<()>());
        shutdown.begin();
        assert!(shutdown.ending().is_cancelled() && !shutdown.finished().await);
        let error = toml::from_str::<Config>("lame_duck = \"1h\"").expect_err("too long").to_string();
        assert!(error.contains("at most 5m"), "{error}");
    }

    #[tokio::test]
    async fn whoever_reads_again_hears_of_it() {
        let shutdown = Shutdown::new();
        let mut reloads = shutdown.reloads();
        assert!(!reloads.has_changed().expect("alive"));
        shutdown.reload();
        reloads.changed().await.expect("alive");
    }
}
