//! The way from edge to core, as each end finds it.

use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::grpc::client::LinkError;
use whitelistmcp::grpc::doctor::{self, Core, Listening, Taken, Unreached};

use crate::chain;
use crate::check::Table;

/// The core, asked as the edge would ask it.
pub(super) async fn backend(config: &Config, table: &mut Table) {
    let Some(backend) = config.edge.as_ref().and_then(|edge| edge.backend.as_ref()) else { return };
    let address = &backend.address;
    let core = match Core::reach(backend, Clock::system()).await {
        Ok(core) => core,
        // The edge's own files have their line already.
        Err(Unreached::Own(LinkError::Tls(_))) => return,
        Err(error) => return table.wrong("core", chain(&error)),
    };
    match core.takes().await {
        Taken::Edge => table.good("core.peers", format!("{address} knows this edge")),
        Taken::Else(why) => table.wrong(
            "core.peers",
            format!("{address}: {why}; add one of the edge certificate's names to `[[core.peers]]` with role = \"edge\", at the core"),
        ),
        Taken::Untold(why) => {
            table.note("core.peers", format!("{address} does not say whether it knows this edge ({why})"));
        }
    }
    match core.serves().await {
        Ok(()) => table.good("core", format!("{address} is ready")),
        Err(problem) => table.wrong(
            "core",
            format!("{address}: {problem}; the core's log says which part is not well, and `doctor` with its file what to do"),
        ),
    }
}

/// Whether a core listens where this file says.
pub(super) async fn listening(config: &Config, table: &mut Table) {
    let Some(core) = &config.core else { return };
    let listen = core.listen;
    match doctor::listening(core).await {
        Ok(Some(Listening::Core)) => table.good("core.listen", format!("{listen} shows the core's certificate")),
        Ok(Some(Listening::Nobody(error))) => {
            table.note("core.listen", format!("{listen}: {error}; no core runs here as far as can be seen"));
        }
        Ok(Some(Listening::Else(why))) => table.wrong(
            "core.listen",
            format!("{listen}: {why}; something else listens there, or the core has not taken this certificate: look at its log"),
        ),
        Ok(None) => table.note("core.listen", format!("{listen}: the system chooses the port, so nothing is asked")),
        // The certificate's file has its line already.
        Err(_) => {}
    }
}
