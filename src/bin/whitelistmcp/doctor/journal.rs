//! Whether the journal can be kept, and is whole.

use whitelistmcp::audit::{self, verify};
use whitelistmcp::config::Config;

use super::{PATIENCE, bounded};
use crate::chain;
use crate::check::Table;
use crate::volume::{self, Standing};

/// The directory, the key, and the chains.
pub(super) async fn journal(config: &Config, table: &mut Table) {
    let Some(directory) = config.audit.directory.clone() else {
        return table.note("journal", "no `[audit] directory`: the core lists and checks, and changes nothing");
    };
    let shown = directory.display().to_string();
    let section = config.audit.clone();
    let asked = directory.clone();
    let looked = apart(move || (volume::stand(&asked), audit::check_key(&section), audit::objection(&section))).await;
    let Some((standing, key, objection)) = looked else {
        return table.wrong(
            "journal",
            format!("{shown} does not answer within {PATIENCE:?}, so nothing is changed: look at its volume"),
        );
    };
    let objections: Vec<String> = [
        standing.as_ref().err().map(|error| chain(error)),
        key.as_ref()
            .err()
            .map(|error| format!("{}; the core does not start: mend `[audit] signing_key`", chain(error))),
        objection.filter(|_| standing.is_ok()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let is_well = objections.is_empty();
    for objection in objections {
        table.wrong("journal", objection);
    }
    match standing {
        Ok(Standing::ToBeMade) => {
            return table.note("journal", format!("{shown} is not there yet; the core makes it when it starts"));
        }
        Err(volume::VolumeError::NotADirectory(_)) => return,
        Ok(Standing::Ready) | Err(_) => {}
    }
    match apart(move || verify::verify(&directory, &verify::Given::default())).await {
        // What stands above is not taken back by a journal that is whole.
        Some(Ok(report)) if report.is_sound() && !is_well => {}
        Some(Ok(report)) if report.is_sound() => {
            table.good("journal", format!("{shown}: {} chains, nothing speaks against them", report.chains.len()))
        }
        Some(Ok(report)) => table.wrong(
            "journal",
            format!(
                "{shown}: {} things are not as they were written; `whitelistmcp audit verify` says which",
                report.findings.len()
            ),
        ),
        Some(Err(error)) => table.wrong("journal", chain(&error)),
        None => table.note(
            "journal",
            format!("{shown} takes longer to read than {PATIENCE:?}; `whitelistmcp audit verify` takes its time"),
        ),
    }
}

/// Answers what reads files, on a thread of its own: it is left behind where a volume does not answer in time.
async fn apart<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || told.send(question()).unwrap_or_default());
    bounded(answer).await?.ok()
}
