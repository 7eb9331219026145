use serde_json::json;

use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn begin(at: &str, call: &str, who: &str, tool: &str) -> (Timestamp, Value) {
    let record = json!({
        "type": "begin", "at": at, "call": call, "tool": tool, "changes": tool != "whitelist_list",
        "who": {"name": who, "id": format!("{who}-0123456789abcdef"), "issuer": "https://login.example", "subject": who},
        "target": {"account": "123456789012", "region": "eu-central-1", "group": "sg-1", "name": "staging-db"},
        "arguments": {"openings": [{"address": "203.0.113.7/32", "ports": {"protocol": "tcp", "from": 22, "to": 22}}]},
        "policies": ["people"],
    });
    (time(at), record)
}

fn rule(id: &str, source: &str, from: i64, to: i64, holder: &str) -> Value {
    json!({"id": id, "source": source, "protocol": "tcp", "from_port": from, "to_port": to,
           "leases": [{"holder_id": holder, "until": "2026-11-03T12:00:00Z", "call": "c"}]})
}

fn end(at: &str, call: &str, what: &str, touched: &[Value], before: &[Value], after: &[Value]) -> (Timestamp, Value) {
    let touched: Vec<Value> = touched
        .iter()
        .map(|rule| {
            let mut rule = rule.clone();
            rule["what"] = what.into();
            rule
        })
        .collect();
    let record = json!({"type": "end", "at": at, "call": call, "outcome": "done", "changed": true, "ms": 12,
        "rules": touched, "before": before, "after": after, "aws": [{"action": "sts:AssumeRole", "request_id": "r-1"}]});
    (time(at), record)
}

/// Alice opens ssh on the 2nd and it is closed on the 3rd; Bob opens a range on the 4th; somebody's rule stands all along.
fn records() -> Records {
    let (ssh, range) = (
        rule("sgr-ssh", "203.0.113.7/32", 22, 22, "alice-0123456789abcdef"),
        rule("sgr-range", "198.51.100.0/24", 8000, 8100, "bob-0123456789abcdef"),
    );
    let theirs = json!({"id": "sgr-theirs", "source": "10.0.0.0/8", "protocol": "-1", "from_port": -1, "to_port": -1});
    let mut records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        end(
            "2026-11-02T10:00:01Z",
            "c1",
            "opened",
            std::slice::from_ref(&ssh),
            std::slice::from_ref(&theirs),
            &[theirs.clone(), ssh.clone()],
        ),
        begin("2026-11-03T12:00:05Z", "c2", "reconciler", "close"),
        end(
            "2026-11-03T12:00:09Z",
            "c2",
            "removed",
            std::slice::from_ref(&ssh),
            &[theirs.clone(), ssh.clone()],
            std::slice::from_ref(&theirs),
        ),
        begin("2026-11-04T08:00:00Z", "c3", "bob", "whitelist_add"),
        end(
            "2026-11-04T08:00:01Z",
            "c3",
            "opened",
            std::slice::from_ref(&range),
            std::slice::from_ref(&theirs),
            &[theirs.clone(), range.clone()],
        ),
        begin("2026-11-04T09:00:00Z", "c4", "bob", "whitelist_add"),
    ];
    let refused = json!({"type": "refused", "at": "2026-11-04T10:00:00Z", "call": "c5", "tool": "whitelist_add",
        "who": {"name": "carol", "id": "carol-0123456789abcdef"}, "error": {"reason": "POLICY_FORBIDS"}, "policies": ["no-world"], "counted": 7});
    records.push((time("2026-11-04T10:00:00Z"), refused));
    Records { records, skipped: Vec::new() }
}

fn ids(filter: &Filter) -> Vec<String> {
    calls(&records(), filter).into_iter().map(|call| call.call).collect()
}

#[test]
fn calls_are_filtered_by_everything_that_is_known_of_them() {
    let all = Filter::default();
    assert_eq!(ids(&all), ["c1", "c2", "c3", "c4", "c5"]);
    for (filter, expected) in [
        (Filter { who: Some("alice".to_owned()), ..Filter::default() }, vec!["c1"]),
        (Filter { who: Some("bob-0123456789abcdef".to_owned()), ..Filter::default() }, vec!["c3", "c4"]),
        (Filter { outcome: Some("done".to_owned()), ..Filter::default() }, vec!["c1", "c2", "c3"]),
        (Filter { outcome: Some("unfinished".to_owned()), ..Filter::default() }, vec!["c4"]),
        (Filter { outcome: Some("policy_forbids".to_owned()), ..Filter::default() }, vec!["c5"]),
        (Filter { group: Some("staging-db".to_owned()), ..Filter::default() }, vec!["c1", "c2", "c3", "c4"]),
        (Filter { group: Some("sg-2".to_owned()), ..Filter::default() }, vec![]),
        (Filter { tool: Some("close".to_owned()), ..Filter::default() }, vec!["c2"]),
        (Filter { port: Some(8050), ..Filter::default() }, vec!["c3"]),
        (
            Filter { port: Some(22), since: Some(time("2026-11-03T00:00:00Z")), ..Filter::default() },
            vec!["c2", "c3", "c4"],
        ),
        (Filter { address: block("198.51.100.9"), port: Some(8000), ..Filter::default() }, vec!["c3"]),
        (Filter { until: Some(time("2026-11-03T00:00:00Z")), ..Filter::default() }, vec!["c1"]),
        (Filter { call: Some("c3".to_owned()), ..Filter::default() }, vec!["c3"]),
    ] {
        assert_eq!(ids(&filter), expected, "{filter:?}");
    }
    let refused = calls(&records(), &Filter { call: Some("c5".to_owned()), ..Filter::default() }).remove(0);
    assert_eq!((refused.counted, refused.reason.as_str()), (Some(7), "POLICY_FORBIDS"));
    let first = calls(&records(), &all).remove(0);
    assert_eq!(
        (first.rules, first.aws_request_ids),
        (vec!["opened 203.0.113.7/32 tcp/22 sgr-ssh".to_owned()], vec!["r-1".to_owned()])
    );
}

#[test]
fn who_could_reach_port_22_of_this_group_on_the_3rd() {
    let on = |day: u8, port| Filter {
        group: Some("staging-db".to_owned()),
        port: Some(port),
        since: Some(time(&format!("2026-11-0{day}T00:00:00Z"))),
        until: Some(time(&format!("2026-11-0{}T00:00:00Z", day + 1))),
        ..Filter::default()
    };
    let found = |day, port| {
        let doors = doors(&records(), &on(day, port));
        doors.into_iter().map(|door| door.rule).collect::<Vec<_>>()
    };
    assert_eq!(found(1, 22), Vec::<String>::new(), "nothing is known of that day");
    assert_eq!(found(2, 22), ["sgr-ssh", "sgr-theirs"]);
    assert_eq!(found(3, 22), ["sgr-ssh", "sgr-theirs"]);
    assert_eq!(found(4, 22), ["sgr-theirs"]);
    assert_eq!(found(4, 8100), ["sgr-theirs", "sgr-range"]);
    assert_eq!(found(5, 8101), ["sgr-theirs"]);
    let ssh = doors(&records(), &on(3, 22)).remove(0);
    assert_eq!((ssh.from, ssh.to), (time("2026-11-02T10:00:01Z"), Some(time("2026-11-03T12:00:09Z"))));
    assert_eq!((ssh.opened_by.as_str(), ssh.closed_by.as_str()), ("c1", "c2"));
    assert_eq!((ssh.opener.as_str(), ssh.closer.as_str()), ("alice-0123456789abcdef", "reconciler-0123456789abcdef"));
    assert_eq!(ssh.holders[0].id, "alice-0123456789abcdef");
    let theirs = doors(&records(), &on(3, 22)).remove(1);
    assert_eq!((theirs.opened_by.as_str(), theirs.to), ("", None));
}

fn of(rules: &[&Value]) -> Vec<Value> {
    rules.iter().map(|rule| (*rule).clone()).collect()
}

/// What was seen and is nobody's call.
fn observed(at: &str, what: &str, rule: &Value) -> (Timestamp, Value) {
    let target = json!({"account": "123456789012", "region": "eu-central-1", "group": "sg-1"});
    (time(at), json!({"type": "observed", "at": at, "what": what, "target": target, "rule": rule}))
}

/// The doors, each as its rule, ports, whom it was opened by, its end, and whom it was closed by.
fn told(records: Vec<(Timestamp, Value)>) -> Vec<String> {
    let doors = doors(&Records { records, skipped: Vec::new() }, &Filter::default());
    let end = |door: &Door| door.to.map_or("stands".to_owned(), |to| to.strftime("%H:%M").to_string());
    let from = |door: &Door| door.from.strftime("%H:%M").to_string();
    doors
        .iter()
        .map(|door| {
            let [by, closed] = [&door.opened_by, &door.closed_by].map(|call| if call.is_empty() { "?" } else { call });
            format!("{} {} {}-{} {by} {closed}", door.rule, door.ports, from(door), end(door))
        })
        .collect()
}

#[test]
fn a_change_does_not_close_what_others_open_meanwhile() {
    let [a, b, c] = ["sgr-a", "sgr-b", "sgr-c"].map(|id| rule(id, "203.0.113.7/32", 22, 22, "alice"));
    // Three openings at once, each of which saw an empty group; the last one was begun before the others ended.
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        begin("2026-11-02T10:00:00Z", "c2", "alice", "whitelist_add"),
        begin("2026-11-02T10:00:00Z", "c3", "alice", "whitelist_add"),
        end("2026-11-02T10:01:00Z", "c1", "opened", &of(&[&a]), &[], &of(&[&a])),
        end("2026-11-02T10:02:00Z", "c2", "opened", &of(&[&b]), &[], &of(&[&b])),
        end("2026-11-02T10:03:00Z", "c3", "opened", &of(&[&c]), &of(&[&a]), &of(&[&a, &c])),
    ];
    let expected =
        ["sgr-a tcp/22 10:01-stands c1 ?", "sgr-b tcp/22 10:02-stands c2 ?", "sgr-c tcp/22 10:03-stands c3 ?"];
    assert_eq!(told(records.clone()), expected);
    // Who is begun after that and misses one knows that it is gone.
    let mut later = records;
    later.push(begin("2026-11-02T11:00:00Z", "c4", "bob", "whitelist_add"));
    later.push(end("2026-11-02T11:01:00Z", "c4", "already_open", &of(&[&a]), &of(&[&a, &c]), &of(&[&a, &c])));
    assert_eq!(told(later.clone())[1], "sgr-b tcp/22 10:02-11:01 c2 ?");
    // AWS may not show what is young: what is seen again has not gone.
    later.push(begin("2026-11-02T12:00:00Z", "c5", "bob", "whitelist_add"));
    later.push(end("2026-11-02T12:01:00Z", "c5", "already_open", &of(&[&a]), &of(&[&a, &b, &c]), &of(&[&a, &b, &c])));
    assert_eq!(told(later), expected);
}

#[test]
fn an_older_look_does_not_bring_back_what_is_gone() {
    let (a, b) = (rule("sgr-a", "203.0.113.7/32", 22, 22, "alice"), rule("sgr-b", "203.0.113.8/32", 22, 22, "bob"));
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        end("2026-11-02T10:01:00Z", "c1", "opened", &of(&[&a]), &[], &of(&[&a])),
        begin("2026-11-02T11:00:00Z", "c2", "bob", "whitelist_add"),
        begin("2026-11-02T11:01:00Z", "c3", "alice", "whitelist_remove"),
        end("2026-11-02T11:02:00Z", "c3", "removed", &of(&[&a]), &of(&[&a]), &[]),
        end("2026-11-02T11:03:00Z", "c2", "opened", &of(&[&b]), &of(&[&a]), &of(&[&a, &b])),
    ];
    assert_eq!(told(records), ["sgr-a tcp/22 10:01-11:02 c1 c3", "sgr-b tcp/22 11:03-stands c2 ?"]);
}

#[test]
fn an_end_belongs_to_its_call_whatever_the_clocks_say() {
    let a = rule("sgr-a", "203.0.113.7/32", 22, 22, "alice");
    let begun = begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add");
    let ended = end("2026-11-02T09:59:00Z", "c1", "opened", &of(&[&a]), &[], &of(&[&a]));
    for records in [vec![begun.clone(), ended.clone()], vec![ended, begun]] {
        assert_eq!(told(records.clone()), ["sgr-a tcp/22 09:59-stands c1 ?"]);
        let calls = calls(&Records { records, skipped: Vec::new() }, &Filter::default());
        assert_eq!(calls[0].outcome, "done");
    }
    // The clock steps back between the opening and the removal.
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        end("2026-11-02T10:01:00Z", "c1", "opened", &of(&[&a]), &[], &of(&[&a])),
        begin("2026-11-02T09:10:00Z", "c2", "alice", "whitelist_remove"),
        end("2026-11-02T09:11:00Z", "c2", "removed", &of(&[&a]), &of(&[&a]), &[]),
    ];
    assert_eq!(told(records), ["sgr-a tcp/22 10:01-09:11 c1 c2"]);
}

#[test]
fn who_opened_a_recovered_door_and_when_is_known() {
    let mut own = rule("sgr-a", "203.0.113.7/32", 22, 22, "alice");
    own["call"] = "c1".into();
    let mut joined = rule("sgr-b", "203.0.113.8/32", 22, 22, "alice");
    joined["call"] = "c0".into();
    let (at, mut recovered) = end("2026-11-02T12:01:00Z", "c1", "stands", &of(&[&own, &joined]), &[], &[]);
    recovered["recovered_by"] = "r".into();
    for name in ["before", "after"] {
        recovered.as_object_mut().expect("an object").remove(name);
    }
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        // Somebody sees it before its end is found out.
        begin("2026-11-02T11:00:00Z", "c2", "bob", "whitelist_add"),
        end("2026-11-02T11:01:00Z", "c2", "already_open", &of(&[&own]), &of(&[&own]), &of(&[&own])),
        begin("2026-11-02T12:00:00Z", "r", "recovery", "recover"),
        (at, recovered),
    ];
    assert_eq!(told(records.clone()), ["sgr-a tcp/22 10:00-stands c1 ?", "sgr-b tcp/22 12:01-stands ? ?"]);
    let opener = doors(&Records { records: records.clone(), skipped: Vec::new() }, &Filter::default()).remove(0).opener;
    assert_eq!(opener, "alice-0123456789abcdef");
    // Whatever word the recovery has for it, and though nobody saw it before.
    let mut other = vec![records[0].clone(), records[4].clone()];
    other[1].1["rules"] = json!([own]);
    other[1].1["rules"][0]["what"] = "opened".into();
    assert_eq!(told(other), ["sgr-a tcp/22 10:00-stands c1 ?"]);
}

#[test]
fn a_rule_that_was_moved_or_changed_is_a_door_for_each_of_its_states() {
    let is = |port| rule("sgr-a", "203.0.113.7/32", port, port, "alice");
    let (ssh, web, other) = (is(22), is(443), is(8080));
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        end("2026-11-02T10:01:00Z", "c1", "opened", &of(&[&ssh]), &[], &of(&[&ssh])),
        begin("2026-11-02T11:00:00Z", "c2", "bob", "whitelist_add"),
        begin("2026-11-02T11:01:00Z", "c3", "alice", "whitelist_move"),
        end("2026-11-02T11:02:00Z", "c3", "moved", &of(&[&web]), &of(&[&ssh]), &of(&[&web])),
        // It looked before the move.
        end("2026-11-02T11:03:00Z", "c2", "already_open", &[], &of(&[&ssh]), &of(&[&ssh])),
        observed("2026-11-02T12:00:00Z", "changed", &other),
        begin("2026-11-02T13:00:00Z", "c4", "bob", "whitelist_add"),
        end("2026-11-02T13:01:00Z", "c4", "already_open", &[], &of(&[&ssh]), &of(&[&ssh])),
        observed("2026-11-02T14:00:00Z", "gone", &ssh),
    ];
    let expected = [
        "sgr-a tcp/22 10:01-11:02 c1 c3",
        "sgr-a tcp/443 11:02-12:00 c3 ?",
        "sgr-a tcp/8080 12:00-13:01 ? ?",
        "sgr-a tcp/22 13:01-14:00 ? ?",
    ];
    assert_eq!(told(records.clone()), expected);
    let records = Records { records, skipped: Vec::new() };
    let reached = doors(&records, &Filter { port: Some(22), ..Filter::default() });
    assert_eq!(reached.len(), 2, "{reached:?}");
    assert!(reached.iter().all(|door| door.name == "staging-db"), "{reached:?}");
}

#[test]
fn what_would_be_is_no_door() {
    let a = rule("sgr-a", "203.0.113.7/32", 22, 22, "alice");
    let web = rule("sgr-a", "203.0.113.7/32", 443, 443, "alice");
    let records = vec![
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_move"),
        end("2026-11-02T10:01:00Z", "c1", "would_move", &of(&[&web]), &of(&[&a]), &of(&[&web])),
    ];
    assert_eq!(told(records), ["sgr-a tcp/22 10:01-stands ? ?"]);
}

/// A directory that goes with the test.
struct Written(std::path::PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

impl Written {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("whitelistmcp-show-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, number: u32, end: &str) -> std::path::PathBuf {
        self.0.join(format!("journal-01980000-0000-7000-8000-000000000001-{number:06}.jsonl{end}"))
    }

    fn write(&self, number: u32, records: &[(Timestamp, Value)], rest: &str) {
        let lines: String = records.iter().map(|(_, record)| format!("{record}\n")).collect();
        std::fs::write(self.file(number, ""), lines + rest).expect("written");
    }

    fn outcomes(&self) -> (Vec<String>, Vec<Skipped>) {
        let records = Records::read(&self.0).expect("it reads");
        let calls = calls(&records, &Filter::default());
        (calls.into_iter().map(|call| format!("{} {}", call.call, call.outcome)).collect(), records.skipped)
    }
}

#[test]
fn a_clock_that_steps_back_loses_no_end_and_no_order() {
    let written = Written::new();
    let lines = [
        begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add"),
        end("2026-11-02T09:00:00Z", "c1", "opened", &[], &[], &[]),
        begin("2026-11-02T09:00:01Z", "c2", "alice", "whitelist_add"),
    ];
    written.write(1, &lines, "{\"v\":2,\"se");
    let (calls, skipped) = written.outcomes();
    assert_eq!(calls, ["c1 done", "c2 unfinished"]);
    assert_eq!(skipped.iter().map(|skipped| (skipped.line, skipped.is_loss())).collect::<Vec<_>>(), [(4, false)]);
}

#[test]
fn a_file_that_cannot_be_read_hides_no_other() {
    let written = Written::new();
    written.write(1, &[begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add")], "no line of ours\n");
    std::fs::write(written.file(2, ".gz"), "no such thing").expect("written");
    std::os::unix::fs::symlink("nowhere", written.file(3, "")).expect("a link");
    std::fs::create_dir(written.file(4, "")).expect("a directory");
    written.write(5, &[begin("2026-11-02T11:00:00Z", "c2", "alice", "whitelist_add")], "");
    let (calls, skipped) = written.outcomes();
    assert_eq!(calls, ["c1 unfinished", "c2 unfinished"]);
    assert!(skipped.iter().all(Skipped::is_loss), "{skipped:?}");
    let told: Vec<_> = skipped.iter().map(|skipped| (skipped.path.clone(), skipped.line)).collect();
    assert_eq!(
        told,
        [(written.file(1, ""), 2), (written.file(2, ".gz"), 1), (written.file(3, ""), 1), (written.file(4, ""), 1)]
    );
}

#[test]
fn a_file_that_was_compressed_or_let_go_of_since_it_was_listed_is_no_failure() {
    let written = Written::new();
    written.write(1, &[begin("2026-11-02T10:00:00Z", "c1", "alice", "whitelist_add")], "");
    let plain = std::fs::read(written.file(1, "")).expect("read");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gz, &plain).expect("compressed");
    std::fs::write(written.file(1, ".gz"), gz.finish().expect("compressed")).expect("written");
    std::fs::remove_file(written.file(1, "")).expect("removed");
    let listed = |number| {
        let (mut timed, mut skipped) = (Vec::new(), Vec::new());
        read::read(&written.file(number, ""), &mut Timestamp::MIN.clone(), &mut timed, &mut skipped);
        (timed.len(), skipped)
    };
    assert_eq!(listed(1), (1, Vec::new()), "it is there by its other name");
    assert_eq!(listed(2), (0, Vec::new()), "it is gone");
}
