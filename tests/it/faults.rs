//! Faults of everything around the service, on the real stack: the network cut at every stage, AWS that throttles, fails or
//! falls silent, disks that are full, read-only, lost or put back from yesterday. Afterwards the journal verifies, or says what is missing, and
//! nothing is in AWS without its entry.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::processes::Processes;
use crate::support::proxy::Proxy;
use crate::support::{Options, Stack, eventually};

fn add(n: usize) -> Value {
    json!({"security_group": "staging-db", "address": format!("203.0.113.{n}"), "port": "22", "reason": "a fault", "duration": "1h"})
}

fn verified(directory: &Path, more: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["audit", "verify", "--directory"])
        .arg(directory)
        .args(more)
        .output()
        .expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every change in AWS has its entry.
fn nothing_without_entry(aws: &AwsDouble, journal: &[Value]) {
    let begun: BTreeSet<&str> =
        journal.iter().filter(|entry| entry["type"] == "begin").filter_map(|entry| entry["call"].as_str()).collect();
    for rule in aws.standing() {
        let call = rule.tags.get("whitelistmcp:call").expect("a rule of ours");
        assert!(begun.contains(call.as_str()), "{rule:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_aws_that_is_cut_at_any_byte_loses_no_entry() {
    let aws = AwsDouble::start().await;
    let proxy = Proxy::start(aws.access().endpoint.trim_start_matches("http://").parse().expect("an address")).await;
    let mut access = aws.access();
    access.endpoint = format!("http://{}", proxy.address);
    let stack = Stack::with(&access, Options::default()).await;
    // The answer to the first request, then to the second, is cut after so many bytes; or the request is.
    for (n, (up, down)) in [
        (0, None),
        (200, None),
        (1500, None),
        (usize::MAX, Some(0)),
        (usize::MAX, Some(100)),
        (usize::MAX, Some(1200)),
        (4000, None),
        (usize::MAX, Some(3000)),
        (usize::MAX, Some(4500)),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.cut_after(up, down.unwrap_or(usize::MAX));
        let result = stack.call("whitelist_add", add(n)).await;
        proxy.heal();
        if result["isError"] == true {
            let error = crate::support::error_of(&result);
            assert!(
                ["AWS_NO_ANSWER", "AWS_UNREACHABLE", "AWS_UNAVAILABLE", "AWS_UNSETTLED", "AWS_NOT_ANSWERING"]
                    .contains(&error["reason"].as_str().unwrap_or_default()),
                "{error:#}"
            );
            assert_eq!(error["retryable"], true);
        }
    }
    let entries = stack
        .journal_when(|entries| {
            let of = |kind: &str| entries.iter().filter(|entry| entry["type"] == kind).count();
            of("begin") == of("end")
        })
        .await;
    nothing_without_entry(&aws, &entries);
    for end in entries.iter().filter(|entry| entry["type"] == "end") {
        let shown = aws
            .standing()
            .iter()
            .any(|rule| rule.tags.get("whitelistmcp:call").map(String::as_str) == end["call"].as_str());
        match end["changed"].as_bool() {
            Some(true) => assert!(shown, "{end:#}"),
            Some(false) => assert!(!shown, "{end:#}"),
            None => assert_eq!(end["outcome"], "unknown"),
        }
    }
    stack.stop().await;
    let (sound, said) = verified(&stack.directory.path().join("journal"), &[]);
    assert!(sound, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_lost_while_it_is_written_stops_every_change_and_no_read() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", add(1)).await;
    let (journal, aside) = (stack.directory.path().join("journal"), stack.directory.path().join("aside"));
    std::fs::rename(&journal, &aside).expect("moved");
    let error = stack.refused("whitelist_add", add(2)).await;
    assert_eq!((error["reason"].as_str(), error["retryable"].as_bool()), (Some("AUDIT_UNAVAILABLE"), Some(true)));
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(aws.standing().len(), 1);
    std::fs::rename(&aside, &journal).expect("put back");
    eventually("changes go on", async || (stack.call("whitelist_add", add(2)).await["isError"] == false).then_some(()))
        .await;
    stack.stop().await;
    let (sound, said) = verified(&journal, &[]);
    assert!(sound, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yesterdays_journal_put_back_is_found_by_heads_and_from_awss_side() {
    let aws = AwsDouble::start().await;
    let options =
        Options { leases: Some("settle = \"30ms\"\ninterval = \"1s\"\ndiscover = false\n"), ..Options::default() };
    let mut service = Processes::start(&aws.access(), &options, &[]).await;
    assert_eq!(service.call("whitelist_add", add(1)).await["isError"], false);
    let (journal, yesterday) = (service.path().join("journal"), service.path().join("yesterday"));
    eventually("the first call has its end", async || {
        service.journal().iter().any(|entry| entry["type"] == "end").then_some(())
    })
    .await;
    let copied = Command::new("cp").arg("-a").arg(&journal).arg(&yesterday).status().expect("cp runs");
    assert!(copied.success());
    assert_eq!(service.call("whitelist_add", add(2)).await["isError"], false);
    service.core.signal("TERM");
    service.core.end_within(Duration::from_secs(40)).await;
    // What left the host.
    let heads = service.path().join("heads.jsonl");
    std::fs::write(&heads, crate::support::journal_lines(&journal).join("\n")).expect("written");
    std::fs::remove_dir_all(&journal).expect("lost");
    std::fs::rename(&yesterday, &journal).expect("put back");
    let heads = heads.to_str().expect("a path");
    let (sound, said) = verified(&journal, &["--heads", heads]);
    assert!(!sound && said.contains("older copy"), "{said}");

    // The service that starts on it finds the rule whose entry is gone.
    service.core.begin();
    service.listen().await;
    eventually("the alarm", async || {
        let entries = service.journal();
        entries.iter().any(|entry| entry["type"] == "observed" && entry["what"] == "unrecorded").then_some(())
    })
    .await;
    let (sound, said) = verified(&journal, &["--heads", heads]);
    assert!(!sound, "{said}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_lost_is_missed() {
    let aws = AwsDouble::start().await;
    let mut service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    assert_eq!(service.call("whitelist_add", add(1)).await["isError"], false);
    service.core.signal("TERM");
    service.core.end_within(Duration::from_secs(40)).await;
    let journal = service.path().join("journal");
    let heads = service.path().join("heads.jsonl");
    std::fs::write(&heads, crate::support::journal_lines(&journal).join("\n")).expect("written");
    let id = std::fs::read_to_string(journal.join("journal-id")).expect("an id");
    std::fs::remove_dir_all(&journal).expect("lost");

    // A core that knows which journal it must have changes nothing on an empty one.
    let config = service.path().join("core.toml");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(&config, text.replace("[audit]\n", &format!("[audit]\njournal = \"{id}\"\n"))).expect("written");
    service.core.begin();
    service.listen().await;
    let error = crate::support::error_of(&service.call("whitelist_add", add(2)).await);
    assert_eq!(error["reason"], "AUDIT_NOT_KEPT");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("which `[audit] journal` names")), "{error:#}");
    assert_eq!(service.call("whitelist_list", json!({"security_group": "staging-db"})).await["isError"], false);
    assert_eq!(aws.standing().len(), 1);
    service.stop().await;
    // And whoever has the heads of the lost one knows what is missing.
    std::fs::write(journal.join("journal-id"), &id).expect("written");
    let (sound, said) = verified(&journal, &["--heads", heads.to_str().expect("a path")]);
    assert!(!sound && said.contains("the chain is missing from line 1 on"), "{said}");
}

/// A mount of a kind in a namespace of the test's own, in which the whole service runs: `script` finds it at `$AT`.
async fn in_namespace(mount: &str, during: &str, expect: impl Fn(&str)) {
    let aws = AwsDouble::start().await;
    let ground = crate::support::Ground::new(&Options::default()).await;
    let port = crate::support::collector::free_port();
    let config = crate::support::core_file(&ground.directory, &aws.access(), &Options::default(), &ground.issuer, port);
    let at = ground.directory.path().display().to_string();
    let config =
        ground.directory.write("core.toml", &config.replace(&format!("{at}/journal"), &format!("{at}/volume/journal")));
    std::fs::create_dir_all(ground.directory.path().join("volume")).expect("a directory");
    let script = format!(
        "set -eu\n{mount}\n{binary} core --config {config} >{at}/core.log 2>&1 &\ncore=$!\ntrap 'kill -9 $core 2>/dev/null || true' EXIT\ntouch {at}/begun\n{during}\nkill -TERM $core\nwait $core\n{binary} audit verify --directory {at}/volume/journal",
        binary = env!("CARGO_BIN_EXE_whitelistmcp"),
        config = config.display(),
    );
    let script = script.replace("$AT", &at);
    let child = tokio::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a namespace; the tests run as root");
    crate::support::processes::listens(port, || {
        std::fs::read_to_string(ground.directory.path().join("core.log")).unwrap_or_default()
    })
    .await;
    let mut client = whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient::new(
        crate::support::tls::channel(ground.directory.path(), "ci-runner", port),
    );
    let mut open = async |n: usize| {
        let request = whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
            security_group: "staging-db".to_owned(),
            address: format!("203.0.113.{n}"),
            port: "22".to_owned(),
            reason: "a disk".to_owned(),
            ..Default::default()
        };
        client.add_rule(request).await
    };
    open(1).await.expect("opened while the disk is well");
    std::fs::write(ground.directory.path().join("break"), "").expect("written");
    let mut refused = None;
    for n in 2..60 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Err(status) = open(n % 50).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("refused while it is not");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("the audit journal cannot be written"), "{refused:?}");
    let stood = aws.standing().len();
    let list = whitelistmcp::pb::whitelistmcp::v1::ListRulesRequest {
        security_group: "staging-db".to_owned(),
        ..Default::default()
    };
    let mut reader = whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient::new(
        crate::support::tls::channel(ground.directory.path(), "ci-runner", port),
    );
    reader.list_rules(list).await.expect("reads go on");
    let mut health = tonic_health::pb::health_client::HealthClient::new(crate::support::tls::channel(
        ground.directory.path(),
        "ci-runner",
        port,
    ));
    eventually("it is not ready", async || {
        let request = tonic_health::pb::HealthCheckRequest { service: "whitelistmcp.v1.WhitelistService".to_owned() };
        let status = health.check(request).await.expect("an answer").into_inner().status;
        (status == tonic_health::pb::health_check_response::ServingStatus::NotServing as i32).then_some(())
    })
    .await;
    assert!(open(60).await.is_err() && aws.standing().len() == stood, "nothing is changed");
    std::fs::write(ground.directory.path().join("mend"), "").expect("written");
    eventually("changes go on", async || open(61).await.ok().map(drop)).await;
    std::fs::write(ground.directory.path().join("end"), "").expect("written");
    let output = child.wait_with_output().await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = std::fs::read_to_string(ground.directory.path().join("core.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}{}{log}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("nothing speaks against it"), "{said}");
    expect(&log);
}

const WAIT: &str = "until [ -e $AT/break ]; do sleep 0.02; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_stops_every_change_until_there_is_room() {
    let during = format!(
        "{WAIT}\ndd if=/dev/zero of=$AT/volume/ballast bs=4k 2>/dev/null || true\nuntil [ -e $AT/mend ]; do sleep 0.02; done\nrm $AT/volume/ballast\nuntil [ -e $AT/end ]; do sleep 0.02; done"
    );
    in_namespace("mount -t tmpfs -o size=1m tmpfs $AT/volume", &during, |log| {
        assert!(log.contains("No space left on device"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_may_not_be_written_any_more_stops_every_change() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", add(1)).await;
    let file = crate::support::journal_file(&stack.directory.path().join("journal"));
    let change = |flag: &str| Command::new("chattr").arg(flag).arg(&file).status().expect("chattr runs").success();
    // An open file is no way around it: the kernel refuses each write, as on a file system that has become read-only.
    assert!(change("+i"), "the temporary directory must be on a file system that knows immutable files");
    let error = stack.refused("whitelist_add", add(2)).await;
    assert_eq!(error["reason"], "AUDIT_UNAVAILABLE");
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(aws.standing().len(), 1);
    assert!(change("-i"));
    eventually("changes go on", async || (stack.call("whitelist_add", add(2)).await["isError"] == false).then_some(()))
        .await;
    stack.stop().await;
    let (sound, said) = verified(&stack.directory.path().join("journal"), &[]);
    assert!(sound, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_starts_on_a_read_only_file_system_reads_and_changes_once_it_is_mended() {
    let aws = AwsDouble::start().await;
    let ground = crate::support::Ground::new(&Options::default()).await;
    let port = crate::support::collector::free_port();
    let config = crate::support::core_file(&ground.directory, &aws.access(), &Options::default(), &ground.issuer, port);
    let at = ground.directory.path().display().to_string();
    let config =
        ground.directory.write("core.toml", &config.replace(&format!("{at}/journal"), &format!("{at}/volume/journal")));
    std::fs::create_dir_all(ground.directory.path().join("volume")).expect("a directory");
    let script = format!(
        "set -eu
mount -t tmpfs -o size=8m tmpfs {at}/volume
mkdir {at}/volume/journal
mount -o remount,ro {at}/volume
{binary} core --config {config} >{at}/core.log 2>&1 &
core=$!
trap 'kill -9 $core 2>/dev/null || true' EXIT
until [ -e {at}/mend ]; do sleep 0.02; done
mount -o remount,rw {at}/volume
until [ -e {at}/end ]; do sleep 0.02; done
kill -TERM $core
wait $core
{binary} audit verify --directory {at}/volume/journal",
        binary = env!("CARGO_BIN_EXE_whitelistmcp"),
        config = config.display(),
    );
    let child = tokio::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a namespace; the tests run as root");
    let log = || std::fs::read_to_string(ground.directory.path().join("core.log")).unwrap_or_default();
    crate::support::processes::listens(port, log).await;
    let channel = || crate::support::tls::channel(ground.directory.path(), "ci-runner", port);
    let mut client =
        whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient::new(channel());
    let list = whitelistmcp::pb::whitelistmcp::v1::ListRulesRequest {
        security_group: "staging-db".to_owned(),
        ..Default::default()
    };
    client.list_rules(list).await.expect("it reads");
    let open = whitelistmcp::pb::whitelistmcp::v1::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: "203.0.113.1".to_owned(),
        port: "22".to_owned(),
        reason: "a disk".to_owned(),
        ..Default::default()
    };
    let refused = client.add_rule(open.clone()).await.expect_err("it changes nothing");
    let refusal = whitelistmcp::grpc::status::Refusal::of(&refused);
    assert_eq!(refusal.reason, "AUDIT_UNAVAILABLE", "{refused:?}");
    assert!(refusal.retry_after.is_some() && aws.standing().is_empty());
    assert!(log().contains("the audit journal cannot be opened"), "{}", log());
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel());
    let request = tonic_health::pb::HealthCheckRequest { service: "journal".to_owned() };
    let status = health.check(request).await.expect("an answer").into_inner().status;
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::NotServing as i32);
    std::fs::write(ground.directory.path().join("mend"), "").expect("written");
    eventually("changes go on", async || client.add_rule(open.clone()).await.ok().map(drop)).await;
    std::fs::write(ground.directory.path().join("end"), "").expect("written");
    let output = child.wait_with_output().await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}{}", String::from_utf8_lossy(&output.stderr), log());
    assert!(said.contains("nothing speaks against it"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emulator_that_is_killed_in_the_middle_of_changes_leaves_true_entries() {
    let moto = crate::support::emulator::Moto::start();
    let stack = std::sync::Arc::new(Stack::with(&moto.access, Options::default()).await);
    let group = moto.access.groups.first().expect("a group").0.clone();
    // Four at once: some are before it, some in the middle, some after, however busy the machine is.
    let (at_once, (over, mut answered)) =
        (std::sync::Arc::new(tokio::sync::Semaphore::new(4)), tokio::sync::watch::channel(0));
    let over = std::sync::Arc::new(over);
    let calls: Vec<_> = (1..=40_usize)
        .map(|n| {
            let (stack, group) = (std::sync::Arc::clone(&stack), group.clone());
            let (at_once, over) = (std::sync::Arc::clone(&at_once), std::sync::Arc::clone(&over));
            tokio::spawn(async move {
                let _place = at_once.acquire().await.expect("open");
                let mut arguments = add(n);
                arguments["security_group"] = group.into();
                let answer = stack.call("whitelist_add", arguments).await;
                over.send_modify(|over| *over += 1);
                answer
            })
        })
        .collect();
    answered.wait_for(|over| *over >= 8).await.expect("it lives");
    moto.kill();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic"));
    }
    let entries = stack
        .journal_when(|entries| {
            let of = |kind: &str| entries.iter().filter(|entry| entry["type"] == kind).count();
            of("begin") >= 40 && of("begin") == of("end")
        })
        .await;
    let end = |call: &str| {
        entries.iter().find(|entry| entry["type"] == "end" && entry["call"] == call).expect("an end").clone()
    };
    let (mut done, mut lost) = (0, 0);
    for answer in &answers {
        if answer["isError"] == false {
            let call = answer["structuredContent"]["call_id"].as_str().expect("a call");
            assert_eq!(end(call)["outcome"], "done");
            done += 1;
        } else {
            let error = crate::support::error_of(answer);
            let end = end(error["facts"]["call_id"].as_str().expect("a call"));
            // What was cut off is said to be unknown, and what never reached AWS to have failed.
            assert!(["failed", "unknown", "partly"].contains(&end["outcome"].as_str().unwrap_or_default()), "{end:#}");
            let authorized = end["aws"].as_array().is_some_and(|calls| {
                calls
                    .iter()
                    .any(|call| call["action"] == "ec2:AuthorizeSecurityGroupIngress" && call["error"] == "NoAnswer")
            });
            assert!(!authorized || end["outcome"] != "failed" || end["changed"] == false, "{end:#}");
            lost += 1;
        }
    }
    assert!(done > 0 && lost > 0, "{done} were done, {lost} were not");
    stack.stop().await;
    let (sound, said) = verified(&stack.directory.path().join("journal"), &[]);
    assert!(sound, "{said}");
}
