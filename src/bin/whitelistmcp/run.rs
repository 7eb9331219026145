//! `core`, `edge`, `serve`: read the configuration, bind, serve, drain.

use std::path::PathBuf;
use std::process::ExitCode;

use whitelistmcp::app::{self, Bound, StartError};
use whitelistmcp::config::Config;
use whitelistmcp::shutdown::Shutdown;
use whitelistmcp::telemetry::Telemetry;

use crate::{complain, fail};

/// What a service needs to start.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    pub(crate) config: PathBuf,
}

/// Which service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Core,
    Edge,
    Serve,
}

pub(crate) fn run(arguments: &Arguments, role: Role) -> ExitCode {
    match Config::load(&arguments.config, crate::environment()) {
        Ok(config) => run_configured(&config, role),
        Err(error) => fail(&error),
    }
}

pub(crate) fn run_configured(config: &Config, role: Role) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let (code, telemetry) = runtime.block_on(serve(config, role));
    if let Some(telemetry) = telemetry {
        telemetry.shutdown();
    }
    // What did not finish in time is cut off here.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn serve(config: &Config, role: Role) -> (ExitCode, Option<Telemetry>) {
    let name = match role {
        Role::Core => "core",
        Role::Edge => "edge",
        Role::Serve => "serve",
    };
    let telemetry = match Telemetry::start(&config.telemetry, name) {
        Ok(telemetry) => telemetry,
        Err(error) => return (fail(&error), None),
    };
    let shutdown = Shutdown::with(config.shutdown);
    if let Err(error) = shutdown.on_signals() {
        return (fail(&error), Some(telemetry));
    }
    let bound: Result<Bound, StartError> = match role {
        Role::Core => app::core(config, &shutdown).await,
        Role::Edge => app::edge(config, &shutdown).await,
        Role::Serve => app::serve(config, &shutdown).await,
    };
    let code = match bound {
        Ok(bound) => {
            if bound.run(&shutdown).await {
                ExitCode::SUCCESS
            } else {
                complain("the grace ran out: what was still running was cut off");
                ExitCode::FAILURE
            }
        }
        Err(error) => fail(&error),
    };
    (code, Some(telemetry))
}
