//! The references say what the code does: the configuration's by its own types, that of errors by the source's own words.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use whitelistmcp::config::Config;
use whitelistmcp::config::reference::{self, Absent, Key, Kind, LIST, NAME};

use crate::support::emulator;

fn printed(what: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_whitelistmcp")).args(["reference", what]).output().expect("it runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(emulator::checkout().join(path)).expect("a file")
}

#[test]
fn what_is_shipped_is_what_is_printed() {
    for (what, file) in [("configuration", "docs/CONFIGURATION.md"), ("schema", "docs/whitelistmcp.schema.json")] {
        assert!(printed(what) == text(file), "{file}: `whitelistmcp reference {what} > {file}` writes it anew");
    }
}

/// Both are made anew each time that they are asked for.
fn keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(reference::keys);
    &KEYS
}

fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(reference::schema);
    &SCHEMA
}

/// The keys of a commented file, those that are commented out as well; a name of the reader's own is NAME.
fn keys_of(file: &str) -> BTreeSet<String> {
    let (mut in_force, mut shown) = (String::new(), String::new());
    let mut found = BTreeSet::new();
    for line in file.lines() {
        let (bare, commented) = line.strip_prefix("# ").map_or((line, false), |bare| (bare, true));
        let header = bare
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .map(|(name, rest)| (name.trim_start_matches('['), rest));
        if let Some((name, "" | "]")) = header {
            let mut parts: Vec<&str> = name.split('.').collect();
            if parts.first() == Some(&"oidc") {
                parts[1] = NAME;
            }
            let name = parts.join(".") + if bare.starts_with("[[") { ".[]" } else { "" };
            if !commented {
                in_force.clone_from(&name);
            }
            shown = name;
        } else if let Some((key, _)) = bare.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            found.insert(format!("{}.{key}", if commented { &shown } else { &in_force }));
            if !commented {
                shown.clone_from(&in_force);
            }
        }
    }
    found
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let described: BTreeSet<String> = keys().iter().map(|key| key.path.join(".")).collect();
    let shown = keys_of(&text("examples/whitelistmcp.toml"));
    assert!(described.len() > 90, "{described:?}");
    // What the example leaves to the page: keys that say what another says, for one entry of a list.
    let left: BTreeSet<String> = described.difference(&shown).cloned().collect();
    let expected = BTreeSet::from(["targets.groups.[].account".to_owned(), "targets.groups.[].region".to_owned()]);
    assert_eq!(left, expected, "not in examples/whitelistmcp.toml");
    assert_eq!(shown.difference(&described).cloned().collect::<Vec<_>>(), Vec::<String>::new(), "in the example alone");
}

#[test]
fn every_key_has_a_meaning() {
    for key in keys() {
        assert!(key.meaning.ends_with(['.', ')']) && key.meaning.len() > 8, "{key:?}");
        assert_ne!(key.kind, Kind::Value("any".to_owned()), "{key:?}");
        assert!(key.kind != Kind::Value("object".to_owned()), "{key:?}");
    }
}

/// A value that a key takes.
fn sample(key: &Key) -> toml::Value {
    match &key.kind {
        Kind::Word(words) => words[0].0.clone().into(),
        Kind::List(_) => toml::Value::Array(Vec::new()),
        Kind::Value(kind) => match kind.as_str() {
            "integer" => 1.into(),
            "boolean" => true.into(),
            "duration of at least 24h" => "400d".into(),
            kind if kind.starts_with("duration ") => "1s".into(),
            "string" | "URL" => "https://example.com/mcp".into(),
            other => panic!("{other}: {key:?}"),
        },
    }
}

/// Whether a section must be there where the one around it is.
fn must_be_there(path: &[String]) -> bool {
    let (name, around) = path.split_last().expect("a section");
    let mut schema = schema();
    for part in around {
        schema = match part.as_str() {
            NAME => &schema["additionalProperties"],
            LIST => &schema["items"],
            part => &schema["properties"][part],
        };
    }
    schema["required"].as_array().is_some_and(|list| list.iter().any(|entry| entry == name))
}

/// The smallest configuration with one section: what that section must have, and what those around it must.
fn least(section: &[String], value: Option<(&str, toml::Value)>) -> toml::Table {
    let mut file = toml::Table::new();
    let place = |file: &mut toml::Table, path: &[String], key: &str, value: toml::Value| {
        let mut at = file;
        let mut parts = path.iter().peekable();
        while let Some(part) = parts.next() {
            let name = if part == NAME { "company" } else { part };
            let entry = at.entry(name.to_owned());
            at = if parts.peek().is_some_and(|next| *next == LIST) {
                parts.next();
                let list = entry.or_insert_with(|| toml::Value::Array(vec![toml::Table::new().into()]));
                list.as_array_mut().and_then(|list| list[0].as_table_mut()).expect("a list of tables")
            } else {
                entry.or_insert_with(|| toml::Table::new().into()).as_table_mut().expect("a table")
            };
        }
        at.insert(key.to_owned(), value);
    };
    for key in keys() {
        let (name, path) = key.path.split_last().expect("a key");
        let there = (1..=path.len()).all(|n| section.starts_with(&path[..n]) || must_be_there(&path[..n]));
        if key.absent == Absent::Refused && there {
            place(&mut file, path, name, sample(key));
        }
    }
    if let Some((name, value)) = value {
        place(&mut file, section, name, value);
    }
    file
}

fn read(file: &toml::Table) -> Result<String, String> {
    let parsed = Config::parse(Path::new("test.toml"), &file.to_string(), []);
    parsed.map(|config| format!("{config:?}")).map_err(|error| whitelistmcp::error::Chain(&error).to_string())
}

#[test]
fn a_default_is_what_counts_when_the_key_is_left_out() {
    let mut defaults = 0;
    for key in keys() {
        let (name, section) = key.path.split_last().expect("a key");
        // A section that is there and says nothing but what it must.
        let mut without = least(section, Some((name, sample(key))));
        let with_sample = read(&without);
        let mut at = &mut without;
        for part in section.iter().filter(|part| *part != LIST) {
            let inner = at.get_mut(if part == NAME { "company" } else { part }).expect("the section");
            at = match inner {
                toml::Value::Array(list) => list[0].as_table_mut().expect("a table"),
                other => other.as_table_mut().expect("a table"),
            };
        }
        at.remove(name);
        let absent = read(&without);
        match &key.absent {
            Absent::Refused => {
                assert!(
                    absent.as_ref().is_err_and(|error| error.contains(&format!("missing field `{name}`"))),
                    "{key:?}: {absent:?}"
                );
            }
            Absent::Nothing => {
                let absent = absent.unwrap_or_else(|error| panic!("{key:?}: {error}"));
                // Either the sample says something else, or it is not sound there, and then some other value does.
                assert!(
                    with_sample.map_or(true, |said| said != absent) || matches!(key.kind, Kind::List(_)),
                    "{key:?}"
                );
            }
            Absent::Value(default) => {
                let value = toml::Value::try_from(default).expect("TOML");
                let said = read(&least(section, Some((name, value))));
                assert_eq!(said.unwrap_or_else(|error| panic!("{key:?}: {error}")), absent.expect("sound"), "{key:?}");
                defaults += 1;
            }
        }
    }
    assert!(defaults > 40, "{defaults}");
}

/// TOML files that are configurations of ours.
fn shipped() -> Vec<String> {
    let mut listed = Command::new("git");
    listed.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.toml"]).current_dir(emulator::checkout());
    let files = String::from_utf8(listed.output().expect("git runs").stdout).expect("UTF-8");
    let ours = |file: &&str| {
        (file.starts_with("deploy/") || file.starts_with("examples/"))
            && text(file).parse::<toml::Table>().is_ok_and(|table| {
                table.contains_key("audit") || table.contains_key("edge") || table.contains_key("core")
            })
    };
    files.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn the_schema_takes_what_is_shipped_and_refuses_what_the_code_refuses() {
    let files = shipped();
    assert!(files.iter().any(|file| file == "examples/whitelistmcp.toml"), "{files:?}");
    let check = r#"
import json, sys, tomllib
import jsonschema
schema = json.load(open("docs/whitelistmcp.schema.json"))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
wrong = [f"{name}: {error.json_path}: {error.message}" for name in sys.argv[1:] for error in validator.iter_errors(tomllib.load(open(name, "rb")))]
bad = [
    {"egde": {}}, {"audit": {"directroy": "x"}}, {"edge": {}}, {"edge": {"public_url": "https://x/mcp", "listen": 1}},
    {"audit": {"volume": "sometimes"}}, {"core": {"peers": [{"san": "x", "role": "king"}]}}, {"oidc": {"issuer": "https://x"}},
    {"edge": {"public_url": "https://x/mcp", "backend": {"address": "x:1", "certificate": "a", "key": "b", "ca": "c", "d": 1}}},
]
wrong += [f"{case} is taken" for case in bad if validator.is_valid(case)]
print("\n".join(wrong))
sys.exit(bool(wrong))
"#;
    let mut python = Command::new(emulator::tool("python/bin/python"));
    let output = python.args(["-c", check]).args(&files).current_dir(emulator::checkout()).output().expect("it runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every variable of ours that the source reads is on the page.
#[test]
fn every_variable_is_in_the_reference() {
    let page = text("docs/CONFIGURATION.md");
    for (file, source) in sources() {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for name in source.split('"').filter(|word| {
            (word.starts_with("WHITELISTMCP_") || word.starts_with("MCP_"))
                && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                && !word.ends_with('_')
        }) {
            assert!(page.contains(name), "{file} reads {name}");
        }
    }
}

/// The source, without unit tests' own files.
fn sources() -> Vec<(String, String)> {
    fn collect(directory: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "tests.rs")
            {
                found.push((path.display().to_string(), std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    let mut found = Vec::new();
    collect(&emulator::checkout().join("src"), &mut found);
    found
}

/// Words in capitals in the source that are no reasons: the names of classes and codes, of variables, of signals.
fn is_reason(word: &str) -> bool {
    const OTHERS: [&str; 12] = [
        "ABANDONED",
        "ALREADY_EXISTS",
        "ASCII",
        "CORS_ORIGINS",
        "DATA_LOSS",
        "ERROR",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "OUT_DIR",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "SERVICE_CONTROL_POLICY",
    ];
    let shaped = word.len() > 3
        && !word.starts_with('_')
        && !word.ends_with('_')
        && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit());
    let variable = ["AWS_ENDPOINT_", "AWS_LAMBDA_", "CARGO_", "IDENTITY_", "MCP_", "OTEL_", "WHITELISTMCP_", "XDG_"]
        .iter()
        .any(|start| word.starts_with(start));
    let alone = !word.contains('_') && !["BUSY", "INTERNAL", "STRANGER"].contains(&word);
    shaped
        && !variable
        && !alone
        && !OTHERS.contains(&word)
        && !["AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "NOT_FOUND"].contains(&word)
}

/// The reasons in the tables of the page, each with its class.
fn documented() -> Vec<(String, String)> {
    let page = text("docs/ERRORS.md");
    let cell = |row: &str, n: usize| row.split(" | ").nth(n).map(|cell| cell.trim_matches(['|', ' ']).to_owned());
    let rows =
        page.lines().filter(|line| line.starts_with("| `")).filter_map(|row| Some((cell(row, 0)?, cell(row, 1)?)));
    rows.map(|(reason, class)| (reason.replace('`', ""), class)).filter(|(_, class)| class.starts_with('`')).collect()
}

/// Every reason that the source can give is on the page, with its class, and none is invented.
#[test]
fn the_page_of_errors_has_every_reason_and_no_other() {
    let rows = documented();
    let page: BTreeSet<&str> = rows.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(page.len(), rows.len(), "a reason stands there twice");
    let mut given = BTreeSet::new();
    for (file, source) in sources() {
        if ["/bridge/", "/telemetry/", "/bin/"].iter().any(|part| file.contains(part)) {
            continue;
        }
        let source = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        for word in source.split('"').filter(|word| is_reason(word)) {
            given.insert(word.to_owned());
        }
        // `Code::Unavailable, "AWS_SLOW"`: the class of many stands beside them.
        let mut before = "";
        for piece in source.split("Code::") {
            // Not HTTP's `StatusCode`, and not what stands before the first.
            let is_ours = !before.is_empty() && !before.ends_with(|c: char| c.is_ascii_alphanumeric());
            before = piece;
            let rest = piece.split_once(',').filter(|_| is_ours).map(|(class, rest)| (class, rest.trim_start()));
            let Some((class, rest)) = rest.filter(|(class, _)| class.bytes().all(|b| b.is_ascii_alphabetic())) else {
                continue;
            };
            let Some(word) =
                rest.strip_prefix('"').and_then(|rest| rest.split('"').next()).filter(|word| is_reason(word))
            else {
                continue;
            };
            let class = class
                .chars()
                .enumerate()
                .fold(String::new(), |text, (n, c)| {
                    if n > 0 && c.is_uppercase() { format!("{text}_{c}") } else { text + &c.to_string() }
                })
                .to_uppercase();
            let said =
                rows.iter().find(|(reason, _)| reason == word).map(|(_, said)| said.as_str()).unwrap_or_default();
            assert!(said.contains(&format!("`{class}`")), "{word} is {class} in {file}, and {said} on the page");
        }
    }
    let given: BTreeSet<&str> = given.iter().map(String::as_str).collect();
    assert_eq!(given.difference(&page).collect::<Vec<_>>(), Vec::<&&str>::new(), "not in docs/ERRORS.md");
    assert_eq!(page.difference(&given).collect::<Vec<_>>(), Vec::<&&str>::new(), "nowhere in the source");
    assert!(page.len() > 100, "{}", page.len());
}

/// The JSON-RPC codes and the bridge's are those of the source.
#[test]
fn the_page_of_errors_has_every_code() {
    let page = text("docs/ERRORS.md");
    let codes = text("src/mcp.rs");
    let codes = codes
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("i32 = ").map(|(_, code)| code.to_owned()));
    for code in codes {
        assert!(page.contains(&format!("| {code} | ")), "{code}");
    }
    let bridge = text("src/bridge/error.rs");
    let own =
        bridge.split("pub(super) fn code(").nth(1).and_then(|rest| rest.split("\n    }").next()).expect("the codes");
    for code in own
        .split("=> ")
        .skip(1)
        .filter_map(|rest| rest.split(',').next())
        .filter(|code| code.bytes().all(|b| b.is_ascii_digit()))
    {
        assert!(page.contains(&format!("\n| {code} | ")), "{code}");
    }
    for code in ["4001", "4002"] {
        assert!(page.contains(code) && text("src/edge/socket.rs").contains(code));
    }
}
