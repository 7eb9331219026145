use std::collections::BTreeSet;

use super::*;
use crate::identity::Principal;
use crate::identity::peer::PeerId;
use crate::identity::scope::Scopes;
use crate::operation::address::Block;
use crate::operation::ownership::Ownership;
use crate::operation::port::Ports;
use crate::operation::rule::{Source, Traffic};
use crate::operation::target::{AccountId, Config as TargetConfig, GroupConfig, Region, Targets};
use crate::operation::{CallId, Context as Parsing};
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
    Parsing { targets, caller: None, now: "2027-01-01T00:00:00Z".parse().expect("a time") }
}

fn operation(group: &str, address: &str, port: &str) -> Arc<Operation> {
    let request = pb::AddRuleRequest {
        security_group: group.to_owned(),
        address: address.to_owned(),
        port: port.to_owned(),
        reason: "because".to_owned(),
        ..Default::default()
    };
    Arc::new(Operation::add(request, CallId::new(), parsing(&targets())).expect("sound"))
}

fn rule(holder_id: Option<&str>) -> Rule {
    let ownership = holder_id
        .map(|id| Ownership::new("x", id, "because", "2027-01-01T00:00:00Z".parse().expect("a time"), None, "c"));
    Rule {
        id: Some("sgr-0123456789abcdef0".to_owned()),
        source: Source::Block(Block::from_aws("203.0.113.7/32").expect("a block")),
        traffic: Traffic::Ports(Ports::parse(Some("22"), None).expect("a port")),
        description: String::new(),
        ownership,
    }
}

#[test]
fn the_default_permits_one_address_on_a_configured_group() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let permit = policy.look(caller(), operation("db", "203.0.113.7", "22")).expect("permitted");
    assert_eq!(permit.policies(), ["services-on-configured-groups"]);
    assert!(policy.add(&permit, &[rule(None)]).is_ok());
}

#[test]
fn a_group_without_a_name_is_unseen_even_for_what_would_be_forbidden() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let denial = policy.look(caller(), operation("sg-00000000", "0.0.0.0/0", "22")).expect_err("unseen");
    assert!(matches!(denial, Denial::Unseen(_)), "{denial}");
}

#[test]
fn a_refusal_names_every_policy_and_what_would_be_allowed() {
    let policy = Policy::load(&Config::default()).expect("the default is sound");
    let denial = policy.look(caller(), operation("db", "0.0.0.0/0", "ssh")).expect_err("forbidden");
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
    let operation = Arc::new(Operation::remove(removal, CallId::new(), parsing(&targets())).expect("sound"));
    let permit = policy.look(caller, operation).expect("permitted");

    let removal =
        policy.remove(&permit, vec![own.clone(), rule(Some("somebody-else")), rule(None)]).expect("one may go");
    assert_eq!((removal.rules(), removal.kept().len()), ([own].as_slice(), 2));
    let denial = policy.remove(&permit, vec![rule(None)]).expect_err("none may go");
    assert_eq!(denial.policies(), ["not-made-here"]);
    assert!(policy.remove(&permit, Vec::new()).is_ok_and(|removal| removal.rules().is_empty()));
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
    let denial = policy.look(caller(), operation("db", "203.0.113.7", "22")).expect_err("nothing permits it");
    assert!(matches!(denial, Denial::NotPermitted), "{denial}");
}
