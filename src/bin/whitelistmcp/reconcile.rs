//! `reconcile`: one round of closing what has ended, for a cron job or a function that is started on a schedule.

use std::process::ExitCode;

use whitelistmcp::app;
use whitelistmcp::config::Config;
use whitelistmcp::shutdown::Shutdown;
use whitelistmcp::telemetry::Telemetry;

use crate::{complain, fail, say};

/// What a round needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: std::path::PathBuf,
    /// Do one round and end. A running core does rounds by itself.
    #[arg(long, required = true)]
    once: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let config = match Config::load(&arguments.config, crate::environment()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if config.audit.directory.is_none() {
        complain("`[audit] directory` is not configured: nothing is closed without an audit journal");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let (code, telemetry) = runtime.block_on(round(&config));
    if let Some(telemetry) = telemetry {
        telemetry.shutdown();
    }
    code
}

async fn round(config: &Config) -> (ExitCode, Option<Telemetry>) {
    let telemetry = match Telemetry::start(&config.telemetry, "reconcile") {
        Ok(telemetry) => telemetry,
        Err(error) => return (fail(&error), None),
    };
    let shutdown = Shutdown::new();
    let reconciler = match app::reconciler(config, &shutdown).await {
        Ok(reconciler) => reconciler,
        Err(error) => return (fail(&error), Some(telemetry)),
    };
    let round = reconciler.round().await;
    shutdown.begin();
    let finished = shutdown.finished().await;
    let next = round.next.map_or_else(|| "no other end is known".to_owned(), |next| format!("the next ends at {next}"));
    say(&format!(
        "{} of ours stood, {} closed, {} left to others, {} overdue, {} damaged, {} not in the journal; {} accounts and Regions could not be asked; {next}",
        round.standing,
        round.closed,
        round.left_to_others,
        round.overdue,
        round.damaged,
        round.unrecorded,
        round.missed
    ));
    let well = finished && round.overdue == 0 && round.missed == 0;
    (if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }, Some(telemetry))
}
