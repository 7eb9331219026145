//! `doctor`: the service and everything around it as they are seen from here. `check` reads the configuration; this asks.
//!
//! Every line says what is wrong and what to do. Nothing is changed anywhere, and each question has an end.

mod around;
mod front;
mod journal;
mod link;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use whitelistmcp::config::Config;

use crate::check::Table;
use crate::fail;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: PathBuf,
    /// The CA (PEM) that clients verify the edge's certificate by, where the system's do not.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Where to connect to for the edge, if not where its public URL leads: seen from inside, for instance. It is asked by its public
    /// name all the same, and shows the certificate for that. http to a loopback address only.
    #[arg(long)]
    url: Option<url::Url>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let config = match Config::load(&arguments.config, crate::environment()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let mut table = Table::at_once();
    runtime.block_on(async {
        front::edge(&config, arguments, &mut table).await;
        front::issuers(&config, &mut table).await;
        around::certificates(&config, &mut table);
        link::backend(&config, &mut table).await;
        link::listening(&config, &mut table).await;
        around::aws(&config, &mut table).await;
        around::redis(&config, &mut table).await;
        around::collector(&mut table).await;
        journal::journal(&config, &mut table).await;
    });
    // A name that is still looked up holds nobody up.
    runtime.shutdown_background();
    table.print("Nothing to mend.")
}

/// Waits no longer than a question may take.
async fn bounded<T>(question: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, question).await.ok()
}
