use std::collections::BTreeSet;

use super::*;
use crate::identity::Principal;
use crate::identity::peer::PeerId;
use crate::identity::scope::Scopes;
use crate::operation::address::Block;
use crate::operation::lease::{Holder, Lease};
use crate::operation::ownership::Ownership;
use crate::operation::port::Ports;
use crate::operation::rule::{Source, Traffic};
use crate::operation::target::{AccountId, Config as TargetConfig, GroupConfig, Region, Targets};
use crate::operation::{CallId, Context as Parsing, Everything, Operation};
use crate::pb::whitelistmcp::v1 as pb;

fn caller() -> Arc<Caller> {
    let peer = PeerId::in_process();
    Arc::new(Caller::new(Principal::service(&peer, Scopes::default()), peer, None))
}

fn targets() -> Targets {
    let config = TargetConfig {
        account: Some("111111111111".to_owned()),
        region: Some("eu-central-1".to_owned()),
        groups: vec![GroupConfig {
            name: "db".to_owned(),
            id: "sg-0123456789abcdef0".to_owned(),
            account: None,
            region: None,
        }],
    };
    let accounts = [(
        AccountId::parse("111111111111").expect("an id"),
        BTreeSet::from([Region::parse("eu-central-1").expect("a Region")]),
    )];
    Targets::new(&config, accounts).expect("sound")
}

fn parsing(targets: &Targets) -> Parsing<'_> {
    Parsing { targets, caller: None, now: "2027-01-01T00:00:00Z".parse().expect("a time"), sight: &Everything }
}

fn request(group: &str, address: &str, port: &str) -> pb::AddRuleRequest {
    pb::AddRuleRequest {
        security_group: group.to_owned(),
        address: address.to_owned(),
        port: port.to_owned(),
        reason: "because".to_owned(),
        ..Default::default()
    }
}

fn operation(request: pb::AddRuleRequest) -> Operation {
    let mut operations = Operation::add(request, CallId::new(), parsing(&targets())).expect("sound");
    operations.remove(0)
}

fn adding(group: &str, address: &str, port: &str) -> Operation {
    operation(request(group, address, port))
}

fn look(policy: &Policy, caller: Arc<Caller>, operation: Operation) -> Result<LookPermit, Denial> {
    policy.look(caller, operation).map_err(|(denial, _)| denial)
}

fn change(rule: Rule, callers_own: bool) -> Change {
    Change { rule, callers_own, opening: None }
}

fn rule(holder_id: Option<&str>) -> Rule {
    let made = holder_id.map_or(Made::Elsewhere, |id| {
        let holder = Holder::new("x", id).expect("an id");
        let time = |text: &str| text.parse().expect("a time");
        let (since, until) = (time("2027-01-01T00:00:00Z"), time("2027-01-01T02:00:00Z"));
        let lease = Lease::new(holder, "because", since, until, "01980000-0000-7000-8000-000000000001");
        Made::Here(Ownership::new(lease, None))
    });
    Rule {
        id: Some("sgr-0123456789abcdef0".to_owned()),
        source: Source::Block(Block::from_aws("203.0.113.7/32").expect("a block")),
        traffic: Traffic::Ports(Ports::parse(Some("22"), None).expect("a port")),
        description: String::new(),
        made,
        tags: 3,
    }
}

#[test]
fn the_default_permits_one_address_on_a_configured_group() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let permit = look(&policy, caller(), adding("db", "203.0.113.7", "22")).expect("permitted");
    assert_eq!(permit.policies(), ["services-on-configured-groups"]);
    assert!(policy.add(&permit, &[rule(None)]).is_ok());
    // Who did not say how long gets what policy says.
    let end = permit.operation().term().and_then(|term| term.end(permit.operation().received()));
    assert_eq!(end.map(|end| end.to_string()).as_deref(), Some("2027-01-01T02:00:00Z"));
}

#[test]
fn policy_sets_the_default_and_the_longest_and_refuses_none_at_all() {
    let shipped = Policy::load(&Config::default()).expect("the default is sound");
    let lasting =
        |duration: &str| pb::AddRuleRequest { duration: duration.to_owned(), ..request("db", "203.0.113.7", "22") };
    assert!(look(&shipped, caller(), operation(lasting("24h"))).is_ok());
    let denial = look(&shipped, caller(), operation(lasting("25h"))).expect_err("too long");
    assert_eq!(denial.policies(), ["at-most-a-day"]);

    let own = r#"
        @id("all") permit (principal, action, resource);
        @id("ssh") @duration("15m") permit (principal, action == Action::"default_duration", resource) when { context.from_port == 22 };
        @id("db") @duration("1h") permit (principal, action == Action::"default_duration", resource) when { context.from_port < 6000 };
    "#;
    let policy = Policy::parse(own).expect("sound");
    let length = |port: &str| {
        let permit = look(&policy, caller(), adding("db", "203.0.113.7", port)).ok()?;
        permit.operation().term()?.length(permit.operation().received())
    };
    // Of several the shortest counts.
    assert_eq!(length("22"), Some(SignedDuration::from_mins(15)));
    assert_eq!(length("5432"), Some(SignedDuration::from_mins(60)));
    let denial = look(&policy, caller(), adding("db", "203.0.113.7", "8080")).expect_err("nobody says how long");
    assert!(matches!(denial, Denial::Unsaid(_)), "{denial}");
}

#[test]
fn one_refusal_of_several_names_what_it_refuses() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let several = pb::AddRuleRequest {
        addresses: vec!["203.0.113.7".to_owned(), "0.0.0.0/0".to_owned()],
        address: String::new(),
        ..request("db", "", "443")
    };
    let denial = look(&policy, caller(), operation(several)).expect_err("one is forbidden");
    assert!(denial.to_string().contains("tcp port 443 (https) from 0.0.0.0/0: "), "{denial}");
    assert!(!denial.to_string().contains("203.0.113.7"), "{denial}");
    assert!(denial.policies().contains(&"whole-internet".to_owned()));
}

#[test]
fn what_the_service_does_for_itself_is_not_for_the_configuration_to_forbid() {
    let policy =
        Policy::parse("@id(\"no\") @message(\"nothing\") forbid (principal, action, resource);").expect("sound");
    let own = Arc::new(Caller::own("reconciler"));
    let now: Timestamp = "2027-01-01T01:00:00Z".parse().expect("a time");
    let target = targets().named()[0].clone();
    let close = Operation::close(target, vec!["sgr-0123456789abcdef0".to_owned()], now);
    let permit = look(&policy, Arc::clone(&own), close.clone()).expect("permitted");
    let alices = rule(Some("alice-0123456789abcdef"));
    let (leave, kept) = policy.upkeep(&permit, vec![alices.clone()], now).expect("an answer");
    assert!(leave.rules().is_empty() && kept == [alices.clone()], "it is held");
    let later: Timestamp = "2027-01-01T02:00:00Z".parse().expect("a time");
    let (leave, kept) = policy.upkeep(&permit, vec![alices.clone()], later).expect("an answer");
    assert!(leave.rules() == [alices] && kept.is_empty() && leave.policies() == ["the-service-closes"]);
    assert!(matches!(policy.upkeep(&permit, vec![rule(None)], later), Err(Denial::NotOurs)));
    // And it is for nobody else to do.
    let all = Policy::parse("@id(\"all\") permit (principal, action, resource);").expect("sound");
    assert!(look(&all, caller(), close).is_err());
}

#[test]
fn a_group_without_a_name_is_unseen_even_for_what_would_be_forbidden() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let denial = look(&policy, caller(), adding("sg-00000000", "0.0.0.0/0", "22")).expect_err("unseen");
    assert!(matches!(denial, Denial::Unseen(_)), "{denial}");
}

#[test]
fn a_refusal_names_every_policy_and_what_would_be_allowed() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let denial = look(&policy, caller(), adding("db", "0.0.0.0/0", "ssh")).expect_err("forbidden");
    assert_eq!(denial.policies(), ["admin-port-single-address", "not-a-host-address", "too-wide", "whole-internet"]);
    assert!(denial.to_string().contains("At most an IPv4 /24"), "{denial}");
}

#[test]
fn only_ones_own_rules_may_be_removed() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let caller = caller();
    let own = rule(Some(caller.principal().id()));
    let removal =
        pb::RemoveRulesRequest { security_group: "db".to_owned(), port: "22".to_owned(), ..Default::default() };
    let operation = Operation::remove(removal, CallId::new(), parsing(&targets())).expect("sound").remove(0);
    let permit = look(&policy, caller, operation).expect("permitted");

    let others = change(rule(Some("else-0123456789abcdef")), false);
    let changes = vec![change(own.clone(), true), others, change(rule(None), false)];
    let removal = policy.change(&permit, changes, &[]).expect("one may go");
    assert_eq!((removal.rules(), removal.kept().len()), ([own].as_slice(), 2));
    let denial = policy.change(&permit, vec![change(rule(None), true)], &[]).expect_err("none may go");
    assert!(matches!(denial, Denial::NotOurs), "whatever a policy says: {denial}");
    assert!(policy.change(&permit, Vec::new(), &[]).is_ok_and(|removal| removal.rules().is_empty()));
}

#[test]
fn policies_that_cannot_be_trusted_are_refused_when_loaded() {
    for (text, part) in [
        ("permit (principal, action, resource);", "one has none"),
        (
            "@id(\"a\") permit (principal, action, resource); @id(\"a\") permit (principal, action, resource);",
            "given twice",
        ),
        ("@id(\"a\") forbid (principal, action, resource);", "@message"),
        ("@id(\"a\") permit (principal, action, resource) when { context.adress == \"x\" };", "adress"),
        ("@id(\"a\") permit (principal, action == Action::\"whitelist_ad\", resource);", "whitelist_ad"),
        ("@id(\"a\") permit (principal, action, resource) when { context.standing.ipv4_rules < 3 };", "standing"),
        ("@id(\"a\") @duration(\"soon\") permit (principal, action == Action::\"default_duration\", resource);", "2h"),
        ("nonsense", "parsed"),
        ("@id(\"a\") @message(\"m\") forbid (principal == ?principal, action, resource);", "template"),
    ] {
        let error = Policy::parse(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn no_policy_means_no() {
    let policy = Policy::parse("@id(\"see\") permit (principal, action == Action::\"see\", resource);").expect("sound");
    let denial = look(
        &policy,
        caller(),
        operation(pb::AddRuleRequest { duration: "1h".to_owned(), ..request("db", "203.0.113.7", "22") }),
    )
    .expect_err("nothing permits it");
    assert!(matches!(denial, Denial::NotPermitted), "{denial}");
}

#[test]
fn a_misspelt_attribute_is_an_error_wherever_it_stands() {
    for (condition, part) in [
        ("context.call.acr == \"mfa\"", "acr"),
        ("context.call.minutes > 3", "minutes"),
        ("context.call.amr == \"hwk\"", "Set"),
        ("context.call.now > 5", "datetime"),
        ("context.call.weekday == \"monday\"", "Long"),
        ("context.call.authenticated < 60", "authenticated"),
        ("context.call.actor == \"x\"", "actor"),
        ("resource is SecurityGroup && resource.vpc == \"vpc-1\"", "vpc"),
        ("resource is SecurityGroup && resource.getTag(\"env\") == \"prod\"", "env"),
        ("resource is SecurityGroup && resource.tags.env == \"prod\"", "tags"),
        ("principal is Person && principal.getTag(\"department\") == \"x\"", "department"),
        ("principal is Person && principal.hasTag(\"a\") && principal.getTag(\"b\") == \"x\"", "b"),
        ("principal is ApiKey && principal.ower == \"ops\"", "ower"),
    ] {
        let text = format!(
            "@id(\"a\") permit (principal, action == Action::\"whitelist_list\", resource) when {{ {condition} }};"
        );
        let error = Policy::parse(&text).expect_err(condition).to_string();
        assert!(error.contains(part), "{condition}: {error}");
    }
}

#[test]
fn what_aws_must_be_asked_for_is_found_in_the_policies() {
    for (condition, speaks) in [
        ("true", false),
        ("principal is Person && principal.hasTag(\"department\") && principal.getTag(\"department\") == \"x\"", false),
        ("resource is SecurityGroup && resource has name && resource.name == \"vpc\"", false),
        ("context.call.peer == \"getTag\"", false),
        ("resource is SecurityGroup && resource.hasTag(\"env\")", true),
        ("resource is SecurityGroup && resource has vpc", true),
        ("resource is SecurityGroup && resource has vpc && resource.vpc like \"vpc-*\"", true),
        ("resource is SecurityGroup && (if principal is Person then resource else resource).hasTag(\"env\")", true),
        ("SecurityGroup::\"1/r/sg-1\".hasTag(\"env\")", true),
        (
            "!(principal is Person && (context.call.hour > 3 || (resource is SecurityGroup && resource.hasTag(\"env\"))))",
            true,
        ),
    ] {
        let text = format!(
            "@id(\"a\") permit (principal, action == Action::\"whitelist_list\", resource) when {{ {condition} }};"
        );
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{condition}: {error}"));
        assert_eq!(policy.speaks_of_descriptions(), speaks, "{condition}");
    }
    assert!(
        !Policy::load(&Config::default()).expect("sound").speaks_of_descriptions(),
        "the shipped ones cost nothing"
    );
}

#[test]
fn without_what_policy_speaks_of_nothing_is_decided() {
    let text = "@id(\"a\") permit (principal, action, resource is SecurityGroup) when { !resource.hasTag(\"env\") };";
    let policy = Policy::parse(text).expect("sound");
    let lasting = || operation(pb::AddRuleRequest { duration: "1h".to_owned(), ..request("db", "203.0.113.7", "22") });
    let denial = look(&policy, caller(), lasting()).expect_err("unread");
    assert!(matches!(denial, Denial::Undescribed), "no tag is not the same as no answer: {denial}");
    let error = Error::from(denial);
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "GROUPS_UNREAD"));
    assert!(policy.sees(&caller(), &targets().named()[0], Timestamp::UNIX_EPOCH).is_err());
    assert!(!policy.shows(&caller(), &targets().named()[0], Timestamp::UNIX_EPOCH));
}

#[test]
fn the_time_of_day_is_told_in_the_zone_that_is_configured() {
    let at = |zone: Option<&str>, hour: i64, weekday: i64| {
        let text = format!(
            "@id(\"a\") permit (principal, action, resource) when {{ context.call.hour == {hour} && context.call.minute == 30 && context.call.weekday == {weekday} }};"
        );
        let file = std::env::temp_dir().join(format!("whitelistmcp-{}.cedar", uuid::Uuid::new_v4()));
        std::fs::write(&file, text).expect("written");
        let time_zone = zone.map(str::to_owned);
        let policy = Policy::load(&Config { file: Some(file.clone()), time_zone, ..Config::default() });
        std::fs::remove_file(&file).expect("removed");
        // A Sunday.
        let now = "2027-07-04T22:30:00Z".parse().expect("a time");
        policy.map(|policy| policy.sees(&caller(), &targets().named()[0], now).expect("an answer"))
    };
    assert!(at(None, 22, 7).expect("sound") && at(Some("UTC"), 22, 7).expect("sound"));
    assert!(at(Some("Europe/Berlin"), 0, 1).expect("sound"), "a Monday there");
    assert!(!at(Some("Europe/Berlin"), 22, 7).expect("sound"));
    let error = at(Some("Europe/Atlantis"), 0, 1).expect_err("no zone").to_string();
    assert!(error.contains("Europe/Atlantis"), "{error}");
}

#[test]
fn policies_are_bounded() {
    let many = |count: usize| {
        (0..count).map(|n| format!("@id(\"p{n}\") permit (principal, action, resource);\n")).collect::<String>()
    };
    assert_eq!(Policy::parse(&many(500)).expect("as many as may be").len(), 500);
    assert!(matches!(Policy::parse(&many(501)), Err(LoadError::TooMuch)));
    let file = std::env::temp_dir().join(format!("whitelistmcp-{}.cedar", uuid::Uuid::new_v4()));
    std::fs::write(&file, "/".repeat(512 * 1024 + 1)).expect("written");
    assert!(matches!(Policy::load(&Config { file: Some(file.clone()), ..Config::default() }), Err(LoadError::TooMuch)));
    std::fs::remove_file(&file).expect("removed");
}

#[test]
fn a_policy_that_is_made_to_end_the_process_is_refused() {
    for deep in [
        format!("{}true{}", "(".repeat(1000), ")".repeat(1000)),
        format!("{}true{}", "[".repeat(1000), "]".repeat(1000)),
        format!("{}true", "if true then false else ".repeat(1000)),
        format!("true{}", " && true".repeat(10_000)),
    ] {
        let text = format!("@id(\"z\") permit (principal, action, resource) when {{ {deep} }};");
        assert!(matches!(Policy::parse(&text), Err(LoadError::TooDeep)), "{}", deep.get(..40).unwrap_or_default());
    }
}

#[test]
fn approvals_that_anybody_could_give_are_refused() {
    let wants = r#"@id("all") permit (principal, action, resource);
        @id("word") @approval("another") @message("Two people.") forbid (principal, action == Action::"whitelist_add", resource);"#;
    assert!(matches!(Policy::parse(wants), Err(LoadError::Unsaid("approve"))));
    let decided = format!("{wants} @id(\"deciders\") permit (principal, action == Action::\"approve\", resource);");
    assert!(matches!(Policy::parse(&decided), Err(LoadError::Unsaid("break_glass"))));
    let whole = format!(
        "{decided} @id(\"no-glass\") @message(\"No.\") forbid (principal, action == Action::\"break_glass\", resource);"
    );
    assert!(Policy::parse(&whole).is_ok());
}
