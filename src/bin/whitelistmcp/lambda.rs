//! `lambda`: the service as a function of AWS Lambda.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use whitelistmcp::app;
use whitelistmcp::config::Config;
use whitelistmcp::lambda::check_environment;
use whitelistmcp::shutdown::Shutdown;
use whitelistmcp::telemetry::Telemetry;

use crate::{fail, mode};

/// What a function needs to start.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file. Without one the environment is the configuration.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match mode::configured(arguments.config.as_deref()) {
        Ok(config) => run_configured(&config),
        Err(error) => fail(&error),
    }
}

pub(crate) fn run_configured(config: &Config) -> ExitCode {
    if let Err(error) = check_environment() {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(Box::pin(serve(config)));
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn serve(config: &Config) -> ExitCode {
    let telemetry = match Telemetry::start(&config.telemetry, "lambda") {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(&error),
    };
    let shutdown = Shutdown::with(config.shutdown);
    let function = match app::function(config, &shutdown).await {
        Ok(function) => function,
        Err(error) => return fail(&error),
    };
    match function.run(telemetry, &shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
