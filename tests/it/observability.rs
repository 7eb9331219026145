//! The dashboard and the alert rules load, and speak of nothing that the service does not measure.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::emulator::checkout;

/// The instruments that the service makes, as Prometheus calls what arrives of them by OTLP, without a unit's or a kind's
/// ending.
fn measured() -> BTreeSet<String> {
    let source = include_str!("../../src/telemetry/metrics.rs");
    let names = source.split('"').filter(|word| {
        ["whitelistmcp.", "mcp.", "http.server.", "rpc."].iter().any(|start| word.starts_with(start))
            && !word.contains(' ')
    });
    names.map(|name| name.replace('.', "_")).collect()
}

/// The metrics that an expression speaks of.
fn spoken_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| {
        ["whitelistmcp_", "mcp_server", "http_server", "rpc_server", "rpc_client"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    ours.map(|word| {
        let mut name = word.to_owned();
        for ending in ["_bucket", "_count", "_sum", "_total", "_seconds", "_days"] {
            name = name.strip_suffix(ending).unwrap_or(&name).to_owned();
        }
        name
    })
    .collect()
}

fn assert_measured(expression: &str) {
    let measured = measured();
    let spoken = spoken_of(expression);
    assert!(!spoken.is_empty(), "{expression}");
    for name in spoken {
        assert!(measured.contains(&name), "{name} is not measured: {expression}\n{measured:#?}");
    }
}

#[test]
fn the_alert_rules_load_and_speak_of_what_is_measured() {
    let path = checkout().join("deploy/observability/alerts.yaml");
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output()
        .expect("promtool; `make tools` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(path).expect("rules");
    let expressions: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), text.matches("- alert: ").count());
    expressions.into_iter().for_each(assert_measured);
}

#[test]
fn the_dashboard_is_whole_and_speaks_of_what_is_measured() {
    let text = std::fs::read_to_string(checkout().join("deploy/observability/dashboard.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    assert!(dashboard["uid"].is_string() && dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel:#}");
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().zip(at["w"].as_u64()).is_some_and(|(x, width)| x + width <= 24), "{at}");
        for target in panel["targets"].as_array().expect("targets") {
            assert_measured(target["expr"].as_str().expect("an expression"));
        }
    }
}
