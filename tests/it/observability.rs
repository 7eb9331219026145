//! The dashboard and the alert rules load, and speak of nothing that the service does not measure.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::emulator::checkout;

/// The series that Prometheus makes of what the service measures, when that arrives by OTLP: dots become `_`, the unit is
/// added unless the name says it, and counters and histograms have endings of their own.
///
/// Source: OpenTelemetry specification, "Prometheus and `OpenMetrics` Compatibility".
fn measured() -> BTreeSet<String> {
    let source = include_str!("../../src/telemetry/metrics.rs");
    let mut series = BTreeSet::new();
    let mut before = "";
    for (n, part) in source.split('"').enumerate() {
        // Every other part stands between quotation marks.
        let (code, name) = (std::mem::replace(&mut before, part), part);
        let ours = ["whitelistmcp.", "mcp.server.", "http.server.", "rpc."].iter().any(|start| name.starts_with(start));
        // The call whose first argument it is.
        let call = code
            .strip_suffix('(')
            .and_then(|code| code.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next());
        let Some(call) = call.filter(|_| n % 2 == 1 && ours && !name.contains(' ')) else { continue };
        let rest = source.split_once(&format!("\"{name}\"")).map(|(_, rest)| rest).unwrap_or_default();
        let built = rest.split(".build()").next().unwrap_or_default();
        let unit = match built.split_once(".with_unit(\"").and_then(|(_, unit)| unit.split('"').next()) {
            _ if ["histogram", "bounded"].contains(&call) => "seconds",
            Some("s") => "seconds",
            Some("d") => "days",
            Some(other) => panic!("{name}: which word is the unit {other}?"),
            None => "",
        };
        let mut base = name.replace('.', "_");
        if !unit.is_empty() && !base.split('_').any(|word| word == unit) {
            base = format!("{base}_{unit}");
        }
        match call {
            "u64_counter" => drop(series.insert(format!("{base}_total"))),
            "histogram" | "bounded" => series.extend(["bucket", "count", "sum"].map(|end| format!("{base}_{end}"))),
            call if call.contains("gauge") || call == "i64_up_down_counter" => drop(series.insert(base)),
            call => assert!(name.starts_with("mcp.") || call == "new", "{name} is made by {call}"),
        }
    }
    series
}

/// The series that an expression speaks of.
fn spoken_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| {
        ["whitelistmcp_", "mcp_server_", "http_server_", "rpc_server_", "rpc_client_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    ours.map(str::to_owned).collect()
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
    // Each rule speaks up where it must, and only there.
    let tested = Command::new("promtool")
        .args(["test", "rules", "alerts_test.yaml"])
        .current_dir(checkout().join("deploy/observability"))
        .output()
        .expect("promtool");
    let said = String::from_utf8_lossy(&tested.stdout).into_owned() + &String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
    let tests = std::fs::read_to_string(checkout().join("deploy/observability/alerts_test.yaml")).expect("tests");
    tests.lines().filter_map(|line| line.split_once("series: '")?.1.split('{').next()).for_each(assert_measured);
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
