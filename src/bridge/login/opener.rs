//! Opens a page in the person's browser, by the program that the system has for it.

use std::io::{Error, ErrorKind};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use url::Url;

/// The programs, in the order in which they are tried.
const PROGRAMS: &[&str] = if cfg!(target_os = "macos") { &["open"] } else { &["xdg-open", "wslview"] };

/// How long it may take to say that it cannot. Some stay as long as the browser does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens the page. Nothing of ours is the browser's: stdout belongs to MCP.
pub(super) async fn open(url: &Url) -> Result<(), Error> {
    let mut failed = Error::from(ErrorKind::NotFound);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It outlives a bridge that is ended, as the browser does.
        command.process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                failed = Error::new(error.kind(), format!("{program}: {error}"));
                continue;
            }
        };
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Err(_) => return Ok(()),
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => failed = Error::other(format!("{program}: {status}")),
            Ok(Err(error)) => failed = error,
        }
    }
    Err(failed)
}
