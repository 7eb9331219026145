//! `stdio`: the whole service for one person, over stdin and stdout, with their own AWS profile.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use whitelistmcp::app;
use whitelistmcp::config::Config;
use whitelistmcp::shutdown::Shutdown;
use whitelistmcp::telemetry::Telemetry;

use crate::{complain, fail};

/// What is different from the default.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file. `whitelistmcp/config.toml` in your directory for configuration unless given; none is needed.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
}

/// How many threads: one person's calls, and the upkeep.
const THREADS: usize = 2;

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let environment: Vec<(String, String)> = crate::environment().collect();
    let config = match Config::of_person(arguments.config.as_deref(), &environment) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let (code, telemetry) = runtime.block_on(Box::pin(serve(&config, &person(&environment))));
    if let Some(telemetry) = telemetry {
        telemetry.shutdown();
    }
    // A read of stdin that is still waiting must not hold the process for long.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn serve(config: &Config, name: &str) -> (ExitCode, Option<Telemetry>) {
    let telemetry = match Telemetry::start(&config.telemetry, "stdio") {
        Ok(telemetry) => telemetry,
        Err(error) => return (fail(&error), None),
    };
    let shutdown = Shutdown::with(config.shutdown);
    if let Err(error) = shutdown.on_signals() {
        return (fail(&error), Some(telemetry));
    }
    let local = match app::local(config, name, &shutdown).await {
        Ok(local) => local,
        Err(error) => return (fail(&error), Some(telemetry)),
    };
    let code = match local.run(tokio::io::stdin(), tokio::io::stdout(), &shutdown).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            complain("the grace ran out: what was still running was cut off");
            ExitCode::FAILURE
        }
        // Who read stdout may have gone first, and then there is nobody to serve.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    };
    (code, Some(telemetry))
}

/// What the system calls the person. It is for people to read: who they are AWS says.
fn person(environment: &[(String, String)]) -> String {
    let named = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|variable| {
        environment.iter().find(|(name, value)| name == variable && !value.trim().is_empty()).map(|(_, value)| value)
    });
    named.map_or_else(|| "local".to_owned(), |name| name.trim().to_owned())
}
