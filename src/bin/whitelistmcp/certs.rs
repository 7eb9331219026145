//! `certs`: a CA and leaf certificates to try the service out.

use std::path::PathBuf;
use std::process::ExitCode;

use whitelistmcp::certs::{self, Leaf};

use crate::{complain, fail, say};

/// Which certificates.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The directory to write to; made if it is missing. Files that exist are not touched.
    #[arg(long, default_value = "certs")]
    directory: PathBuf,
    /// A certificate, as NAME=SAN[,SAN…]: a SAN with `://` is a URI, and otherwise an address or a DNS name.
    #[arg(value_name = "NAME=SAN[,SAN…]", default_values = ["core=core.internal,localhost,127.0.0.1", "edge=spiffe://example.org/edge,localhost,127.0.0.1"])]
    leaves: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut leaves = Vec::with_capacity(arguments.leaves.len());
    for leaf in &arguments.leaves {
        let sound = |name: &&str| {
            !name.is_empty()
                && *name != "ca"
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        match leaf.split_once('=') {
            Some((name, names)) if sound(&name) && !names.is_empty() => {
                leaves.push(Leaf { name: name.to_owned(), names: names.split(',').map(str::to_owned).collect() });
            }
            _ => {
                complain(&format!(
                    "`{leaf}` is not NAME=SAN[,SAN…], with a name of letters, digits, - and _ that is not `ca`"
                ));
                return ExitCode::FAILURE;
            }
        }
    }
    match certs::create(&arguments.directory, &leaves) {
        Ok(()) => {
            say(&format!(
                "{}: ca.pem and {}",
                arguments.directory.display(),
                leaves.iter().map(|leaf| leaf.name.as_str()).collect::<Vec<_>>().join(", ")
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}
