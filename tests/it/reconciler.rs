//! Closing what has ended: on time, whatever happens, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use whitelistmcp::app;
use whitelistmcp::broker::upkeep::Reconciler;
use whitelistmcp::shutdown::Shutdown;

use crate::support::aws_double::{AwsDouble, Fault, What};
use crate::support::temporary::Directory;
use crate::support::{
    ACCOUNT, GROUP, Options, PATIENCE, REGION, Stack, eventually, journal, parse, reconciler_config, soon, within,
};

const AWAKE: &str = "settle = \"50ms\"\ninterval = \"300ms\"\ndiscover = false\n";
const HOUR: i64 = 3600;

/// A reconciler of its own, to do rounds when a test says so.
struct Rounds {
    directory: Directory,
    reconciler: Arc<Reconciler>,
    shutdown: Shutdown,
}

impl Rounds {
    async fn over(aws: &AwsDouble) -> Self {
        let (directory, shutdown) = (Directory::new(), Shutdown::new());
        let config = parse(&reconciler_config(&directory, &aws.access()));
        let reconciler = app::reconciler(&config, &shutdown).await.expect("it starts");
        Self { directory, reconciler, shutdown }
    }

    async fn journal(&self) -> Vec<Value> {
        self.shutdown.begin();
        assert!(self.shutdown.finished().await);
        // Ends are written behind what is done.
        tokio::time::sleep(Duration::from_millis(100)).await;
        journal(&self.directory.path().join("journal"))
    }
}

fn lease(address: &str, duration: &str) -> Value {
    json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "ticket OPS-1", "duration": duration})
}

async fn bob(stack: &Stack, tool: &str, arguments: Value) -> Value {
    let result = stack.call_as(&stack.issuer.token("bob", "whitelist:write"), tool, arguments).await;
    assert_eq!(result["isError"], false, "{result:#}");
    result["structuredContent"].clone()
}

/// Waits until so many rules stand.
async fn until_there_are(aws: &AwsDouble, rules: usize) {
    let standing = || format!("{rules} rules, and there are {:#?}", aws.standing());
    within(PATIENCE, standing, async || (aws.standing().len() == rules).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_closed_with_a_session_and_an_entry_of_its_own() {
    let aws = AwsDouble::start().await;
    let by_hand = aws.rule("tcp", 443, 443, ("CidrIpv4", "203.0.113.99/32"));
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    let short = stack.done("whitelist_add", lease("203.0.113.7", "2s")).await;
    stack.done("whitelist_add", lease("203.0.113.8", "1h")).await;
    until_there_are(&aws, 2).await;
    let id = short["rule"]["rule_id"].as_str().expect("an id");
    let revoked = aws.history().into_iter().find(|change| change.what == What::Revoked).expect("a closing");
    let until: jiff::Timestamp = short["until"].as_str().expect("an end").parse().expect("a time");
    assert!(revoked.rule.id == id && revoked.by.starts_with("reconciler-"), "{revoked:?}");
    assert!(revoked.time >= until && revoked.time.duration_since(until).as_secs() < 10, "{revoked:?}");
    assert!(aws.standing().iter().any(|rule| rule.id == by_hand), "what is not ours stands");

    let entries = stack.journal_when(|entries| {
        entries.iter().any(|entry| {
            entry["type"] == "end"
                && entry["rules"][0]["id"] == id
                && entry["aws"].as_array().is_some_and(|aws| aws.len() > 4)
        })
    });
    let entries = entries.await;
    let begin = entries.iter().find(|entry| entry["type"] == "begin" && entry["tool"] == "close").expect("a begin");
    assert_eq!((begin["who"]["name"].as_str(), begin["who"]["kind"].as_str()), (Some("reconciler"), Some("own")));
    assert_eq!((begin["changes"].as_bool(), begin["arguments"]["rule_ids"][0].as_str()), (Some(true), Some(id)));
    assert_eq!(begin["policies"], json!(["the-service-closes"]));
    let end = entries.iter().find(|entry| entry["type"] == "end" && entry["call"] == begin["call"]).expect("an end");
    assert_eq!((end["outcome"].as_str(), end["changed"].as_bool()), (Some("done"), Some(true)));
    // Its credentials can close on that one group, and mark that one rule.
    let session = aws.asked().into_iter().find(|asked| {
        asked.action == "AssumeRole" && asked.params.get("Policy").is_some_and(|policy| policy.contains(id))
    });
    let policy = session.expect("a session").params["Policy"].clone();
    assert!(policy.contains(&format!("security-group/{GROUP}")) && !policy.contains("Authorize"), "{policy}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_goes_with_the_last_of_its_holders() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    stack.done("whitelist_add", lease("203.0.113.7", "1s")).await;
    let longer = bob(&stack, "whitelist_add", lease("203.0.113.7", "4s")).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(aws.standing().len(), 1, "bob's lease lasts");
    until_there_are(&aws, 0).await;
    let until: jiff::Timestamp = longer["until"].as_str().expect("an end").parse().expect("a time");
    let revoked = aws.history().into_iter().find(|change| change.what == What::Revoked).expect("a closing");
    assert!(revoked.time >= until, "{revoked:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_reconcilers_do_no_harm() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for n in 0..12 {
        stack.done("whitelist_add", lease(&format!("203.0.113.{n}"), "1s")).await;
    }
    stack.done("whitelist_add", lease("203.0.113.77", "1h")).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (one, two) = (Rounds::over(&aws).await, Rounds::over(&aws).await);
    let (first, second) = tokio::join!(one.reconciler.round(), two.reconciler.round());
    let third = one.reconciler.round().await;
    assert_eq!(aws.standing().len(), 1, "{first:?} {second:?} {third:?}");
    let revoked: Vec<_> = aws.history().into_iter().filter(|change| change.what == What::Revoked).collect();
    assert_eq!(revoked.len(), 12, "each goes once");
    // Every entry that was begun has an end, and none of them speaks of a change that was another's.
    let entries = [one.journal().await, two.journal().await].concat();
    let ends: Vec<_> = entries.iter().filter(|entry| entry["type"] == "end" && entry.get("before").is_some()).collect();
    assert!(ends.iter().all(|end| end["outcome"] == "done"), "{ends:#?}");
    let closed: usize = ends.iter().filter_map(|end| end["rules"].as_array()).map(Vec::len).sum();
    assert_eq!(closed, 12, "each closing has one entry that says so: {ends:#?}");
    stack.stop().await;
}

/// What a case does to a rule whose lease has ended, and how many rules are to stand after a round.
type Case = (&'static str, fn(&AwsDouble, &str) -> bool, usize);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_were_meddled_with() {
    let cases: &[Case] = &[
        ("untouched", |_, _| true, 0),
        ("a tag of the owner's", |aws, rule| aws.hand_tag(rule, "cost-centre", "7"), 0),
        ("the call is gone", |aws, rule| aws.hand_untag(rule, "whitelistmcp:call"), 1),
        ("the format is gone", |aws, rule| aws.hand_untag(rule, "whitelistmcp:lease"), 1),
        ("another format", |aws, rule| aws.hand_tag(rule, "whitelistmcp:lease", "v2"), 1),
        (
            "half a lease",
            |aws, rule| aws.hand_tag(rule, "whitelistmcp:holder:aaaaaaaaaaaaaaaa", "2020-01-01T00:00:00Z"),
            1,
        ),
        ("a tag that nobody knows", |aws, rule| aws.hand_tag(rule, "whitelistmcp:later", "x"), 1),
        (
            "a mark that makes no sense",
            |aws, rule| aws.hand_tag(rule, "whitelistmcp:closing:01980000-0000-7000-8000-000000000001", "soon"),
            1,
        ),
        ("its address was changed by hand", |aws, rule| aws.hand_modify(rule, "203.0.113.200/32"), 0),
        ("it was revoked by hand", |aws, rule| aws.hand_revoke(rule), 0),
        (
            "a holder with a lease that lasts was added by hand",
            |aws, rule| {
                let lease =
                    "2099-01-01T00:00:00Z 2020-01-01T00:00:00Z 01980000-0000-7000-8000-000000000001 eve by hand";
                aws.hand_tag(rule, "whitelistmcp:holder:eeeeeeeeeeeeeeee", lease)
            },
            1,
        ),
    ];
    for (name, meddle, left) in cases {
        let aws = AwsDouble::start().await;
        let stack = Stack::start(&aws).await;
        let rule = stack.done("whitelist_add", lease("203.0.113.7", "1s")).await["rule"]["rule_id"].clone();
        assert!(meddle(&aws, rule.as_str().expect("an id")), "{name}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let rounds = Rounds::over(&aws).await;
        let round = rounds.reconciler.round().await;
        assert_eq!(aws.standing().len(), *left, "{name}: {round:?}");
        assert_eq!((round.overdue, round.missed), (0, 0), "{name}: {round:?}");
        let told = rounds.journal().await;
        let damaged = told.iter().filter(|entry| entry["type"] == "observed" && entry["what"] == "damaged").count();
        assert_eq!(damaged, round.damaged, "{name}: what is damaged is reported: {told:#?}");
        assert_eq!(round.damaged, usize::from(*left == 1 && !name.contains("lasts")), "{name}");
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_ours_without_an_entry_is_reported_and_left_alone() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    let real = stack.done("whitelist_add", lease("203.0.113.7", "2s")).await["rule"]["rule_id"].clone();
    // Somebody copies our tags onto a rule of their own, with a call that no journal has.
    let forged = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.66/32"));
    for (key, value) in aws.tags().remove(real.as_str().expect("an id")).expect("the rule") {
        let value = if key == "whitelistmcp:call" { "01980000-0000-7000-8000-00000000dead".to_owned() } else { value };
        assert!(aws.hand_tag(&forged, &key, &value));
    }
    until_there_are(&aws, 1).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(aws.standing()[0].id, forged, "the real one is closed, the other is nobody's to close");
    let observed = stack.journal().into_iter().filter(|entry| entry["type"] == "observed").collect::<Vec<_>>();
    assert_eq!((observed.len(), observed[0]["what"].as_str()), (1, Some("unrecorded")), "{observed:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_away_by_hand_is_reported_and_not_put_back() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    let rule = stack.done("whitelist_add", lease("203.0.113.7", "1h")).await["rule"]["rule_id"].clone();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(aws.hand_revoke(rule.as_str().expect("an id")));
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "observed")).await;
    let seen = entries.iter().find(|entry| entry["type"] == "observed").expect("it is in the audit trail");
    assert_eq!((seen["what"].as_str(), &seen["rule"]["id"]), (Some("gone"), &rule));
    let list = stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(list["total"], 0);
    assert!(list["notes"].to_string().contains("went before its end"), "{list:#}");
    // What this service takes away itself is no news.
    stack.done("whitelist_add", lease("203.0.113.8", "1h")).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    stack.done("whitelist_remove", json!({"security_group": "staging-db", "address": "203.0.113.8"})).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let observed = stack.journal().iter().filter(|entry| entry["type"] == "observed").count();
    assert_eq!(observed, 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_was_widened_by_hand_is_not_passed_off_as_its_holder_s() {
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    let rule = stack.done("whitelist_add", lease("203.0.113.7", "1h")).await["rule"]["rule_id"].clone();
    // Before any round has seen it: the core itself knows how it opened it.
    assert!(aws.hand_modify(rule.as_str().expect("an id"), "0.0.0.0/0"));
    let entries = stack.journal_when(|entries| entries.iter().any(|entry| entry["type"] == "observed")).await;
    let seen = entries.iter().find(|entry| entry["type"] == "observed").expect("it is in the audit trail");
    assert_eq!((seen["what"].as_str(), seen["rule"]["source"].as_str()), (Some("changed"), Some("0.0.0.0/0")));
    for (tool, arguments) in [
        ("whitelist_list", json!({"security_group": "staging-db"})),
        ("whitelist_check", json!({"security_group": "staging-db", "address": "8.8.8.8", "port": "22"})),
    ] {
        let answer = stack.done(tool, arguments).await;
        assert!(
            answer["notes"]
                .to_string()
                .contains("was changed by hand: it was opened for tcp port 22 (ssh) from 203.0.113.7/32"),
            "{answer:#}"
        );
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_step_close_nothing_early_and_hold_nothing_open() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    stack.done("whitelist_add", lease("203.0.113.7", "2s")).await;
    stack.done("whitelist_add", lease("203.0.113.8", "40m")).await;
    let rounds = Rounds::over(&aws).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // This machine's clock has stepped an hour ahead of AWS's: by AWS's time nothing has ended.
    aws.clock_offset(-HOUR);
    let round = rounds.reconciler.round().await;
    assert_eq!((round.closed, aws.standing().len()), (0, 2), "{round:?}");
    for (tool, arguments) in [
        ("whitelist_add", lease("203.0.113.9", "2s")),
        ("whitelist_extend", json!({"security_group": "staging-db", "port": "22", "duration": "1h"})),
    ] {
        let error = stack.refused(tool, arguments).await;
        assert_eq!((error["reason"].as_str(), error["code"].as_str()), (Some("CLOCK_SKEWED"), Some("UNAVAILABLE")));
        assert!(error["message"].as_str().is_some_and(|text| text.contains("ahead of")), "{error}");
    }
    // It steps back.
    aws.clock_offset(0);
    let round = rounds.reconciler.round().await;
    assert_eq!((round.closed, aws.standing().len()), (1, 1), "{round:?}");
    // And now an hour behind: by AWS's time the other has ended, too.
    aws.clock_offset(HOUR);
    let error = stack.refused("whitelist_add", lease("203.0.113.9", "2s")).await;
    assert!(error["message"].as_str().is_some_and(|text| text.contains("behind")), "{error}");
    let round = rounds.reconciler.round().await;
    assert_eq!((round.closed, aws.standing().len()), (1, 0), "{round:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_that_was_away_is_caught_up_with_the_oldest_first() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    // The younger ones first, so that their order here is not the order of their ends.
    for n in 0..20 {
        let seconds = if n < 4 { "9s" } else { "6s" };
        stack.done("whitelist_add", lease(&format!("203.0.113.{n}"), seconds)).await;
    }
    let rounds = Rounds::over(&aws).await;
    let round = rounds.reconciler.round().await;
    assert_eq!((round.standing, round.closed), (20, 0));
    aws.down(true);
    let missed = rounds.reconciler.round().await;
    assert_eq!((missed.missed, missed.closed), (1, 0), "{missed:?}");
    tokio::time::sleep(Duration::from_millis(9500)).await;
    let lag = rounds.reconciler.lag();
    assert!(lag >= Duration::from_secs(2), "it knows how late it is without AWS: {lag:?}");
    aws.down(false);
    aws.clock_offset(600);
    let round = rounds.reconciler.round().await;
    assert_eq!((round.closed, aws.standing().len()), (20, 0), "{round:?}");
    assert_eq!(rounds.reconciler.lag(), Duration::ZERO);
    // The journal has what was begun in the order in which it was.
    let young: Vec<String> = (0..4).map(|n| format!("203.0.113.{n}/32")).collect();
    let sources: BTreeMap<_, _> =
        aws.history().into_iter().map(|change| (change.rule.id, change.rule.source)).collect();
    let begun: Vec<String> = rounds
        .journal()
        .await
        .iter()
        .filter(|entry| entry["type"] == "begin" && entry["tool"] == "close")
        .flat_map(|entry| entry["arguments"]["rule_ids"].as_array().cloned().unwrap_or_default())
        .map(|id| sources[id.as_str().expect("an id")].clone())
        .collect();
    assert_eq!(begun.len(), 20);
    assert!(!begun[..16].iter().any(|source| young.contains(source)), "the oldest first: {begun:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_delays_and_loses_nothing() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for n in 0..8 {
        stack.done("whitelist_add", lease(&format!("203.0.113.{n}"), "1s")).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    aws.bucket("CreateTags", 2, 3.0);
    aws.bucket("RevokeSecurityGroupIngress", 2, 3.0);
    aws.bucket("AssumeRole", 3, 5.0);
    let rounds = Rounds::over(&aws).await;
    for _ in 0..10 {
        let round = rounds.reconciler.round().await;
        if aws.standing().is_empty() {
            break;
        }
        assert!(round.overdue > 0 || round.missed > 0, "what is left over is counted: {round:?}");
    }
    assert_eq!(aws.standing().len(), 0);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_late_says_so_and_stays_where_callers_are_answered() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let aws = AwsDouble::start().await;
    let stack = Stack::with(&aws.access(), Options { leases: Some(AWAKE), ..Options::default() }).await;
    stack.done("whitelist_add", lease("203.0.113.7", "30s")).await;
    aws.bucket("RevokeSecurityGroupIngress", 0, 0.0);
    aws.clock_offset(600);
    let mut health = HealthClient::new(stack.channel("ci-runner"));
    let mut ask = async |part: &str| {
        let service = part.to_owned();
        health.check(HealthCheckRequest { service }).await.expect("an answer").into_inner().status()
    };
    assert_eq!(ask("reconciler").await, ServingStatus::Serving);
    eventually("it is told that it is late", async || {
        (ask("reconciler").await == ServingStatus::NotServing).then_some(())
    })
    .await;
    // Every core is as late: nobody is served better without them.
    assert_eq!(ask("whitelistmcp.v1.WhitelistService").await, ServingStatus::Serving);
    stack.done("whitelist_list", json!({"security_group": "staging-db"})).await;
    aws.bucket("RevokeSecurityGroupIngress", 100, 100.0);
    until_there_are(&aws, 0).await;
    eventually("it is in time again", async || (ask("reconciler").await == ServingStatus::Serving).then_some(())).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_that_say_nothing_any_more_are_taken_away() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut keyed = lease("203.0.113.7", "24h");
    keyed["idempotency_key"] = "deploy-1".into();
    let rule = stack.done("whitelist_add", keyed).await["rule"]["rule_id"].as_str().expect("an id").to_owned();
    bob(&stack, "whitelist_add", lease("203.0.113.7", "2s")).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let rounds = Rounds::over(&aws).await;
    rounds.reconciler.round().await;
    assert_eq!(aws.tags()[&rule].len(), 6, "bob's lease has ended just now: {:#?}", aws.tags());
    aws.clock_offset(2 * HOUR);
    rounds.reconciler.round().await;
    let tags = aws.tags().remove(&rule).expect("the rule stands for alice");
    assert_eq!(tags.len(), 5, "{tags:#?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_cut_off_is_accounted_for_at_the_next_start() {
    let aws = AwsDouble::start().await;
    let directory = Directory::new();
    let at = directory.path().join("journal");
    std::fs::create_dir_all(&at).expect("a directory");
    let stack = Stack::start(&aws).await;
    let made = stack.done("whitelist_add", lease("203.0.113.7", "1h")).await["call_id"].clone();
    // The journal of a process that died: it had begun one change that AWS has made, one that it has not, and one that
    // it had ended.
    #[expect(clippy::disallowed_methods, reason = "the double's time is the machine's own")]
    let just_now = jiff::Timestamp::now().to_string();
    let begin = |call: &str| {
        json!({"v": 2, "seq": 2, "prev": "0", "at": just_now, "type": "begin", "call": call, "tool": "whitelist_add", "changes": true,
            "target": {"account": ACCOUNT, "region": REGION, "group": GROUP}, "arguments": {"openings": [{}], "until": "2099-01-01T00:00:00Z"}})
        .to_string()
    };
    let never = "01980000-0000-7000-8000-00000000dead";
    let ended = "01980000-0000-7000-8000-00000000beef";
    let end = json!({"v": 2, "seq": 3, "prev": "0", "at": "2026-01-01T00:00:00Z", "type": "end", "call": ended, "outcome": "done"}).to_string();
    let lines =
        [begin(made.as_str().expect("an id")), begin(never), begin(ended), end, "{\"torn".to_owned()].join("\n");
    let chain = "journal-01980000-0000-7000-8000-000000000000";
    std::fs::write(at.join(format!("{chain}-000001.jsonl")), lines).expect("written");
    // Nobody holds its lock any more.
    std::fs::write(at.join(format!("{chain}.lock")), "").expect("written");

    let options = Options {
        core_extra: format!("[audit]\ndirectory = \"{}\"\nvolume = \"persistent\"\n", at.display()),
        without_journal: true,
        ..Options::default()
    };
    let restarted = Stack::with(&aws.access(), options).await;
    let entries = soon("both are accounted for", async || {
        let entries = journal(&at);
        (entries.iter().filter(|entry| entry["recovered_by"].is_string()).count() == 2).then_some(entries)
    })
    .await;
    let found = |call: &Value| {
        entries
            .iter()
            .find(|entry| entry["type"] == "end" && entry["call"] == *call && entry["recovered_by"].is_string())
    };
    let done = found(&made).expect("it is accounted for");
    assert_eq!(
        (done["outcome"].as_str(), done["changed"].as_bool(), done["rules"].as_array().map(Vec::len)),
        (Some("done"), Some(true), Some(1))
    );
    let not_done = found(&json!(never)).expect("it is accounted for");
    assert_eq!((not_done["outcome"].as_str(), not_done["changed"].as_bool()), (Some("not_done"), Some(false)));
    assert!(found(&json!(ended)).is_none());
    let looked = entries
        .iter()
        .find(|entry| entry["call"] == done["recovered_by"] && entry["type"] == "begin")
        .expect("an operation of its own");
    assert_eq!((looked["tool"].as_str(), looked["who"]["name"].as_str()), (Some("recover"), Some("recovery")));
    let adopted = entries.iter().find(|entry| entry["type"] == "adopted").expect("it was taken over, on record");
    assert_eq!((adopted["unfinished"].as_array().map(Vec::len), adopted["torn"].as_u64()), (Some(2), Some(6)));
    eventually("nobody needs to look at it again", async || (!at.join(format!("{chain}.lock")).exists()).then_some(()))
        .await;
    restarted.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_died_with_whoever_was_closing_it_is_closed_by_the_next() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let rule = stack.done("whitelist_add", lease("203.0.113.7", "1s")).await["rule"]["rule_id"].clone();
    // Each round is a process of its own, as from a cron job.
    let tag = "whitelistmcp:closing:01980000-0000-7000-8000-000000000001";
    #[expect(clippy::disallowed_methods, reason = "the double's time is the machine's own")]
    let now = jiff::Timestamp::now();
    assert!(aws.hand_tag(rule.as_str().expect("an id"), tag, &now.to_string()));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let round = Rounds::over(&aws).await.reconciler.round().await;
    assert_eq!((round.closed, round.left_to_others), (0, 1), "somebody may be at it: {round:?}");
    aws.clock_offset(20);
    let round = Rounds::over(&aws).await.reconciler.round().await;
    assert_eq!((round.closed, round.overdue, aws.standing().len()), (1, 0, 0), "{round:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_is_full_of_tags_is_closed_all_the_same() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let mut keyed = lease("203.0.113.7", "2s");
    keyed["idempotency_key"] = "deploy-1".into();
    let rule = stack.done("whitelist_add", keyed).await["rule"]["rule_id"].as_str().expect("an id").to_owned();
    while aws.tags()[&rule].len() < 50 {
        assert!(aws.hand_tag(&rule, &format!("cost-{}", aws.tags()[&rule].len()), "x"));
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let round = Rounds::over(&aws).await.reconciler.round().await;
    assert_eq!((round.closed, aws.standing().len()), (1, 0), "{round:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_marked_keeps_no_other_open() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let full = stack.done("whitelist_add", lease("203.0.113.7", "2s")).await["rule"]["rule_id"].clone();
    let full = full.as_str().expect("an id");
    while aws.tags()[full].len() < 50 {
        assert!(aws.hand_tag(full, &format!("cost-{}", aws.tags()[full].len()), "x"));
    }
    for n in 8..12 {
        stack.done("whitelist_add", lease(&format!("203.0.113.{n}"), "1s")).await;
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let rounds = Rounds::over(&aws).await;
    let round = rounds.reconciler.round().await;
    assert_eq!((round.closed, round.overdue), (4, 1), "{round:?}");
    assert_eq!(aws.standing().iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), [full]);
    assert!(aws.hand_untag(full, "cost-20"));
    assert_eq!((rounds.reconciler.round().await.closed, aws.standing().len()), (1, 0));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_that_fails_leaves_no_mark() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let rule = stack.done("whitelist_add", lease("203.0.113.7", "1s")).await["rule"]["rule_id"].clone();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let rounds = Rounds::over(&aws).await;
    for _ in 0..3 {
        aws.fail("RevokeSecurityGroupIngress", Fault::Refuse(403, "UnauthorizedOperation"));
        let round = rounds.reconciler.round().await;
        assert_eq!((round.closed, round.overdue), (0, 1), "{round:?}");
        let tags = aws.tags()[rule.as_str().expect("an id")].len();
        assert_eq!(tags, 4, "no mark is left: {:#?}", aws.tags());
    }
    assert_eq!((rounds.reconciler.round().await.closed, aws.standing().len()), (1, 0));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_nobody_acts_on_comes_off() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let rule = stack.done("whitelist_add", lease("203.0.113.7", "1h")).await["rule"]["rule_id"].clone();
    let rule = rule.as_str().expect("an id");
    let by = "01980000-0000-7000-8000-000000000001";
    let tag = format!("whitelistmcp:closing:{by}");
    #[expect(clippy::disallowed_methods, reason = "the double's time is the machine's own")]
    let now = jiff::Timestamp::now();
    assert!(aws.hand_tag(rule, &tag, &now.to_string()));
    let rounds = Rounds::over(&aws).await;
    rounds.reconciler.round().await;
    assert!(aws.tags()[rule].contains_key(&tag), "whoever set it may be about to act");
    aws.clock_offset(50);
    rounds.reconciler.round().await;
    assert!(!aws.tags()[rule].contains_key(&tag));
    stack.stop().await;
}
