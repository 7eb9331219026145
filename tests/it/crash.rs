//! kill -9 between the begin of a change and its end: at every await, and at random. Afterwards the journal verifies, every
//! change in AWS has its entry, and every entry's outcome is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use whitelistmcp::audit::verify::{Given, verify};
use whitelistmcp::pb::whitelistmcp::v1 as pb;
use whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient;

use crate::support::aws_double::{AwsDouble, Change, Fault, What};
use crate::support::collector::free_port;
use crate::support::processes::{Process, listens};
use crate::support::{GROUP, Ground, Options, core_file, eventually, journal, tls};

/// A core that can be killed, and AWS below it.
struct Core {
    aws: AwsDouble,
    ground: Ground,
    process: Process,
    port: u16,
}

impl Core {
    async fn start() -> Self {
        Self::with(&Options::default()).await
    }

    async fn with(options: &Options) -> Self {
        let aws = AwsDouble::start().await;
        let ground = Ground::new(options).await;
        let port = free_port();
        let config = core_file(&ground.directory, &aws.access(), options, &ground.issuer, port);
        let config = ground.directory.write("core.toml", &config);
        let log = ground.directory.path().join("core.log");
        let process = Process::start(&["core", "--config", config.to_str().expect("a path")], &[], log);
        let core = Self { aws, ground, process, port };
        core.listens().await;
        core
    }

    async fn listens(&self) {
        listens(self.port, || self.process.log()).await;
    }

    fn client(&self) -> WhitelistServiceClient<tonic::transport::Channel> {
        client(self.ground.directory.path(), self.port)
    }

    fn journal(&self) -> Vec<Value> {
        journal(&self.path())
    }

    fn path(&self) -> std::path::PathBuf {
        self.ground.directory.path().join("journal")
    }

    /// Starts it again, and waits until everything of the ones before is accounted for.
    async fn recover(&mut self) {
        let locks = |path: &Path| {
            let files = std::fs::read_dir(path).expect("a journal").flatten().map(|file| file.path());
            files.filter(|file| file.extension().is_some_and(|end| end == "lock")).collect::<Vec<_>>()
        };
        let left = locks(&self.path());
        self.process.begin();
        self.listens().await;
        // Of two hundred that were killed there may be many.
        for _ in 0..600 {
            if left.iter().all(|lock| !lock.exists()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not every chain that was left is accounted for: {}", self.process.log());
    }

    /// Ends it in order, and looks at everything that it and the ones before have left.
    async fn settle(&mut self) {
        self.process.signal("TERM");
        let status = self.process.end_within(Duration::from_secs(40)).await;
        assert!(status.success(), "{status}: {}", self.process.log());
        check(&self.path(), &self.journal(), &self.aws.history());
    }
}

fn client(directory: &Path, port: u16) -> WhitelistServiceClient<tonic::transport::Channel> {
    WhitelistServiceClient::new(tls::channel(directory, "ci-runner", port))
}

fn adding(address: &str) -> pb::AddRuleRequest {
    pb::AddRuleRequest {
        security_group: "staging-db".to_owned(),
        address: address.to_owned(),
        port: "22".to_owned(),
        reason: "a crash".to_owned(),
        duration: "1h".to_owned(),
        ..Default::default()
    }
}

/// The calls that a change in AWS shows.
fn calls_of(change: &Change) -> BTreeSet<String> {
    let tags = &change.rule.tags;
    match change.what {
        What::Made => tags.get("whitelistmcp:call").cloned().into_iter().collect(),
        What::Revoked => {
            tags.keys().filter_map(|key| key.strip_prefix("whitelistmcp:closing:")).map(str::to_owned).collect()
        }
        What::Modified | What::Tagged | What::Untagged => {
            let leases = tags.iter().filter(|(key, _)| key.starts_with("whitelistmcp:holder:"));
            leases.filter_map(|(_, lease)| lease.split(' ').nth(2)).map(str::to_owned).collect()
        }
    }
}

/// The journal verifies; every change in AWS has its entry; every entry has one end, and it is true.
fn check(directory: &Path, journal: &[Value], history: &[Change]) {
    let report = verify(directory, &Given::default()).expect("it reads");
    assert!(report.is_sound(), "{:#?}", report.findings);
    let unended: Vec<&String> = report.chains.iter().flat_map(|chain| &chain.unended).collect();
    assert!(unended.is_empty(), "{unended:?}");

    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let begun: BTreeMap<String, &Value> = journal
        .iter()
        .filter(|entry| entry["type"] == "begin" && entry["changes"] == true)
        .map(|entry| (text(entry, "call"), entry))
        .collect();
    let mut ends: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for end in journal.iter().filter(|entry| entry["type"] == "end") {
        ends.entry(text(end, "call")).or_default().push(end);
    }
    let changed: BTreeSet<String> = history.iter().flat_map(calls_of).collect();
    for call in &changed {
        assert!(begun.contains_key(call), "a change in AWS without its entry: {call}");
    }
    for (call, begin) in &begun {
        let of = ends.get(call).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(of.len(), 1, "{call} has one end: {of:#?}");
        let (outcome, says) = (text(of[0], "outcome"), of[0]["changed"].as_bool());
        let acted = changed.contains(call);
        match (outcome.as_str(), says) {
            // What is taken away shows its call; a rule that went before does not.
            ("done", Some(true)) => assert!(acted || begin["tool"] != "whitelist_add", "{begin:#}\n{:#}", of[0]),
            ("done" | "denied" | "failed" | "not_done", Some(false)) => assert!(!acted, "{begin:#}\n{:#}", of[0]),
            ("partly", _) => assert!(acted, "{:#}", of[0]),
            ("unknown", None) => {}
            other => panic!("{other:?}: {:#}", of[0]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_await_of_an_opening() {
    const HANG: Duration = Duration::from_secs(60);
    // Before a request is carried out, and after it: what is found then.
    for (action, fault, found) in [
        ("AssumeRole", Fault::Hang(HANG), "not_done"),
        ("AssumeRole", Fault::ActThenHang(HANG), "not_done"),
        ("DescribeSecurityGroupRules", Fault::Hang(HANG), "not_done"),
        ("DescribeSecurityGroupRules", Fault::ActThenHang(HANG), "not_done"),
        ("AuthorizeSecurityGroupIngress", Fault::Hang(HANG), "not_done"),
        ("AuthorizeSecurityGroupIngress", Fault::ActThenHang(HANG), "done"),
    ] {
        let mut core = Core::start().await;
        core.aws.fail(action, fault.clone());
        let mut client = core.client();
        let asked = tokio::spawn(async move { client.add_rule(adding("203.0.113.7")).await });
        eventually("the request is under way", async || {
            let acted = core.aws.actions().iter().any(|asked| asked == action);
            let shown = !matches!(fault, Fault::ActThenHang(_))
                || action != "AuthorizeSecurityGroupIngress"
                || !core.aws.history().is_empty();
            (acted && shown).then_some(())
        })
        .await;
        core.process.kill();
        assert!(asked.await.expect("no panic").is_err(), "nobody was told anything");
        core.recover().await;
        let entries = core.journal();
        let end = entries.iter().find(|entry| entry["type"] == "end" && entry["recovered_by"].is_string());
        assert_eq!(end.map(|end| &end["outcome"]), Some(&json!(found)), "{action} {fault:?}: {entries:#?}");
        core.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_await_of_a_removal() {
    const HANG: Duration = Duration::from_secs(60);
    for (action, after, found) in [
        ("AssumeRole", 0, &["not_done"][..]),
        ("DescribeSecurityGroupRules", 0, &["not_done"]),
        // Marked for closing, and nobody knows any more whether the lease was ended on purpose.
        ("CreateTags", 0, &["not_done"]),
        ("DescribeSecurityGroupRules", 1, &["done", "unknown"]),
        ("RevokeSecurityGroupIngress", 0, &["done", "unknown"]),
    ] {
        for act in [false, true] {
            let mut core = Core::start().await;
            let opened = core.client().add_rule(adding("203.0.113.7")).await.expect("opened").into_inner();
            let rule_id = opened.rule.expect("a rule").rule_id;
            for _ in 0..after {
                core.aws.fail(action, Fault::Pass);
            }
            core.aws.fail(action, if act { Fault::ActThenHang(HANG) } else { Fault::Hang(HANG) });
            let before = core.aws.actions().iter().filter(|asked| *asked == action).count();
            let request = pb::RemoveRulesRequest {
                security_group: "staging-db".to_owned(),
                rule_id: rule_id.clone(),
                ..Default::default()
            };
            let mut client = core.client();
            let asked = tokio::spawn(async move { client.remove_rules(request).await });
            eventually("the request is under way", async || {
                (core.aws.actions().iter().filter(|asked| *asked == action).count() > before + after).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            core.process.kill();
            assert!(asked.await.expect("no panic").is_err());
            core.recover().await;
            let entries = core.journal();
            let end = entries.iter().find(|entry| entry["type"] == "end" && entry["recovered_by"].is_string());
            let outcome = end.and_then(|end| end["outcome"].as_str()).unwrap_or_default();
            let stands = core.aws.standing().iter().any(|rule| rule.id == rule_id);
            // A tag that was written shows what it was written for.
            let fits = found.contains(&outcome) || (act && ["done", "unknown"].contains(&outcome));
            assert!(fits, "{action} {after} {act}: {outcome}, and the rule stands: {stands}");
            assert!(outcome != "not_done" || stands, "{action} {after} {act}");
            core.settle().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_two_hundred_times_at_random() {
    const KILLS: usize = 200;
    // Nothing is on its way for long here, and no process lives for long.
    let leases = "settle = \"30ms\"\nclose = false\ndiscover = false\non_its_way = \"30ms\"\n";
    let mut core = Core::with(&Options { leases: Some(leases), ..Options::default() }).await;
    let (over, next, answers) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let directory = core.ground.directory.path().to_owned();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (over, next, answers, directory, port) =
                (Arc::clone(&over), Arc::clone(&next), Arc::clone(&answers), directory.clone(), core.port);
            tokio::spawn(async move {
                let mut client = client(&directory, port);
                while !over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let address = format!("198.51.{}.{}", n / 40 % 250, n % 40);
                    let added = tokio::time::timeout(Duration::from_secs(5), client.add_rule(adding(&address))).await;
                    let Ok(Ok(added)) = added else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    answers.fetch_add(1, Ordering::Relaxed);
                    let rule_id = added.into_inner().rule.expect("a rule").rule_id;
                    // The group must not fill up.
                    let request = pb::RemoveRulesRequest {
                        security_group: "staging-db".to_owned(),
                        rule_id,
                        ..Default::default()
                    };
                    drop(tokio::time::timeout(Duration::from_secs(5), client.remove_rules(request)).await);
                }
            })
        })
        .collect();
    for kill in 0..KILLS {
        // Some die before they listen, some in the middle of their work.
        let life = 40 + u64::try_from(uuid::Uuid::new_v4().as_u128() % 400).expect("it fits");
        // However busy the machine is, it must get to work often enough to be killed at it.
        let done = answers.load(Ordering::Relaxed);
        if done * 2 < kill {
            eventually("it gets to work", async || (answers.load(Ordering::Relaxed) > done).then_some(())).await;
        }
        tokio::time::sleep(Duration::from_millis(life)).await;
        core.process.kill();
        // What crashes left open would fill the group. Whoever takes away what nobody has accounted for yet takes the
        // evidence with it, so that stays.
        if kill % 10 == 9 {
            let journal = core.journal();
            let ended: BTreeSet<&str> = journal
                .iter()
                .filter(|entry| entry["type"] == "end")
                .filter_map(|entry| entry["call"].as_str())
                .collect();
            for rule in core.aws.standing() {
                if rule.tags.get("whitelistmcp:call").is_some_and(|call| ended.contains(call.as_str())) {
                    core.aws.hand_revoke(&rule.id);
                }
            }
        }
        core.process.begin();
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("a worker");
    }
    core.process.kill();
    core.recover().await;
    assert!(answers.load(Ordering::Relaxed) > KILLS / 4, "{} were carried out", answers.load(Ordering::Relaxed));
    let recovered = core.journal().iter().filter(|entry| entry["recovered_by"].is_string()).count();
    assert!(recovered > 10, "some were cut off: {recovered}");
    assert!(core.aws.history().iter().any(|change| change.rule.group == GROUP));
    core.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_its_way_when_the_core_was_killed_is_waited_for() {
    let leases = "settle = \"30ms\"\ninterval = \"300ms\"\ndiscover = false\non_its_way = \"3s\"\n";
    let mut core = Core::with(&Options { leases: Some(leases), ..Options::default() }).await;
    // Carried out a second after the next core has looked for the first time.
    core.aws.fail("AuthorizeSecurityGroupIngress", Fault::ActLate(Duration::from_millis(1500)));
    let mut client = core.client();
    let asked = tokio::spawn(async move { client.add_rule(adding("203.0.113.7")).await });
    eventually("the request is under way", async || {
        core.aws.actions().iter().any(|asked| asked == "AuthorizeSecurityGroupIngress").then_some(())
    })
    .await;
    core.process.kill();
    assert!(asked.await.expect("no panic").is_err());
    core.recover().await;
    let entries = core.journal();
    let end = entries.iter().find(|entry| entry["recovered_by"].is_string()).expect("an end");
    assert_eq!((end["outcome"].as_str(), core.aws.standing().len()), (Some("done"), 1), "{end:#}");
    core.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_even_later_is_an_alarm_and_closes_at_its_end() {
    let leases = "settle = \"30ms\"\ninterval = \"300ms\"\ndiscover = false\non_its_way = \"300ms\"\n";
    let mut core = Core::with(&Options { leases: Some(leases), ..Options::default() }).await;
    core.aws.fail("AuthorizeSecurityGroupIngress", Fault::ActLate(Duration::from_secs(4)));
    let mut client = core.client();
    let request = pb::AddRuleRequest { duration: "8s".to_owned(), ..adding("203.0.113.7") };
    let asked = tokio::spawn(async move { client.add_rule(request).await });
    eventually("the request is under way", async || {
        core.aws.actions().iter().any(|asked| asked == "AuthorizeSecurityGroupIngress").then_some(())
    })
    .await;
    core.process.kill();
    assert!(asked.await.expect("no panic").is_err());
    core.recover().await;
    let recovered = |entries: &[Value]| entries.iter().find(|entry| entry["recovered_by"].is_string()).cloned();
    assert_eq!(recovered(&core.journal()).expect("an end")["outcome"], "not_done");
    eventually("the alarm", async || {
        let entries = core.journal();
        entries.iter().any(|entry| entry["type"] == "observed" && entry["what"] == "contradicted").then_some(())
    })
    .await;
    eventually("it closes at its end", async || core.aws.standing().is_empty().then_some(())).await;
    core.process.signal("TERM");
    core.process.end_within(Duration::from_secs(40)).await;
}
