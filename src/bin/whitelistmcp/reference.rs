//! `reference`: the configuration, described by the code that reads it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::CommandFactory as _;
use whitelistmcp::config::reference;

use crate::say;

/// What to print.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every key and every variable, as Markdown: `docs/CONFIGURATION.md`.
    Configuration,
    /// The JSON Schema of the configuration file, for editors: `docs/whitelistmcp.schema.json`.
    Schema,
}

const OPENING: &str = "# Configuration

Printed by `whitelistmcp reference configuration`, from the code that reads it.

One TOML file, named by `--config` or `WHITELISTMCP_CONFIG`, serves an edge, a core, or both in one process; each reads the sections that it needs.
[examples/whitelistmcp.toml](../examples/whitelistmcp.toml) is such a file with every key. Unknown keys are refused by name. `whitelistmcp check` says what is
wrong with a file, and editors do so as you type with this as its first line:

```toml
#:schema https://raw.githubusercontent.com/OWNER/REPOSITORY/main/docs/whitelistmcp.schema.json
```

or the path of `docs/whitelistmcp.schema.json` in your checkout. Every key can be given by a variable instead, which counts before the file: two underscores
part the section from the key, and a value may be a number, `true`, a list or a table in TOML. A variable of that form that names no key is refused.

A *duration* is written `500ms`, `30s`, `5m`, `24h` or `400d`; a *network* `10.0.0.0/8`, or an address alone. Files are named by their paths; secrets
stand in files or in the environment.
";

/// Variables that neither stand for a key nor for an argument.
const OTHERS: [(&str, &str); 7] = [
    ("`CORS_ORIGINS`", "the web origins that may call, parted by commas: `edge.allowed_origins`"),
    ("`MCP_AUTH_TOKEN`", "the access token or API key that the bridge sends; a server does not start with it"),
    (
        "`MCP_MODE`",
        "what `whitelistmcp` is without arguments, or how the bridge speaks to the server ([MIGRATING.md](MIGRATING.md))",
    ),
    (
        "`AWS_PROFILE`, `AWS_REGION` and others of AWS",
        "the AWS SDK's own; `AWS_ENDPOINT_URL` is refused, as `aws.endpoint` says where AWS is",
    ),
    (
        "`OTEL_EXPORTER_OTLP_ENDPOINT` and others of OpenTelemetry",
        "where traces, metrics and log records go ([TELEMETRY.md](TELEMETRY.md))",
    ),
    ("`HTTPS_PROXY`, `NO_PROXY`", "the proxy that leads to issuers and, for the bridge, to the server"),
    (
        "`XDG_CONFIG_HOME`, `XDG_STATE_HOME`",
        "where `whitelistmcp stdio` looks for its configuration and keeps its journal",
    ),
];

pub(crate) fn run(command: Command) -> ExitCode {
    match command {
        Command::Configuration => say((OPENING.to_owned() + &reference::markdown() + &variables()).trim_end()),
        Command::Schema => say(&format!("{:#}", reference::schema())),
    }
    ExitCode::SUCCESS
}

/// The variables that stand in for arguments, each with the commands that read it.
fn variables() -> String {
    let mut found = BTreeMap::<String, (String, Vec<String>)>::new();
    collect(&crate::Arguments::command(), &[], &mut found);
    let mut text = "\n## Other variables\n\n| variable | of | meaning |\n| --- | --- | --- |\n".to_owned();
    for (name, (meaning, commands)) in found {
        let commands = commands.iter().map(|command| format!("`{command}`")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("| `{name}` | {commands} | {} |\n", meaning.replace('|', "\\|")));
    }
    for (name, meaning) in OTHERS {
        text.push_str(&format!("| {name} | | {meaning} |\n"));
    }
    text
}

fn collect(command: &clap::Command, above: &[&str], found: &mut BTreeMap<String, (String, Vec<String>)>) {
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        let meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let (_, commands) = found.entry(name.to_owned()).or_insert_with(|| (meaning, Vec::new()));
        commands.push(above.join(" "));
    }
    for inner in command.get_subcommands() {
        let path: Vec<&str> = above.iter().copied().chain([inner.get_name()]).collect();
        collect(inner, &path, found);
    }
}
