//! The double of AWS against the real SDK: it does what AWS does, or the other tests prove nothing.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_ec2::types::{
    Filter, IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, SecurityGroupRule, SecurityGroupRuleRequest,
    SecurityGroupRuleUpdate, Tag, TagSpecification, UserIdGroupPair,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::aws_double::{AwsDouble, NetworkInterface, PrefixList, What};
use crate::support::{ACCOUNT, GROUP, OTHER_GROUP, REGION};

const ELSEWHERE: (&str, &str) = ("210987654321", "us-east-1");
const GROUP_ELSEWHERE: &str = "sg-0cccccccccccccccc";

/// Signs as the service itself, which AWS lets do anything.
fn base(aws: &AwsDouble) -> Client {
    let access = aws.access();
    client(aws, REGION, Credentials::new(access.access_key_id, access.secret_access_key, None, None, "test"))
}

fn client(aws: &AwsDouble, region: &'static str, credentials: Credentials) -> Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .endpoint_url(aws.access().endpoint)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(credentials);
    Client::from_conf(config.build())
}

fn sts(aws: &AwsDouble) -> aws_sdk_sts::Client {
    let access = aws.access();
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(access.endpoint)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::new(access.access_key_id, access.secret_access_key, None, None, "test"));
    aws_sdk_sts::Client::from_conf(config.build())
}

/// Signs as a session of that name, with the power that those statements leave.
async fn session(
    aws: &AwsDouble,
    (account, region): (&str, &'static str),
    name: &str,
    statements: Option<Value>,
) -> Client {
    let request =
        sts(aws).assume_role().role_arn(format!("arn:aws:iam::{account}:role/target")).role_session_name(name);
    let policy = statements.map(|statements| json!({"Version": "2012-10-17", "Statement": statements}).to_string());
    let answer = request.set_policy(policy).send().await.expect("a session");
    assert_eq!(
        answer.assumed_role_user().expect("who").arn(),
        format!("arn:aws:sts::{account}:assumed-role/target/{name}")
    );
    let lent = answer.credentials().expect("credentials");
    let token = Some(lent.session_token().to_owned());
    client(aws, region, Credentials::new(lent.access_key_id(), lent.secret_access_key(), token, None, "test"))
}

/// HTTP status and error code of what must be refused.
fn refused<T: Debug, E>(result: Result<T, SdkError<E, HttpResponse>>) -> (u16, String)
where
    E: ProvideErrorMetadata + Debug,
    SdkError<E, HttpResponse>: ProvideErrorMetadata,
{
    let error = result.expect_err("it is refused");
    let status = error.raw_response().expect("an answer").status().as_u16();
    (status, error.code().expect("a code").to_owned())
}

fn invalid(code: &str) -> (u16, String) {
    (400, code.to_owned())
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn filter(name: &str, values: &[&str]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.iter().map(|&value| value.to_owned()).collect())).build()
}

fn v4(cidr: &str) -> IpRange {
    IpRange::builder().cidr_ip(cidr).description(format!("for {cidr}")).build()
}

fn v6(cidr: &str) -> Ipv6Range {
    Ipv6Range::builder().cidr_ipv6(cidr).build()
}

fn tcp(port: i32) -> aws_sdk_ec2::types::builders::IpPermissionBuilder {
    IpPermission::builder().ip_protocol("tcp").from_port(port).to_port(port)
}

async fn rules(ec2: &Client, filters: Vec<Filter>) -> Vec<SecurityGroupRule> {
    let answer = ec2.describe_security_group_rules().set_filters(Some(filters)).send().await.expect("rules");
    answer.security_group_rules().to_vec()
}

fn ids(rules: &[SecurityGroupRule]) -> Vec<&str> {
    rules.iter().filter_map(SecurityGroupRule::security_group_rule_id).collect()
}

#[tokio::test]
async fn rules_are_made_together_or_not_at_all() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    let tags = TagSpecification::builder().resource_type(ResourceType::SecurityGroupRule).tags(tag("owner", "alice"));
    let made = ec2
        .authorize_security_group_ingress()
        .group_id(GROUP)
        .ip_permissions(
            tcp(22)
                .ip_ranges(v4("203.0.113.7/32"))
                .ip_ranges(v4("198.51.100.9/24"))
                .ipv6_ranges(v6("2001:db8::1/64"))
                .build(),
        )
        .ip_permissions(tcp(443).ip_ranges(v4("203.0.113.7/32")).build())
        .tag_specifications(tags.build())
        .send()
        .await
        .expect("all are made");
    let made = made.security_group_rules();
    let sources: Vec<_> = made.iter().map(|rule| (rule.cidr_ipv4(), rule.cidr_ipv6(), rule.from_port())).collect();
    let expected = [
        (Some("203.0.113.7/32"), None, Some(22)),
        (Some("198.51.100.0/24"), None, Some(22)),
        (None, Some("2001:db8::/64"), Some(22)),
        (Some("203.0.113.7/32"), None, Some(443)),
    ];
    assert_eq!(sources, expected, "host bits are cleared");
    assert_eq!((made[0].description(), made[2].description()), (Some("for 203.0.113.7/32"), None));
    assert!(made.iter().all(|rule| rule.tags()[0].value() == Some("alice") && rule.group_owner_id() == Some(ACCOUNT)));

    let again = |permission: IpPermission| {
        ec2.authorize_security_group_ingress().group_id(GROUP).ip_permissions(permission).send()
    };
    for (permission, code) in [
        (
            tcp(22).ip_ranges(v4("192.0.2.1/32")).ip_ranges(v4("198.51.100.77/24")).build(),
            "InvalidPermission.Duplicate",
        ),
        (tcp(22).ipv6_ranges(v6("2001:db8:0:0:1::/64")).build(), "InvalidPermission.Duplicate"),
        (tcp(22).ip_ranges(v4("192.0.2.1/32")).ip_ranges(v4("192.0.2.1/32")).build(), "InvalidParameterValue"),
        (tcp(22).ip_ranges(v4("192.0.2.1")).build(), "InvalidParameterValue"),
        (tcp(22).ip_ranges(v4("2001:db8::/64")).build(), "InvalidParameterValue"),
        (tcp(70_000).ip_ranges(v4("192.0.2.1/32")).build(), "InvalidParameterValue"),
        (tcp(22).build(), "MissingParameter"),
        (
            tcp(22).prefix_list_ids(PrefixListId::builder().prefix_list_id("pl-none").build()).build(),
            "InvalidPrefixListId.NotFound",
        ),
        (
            tcp(22).user_id_group_pairs(UserIdGroupPair::builder().group_id("sg-none").build()).build(),
            "InvalidGroup.NotFound",
        ),
        (
            tcp(22).ip_ranges(IpRange::builder().cidr_ip("192.0.2.1/32").description("\u{2603}").build()).build(),
            "InvalidParameterValue",
        ),
    ] {
        assert_eq!(refused(again(permission).await), invalid(code));
    }
    let nowhere = ec2.authorize_security_group_ingress().group_id("sg-0dddddddddddddddd");
    let nowhere = nowhere.ip_permissions(tcp(22).ip_ranges(v4("192.0.2.1/32")).build()).send().await;
    assert_eq!(refused(nowhere), invalid("InvalidGroup.NotFound"));
    let dry = ec2.authorize_security_group_ingress().group_id(GROUP).dry_run(true);
    let dry = dry.ip_permissions(tcp(80).ip_ranges(v4("192.0.2.1/32")).build()).send().await;
    assert_eq!(refused(dry), (412, "DryRunOperation".to_owned()));
    assert_eq!(aws.standing().len(), 4, "nothing of what was refused was made");
}

#[tokio::test]
async fn a_group_takes_so_many_rules_of_each_family() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    aws.rule_limit(4);
    let list =
        |id: &str, entries, of_aws| PrefixList { id: id.to_owned(), name: id.to_owned(), ipv6: false, entries, of_aws };
    aws.add_prefix_list(ACCOUNT, REGION, list("pl-0123456789abcdef0", 2, false));
    let add = |permission: IpPermission| {
        ec2.authorize_security_group_ingress().group_id(GROUP).ip_permissions(permission).send()
    };
    let prefix_list = PrefixListId::builder().prefix_list_id("pl-0123456789abcdef0").build();
    add(tcp(22).prefix_list_ids(prefix_list).build()).await.expect("counts for two");
    let other = UserIdGroupPair::builder().group_id(OTHER_GROUP).build();
    add(tcp(22).user_id_group_pairs(other).build()).await.expect("counts for one of each family");
    let two = tcp(22).ip_ranges(v4("192.0.2.1/32")).ip_ranges(v4("192.0.2.2/32"));
    assert_eq!(refused(add(two.build()).await), invalid("RulesPerSecurityGroupLimitExceeded"));
    add(tcp(22).ip_ranges(v4("192.0.2.1/32")).build()).await.expect("the fourth");
    let three = tcp(22).ipv6_ranges(v6("2001:db8:1::/64")).ipv6_ranges(v6("2001:db8:2::/64"));
    add(three.ipv6_ranges(v6("2001:db8:3::/64")).build()).await.expect("IPv6 is counted apart");
    let more = tcp(22).ipv6_ranges(v6("2001:db8:4::/64"));
    assert_eq!(refused(add(more.build()).await), invalid("RulesPerSecurityGroupLimitExceeded"));
}

#[tokio::test]
async fn rules_are_found_by_filters_and_ids_page_by_page() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    let made: Vec<String> =
        (0..12).map(|n| aws.rule("tcp", 22, 22, ("CidrIpv4", &format!("203.0.113.{n}/32")))).collect();
    let other = aws.rule_in((ACCOUNT, REGION), OTHER_GROUP, "tcp", (22, 22), ("CidrIpv6", "2001:db8::/64"));
    aws.hand_tag(&made[0], "owner", "alice@example.test");
    aws.hand_tag(&made[1], "owner", "bob@example.test");
    aws.hand_tag(&other, "owner", "alice@example.org");

    assert_eq!(rules(&ec2, vec![]).await.len(), 15, "and what lets everything out of both groups");
    assert_eq!(rules(&ec2, vec![filter("group-id", &[GROUP])]).await.len(), 13);
    assert_eq!(rules(&ec2, vec![filter("group-id", &[GROUP, OTHER_GROUP])]).await.len(), 15);
    assert!(rules(&ec2, vec![filter("group-id", &["sg-0dddddddddddddddd"])]).await.is_empty());
    let found = rules(&ec2, vec![filter("tag:owner", &["alice@*"])]).await;
    assert_eq!(ids(&found), [&made[0], &other]);
    let found = rules(&ec2, vec![filter("tag:owner", &["alice@*", "bob@*"]), filter("group-id", &[GROUP])]).await;
    assert_eq!(ids(&found), [&made[0], &made[1]]);
    let found = rules(&ec2, vec![filter("security-group-rule-id", &[&made[3], &made[4]])]).await;
    assert_eq!(ids(&found), [&made[3], &made[4]]);
    let unknown = ec2.describe_security_group_rules().filters(filter("cidr", &["203.0.113.7/32"])).send().await;
    assert_eq!(refused(unknown), invalid("InvalidParameterValue"));

    let by_id = ec2.describe_security_group_rules().security_group_rule_ids(&made[5]);
    assert_eq!(ids(by_id.clone().send().await.expect("a rule").security_group_rules()), [&made[5]]);
    let unknown = by_id.security_group_rule_ids("sgr-0dddddddddddddddd").send().await;
    assert_eq!(refused(unknown), invalid("InvalidSecurityGroupRuleId.NotFound"));

    let mut pages =
        ec2.describe_security_group_rules().filters(filter("group-id", &[GROUP])).into_paginator().page_size(5).send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.expect("a page").security_group_rules().len());
    }
    assert_eq!(sizes, [5, 5, 3]);
    let few = ec2.describe_security_group_rules().max_results(4).send().await;
    assert_eq!(refused(few), invalid("InvalidParameterValue"));
    aws.page_of(3);
    let page = ec2.describe_security_group_rules().max_results(1000).send().await.expect("a page");
    assert_eq!((page.security_group_rules().len(), page.next_token().is_some()), (3, true));
    let strange = ec2.describe_security_group_rules().next_token("strange").send().await;
    assert_eq!(refused(strange), invalid("InvalidPaginationToken"));
}

#[tokio::test]
async fn tags_are_set_and_taken_off_everywhere_or_nowhere() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    let rule = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.7/32"));
    let create = |resources: &[&str], tags: Vec<Tag>| {
        let resources = resources.iter().map(|&id| id.to_owned()).collect();
        ec2.create_tags().set_resources(Some(resources)).set_tags(Some(tags)).send()
    };
    create(&[&rule, GROUP], vec![tag("owner", "alice"), tag("größe/été", "")]).await.expect("both are tagged");
    assert_eq!(aws.tags()[&rule]["owner"], "alice");
    let many = (0..49).map(|n| tag(&format!("k{n}"), "v")).collect();
    for (resources, tags, code) in [
        (&[&rule, "sgr-0dddddddddddddddd"][..], vec![tag("a", "b")], "InvalidSecurityGroupRuleId.NotFound"),
        (&[&rule, "sg-0dddddddddddddddd"], vec![tag("a", "b")], "InvalidGroup.NotFound"),
        (&[&rule], many, "TagLimitExceeded"),
        (&[&rule], vec![tag(&"k".repeat(128), "b")], "InvalidParameterValue"),
        (&[&rule], vec![tag("a", &"v".repeat(257))], "InvalidParameterValue"),
        (&[&rule], vec![tag("a", "b;c")], "InvalidParameterValue"),
        (&[&rule], vec![tag("", "b")], "InvalidParameterValue"),
        (&[&rule], vec![tag("aws:name", "b")], "InvalidParameterValue"),
    ] {
        assert_eq!(refused(create(resources, tags).await), invalid(code));
    }
    assert_eq!(aws.tags()[&rule].len(), 2);
    create(&[&rule], (0..48).map(|n| tag(&format!("k{n}"), "v")).collect()).await.expect("fifty in all");

    let delete = |tag: Tag| ec2.delete_tags().resources(&rule).tags(tag).send();
    delete(tag("owner", "bob")).await.expect("no such tag");
    assert!(aws.tags()[&rule].contains_key("owner"), "another value stays");
    delete(tag("owner", "alice")).await.expect("that very tag");
    delete(Tag::builder().key("k0").build()).await.expect("whatever its value");
    assert!(!aws.tags()[&rule].contains_key("owner") && !aws.tags()[&rule].contains_key("k0"));
    ec2.delete_tags().resources(&rule).send().await.expect("every tag");
    assert!(aws.tags()[&rule].is_empty());
    let unknown = ec2.delete_tags().resources("sgr-0dddddddddddddddd").tags(tag("a", "b")).send().await;
    assert_eq!(refused(unknown), invalid("InvalidSecurityGroupRuleId.NotFound"));
}

fn update(id: &str, request: aws_sdk_ec2::types::builders::SecurityGroupRuleRequestBuilder) -> SecurityGroupRuleUpdate {
    SecurityGroupRuleUpdate::builder().security_group_rule_id(id).security_group_rule(request.build()).build()
}

fn request(port: i32) -> aws_sdk_ec2::types::builders::SecurityGroupRuleRequestBuilder {
    SecurityGroupRuleRequest::builder().ip_protocol("tcp").from_port(port).to_port(port)
}

#[tokio::test]
async fn rules_change_in_place_and_go_together() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    let one = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.1/32"));
    let two = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.2/32"));
    aws.hand_tag(&one, "owner", "alice");
    let modify = |group: &str, updates: Vec<SecurityGroupRuleUpdate>| {
        ec2.modify_security_group_rules().group_id(group).set_security_group_rules(Some(updates)).send()
    };
    modify(GROUP, vec![update(&one, request(443).cidr_ipv4("203.0.113.9/24").description("moved"))])
        .await
        .expect("it changes");
    let standing = aws.standing();
    assert_eq!(
        (&standing[0].id, standing[0].source.as_str(), standing[0].from, standing[0].to),
        (&one, "203.0.113.0/24", 443, 443)
    );
    assert_eq!((standing[0].description.as_str(), standing[0].tags["owner"].as_str()), ("moved", "alice"));
    for (group, updates, code) in [
        (GROUP, vec![update(&one, request(22).cidr_ipv4("203.0.113.2/32"))], "InvalidPermission.Duplicate"),
        (
            GROUP,
            vec![
                update(&one, request(80).cidr_ipv4("203.0.113.3/32")),
                update(&two, request(80).cidr_ipv4("203.0.113.3/32")),
            ],
            "InvalidPermission.Duplicate",
        ),
        (
            GROUP,
            vec![update("sgr-0dddddddddddddddd", request(22).cidr_ipv4("203.0.113.3/32"))],
            "InvalidSecurityGroupRuleId.NotFound",
        ),
        (
            OTHER_GROUP,
            vec![update(&one, request(22).cidr_ipv4("203.0.113.3/32"))],
            "InvalidSecurityGroupRuleId.NotFound",
        ),
        ("sg-0dddddddddddddddd", vec![update(&one, request(22).cidr_ipv4("203.0.113.3/32"))], "InvalidGroup.NotFound"),
        // AWS: "when you modify a rule, you cannot change the rule type".
        (GROUP, vec![update(&one, request(22).cidr_ipv6("2001:db8::/64"))], "InvalidParameterValue"),
    ] {
        assert_eq!(refused(modify(group, updates).await), invalid(code));
    }
    assert_eq!(aws.standing(), standing, "nothing of what was refused was done");
    let swap = vec![
        update(&one, request(22).cidr_ipv4("203.0.113.2/32")),
        update(&two, request(22).cidr_ipv4("203.0.113.1/32")),
    ];
    modify(GROUP, swap).await.expect("no two are the same afterwards");

    let revoke = |ids: &[&str]| {
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        ec2.revoke_security_group_ingress().group_id(GROUP).set_security_group_rule_ids(Some(ids)).send()
    };
    let three = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.3/32"));
    let one_unknown = revoke(&[&one, "sgr-0dddddddddddddddd"]).await;
    assert_eq!(refused(one_unknown), invalid("InvalidSecurityGroupRuleId.NotFound"));
    assert_eq!(aws.standing().len(), 3);
    let gone = revoke(&[&one, &two]).await.expect("both go");
    assert_eq!(gone.revoked_security_group_rules().len(), 2);
    assert_eq!(aws.standing().into_iter().map(|rule| rule.id).collect::<Vec<_>>(), [three]);
    assert_eq!(refused(revoke(&[&one]).await), invalid("InvalidSecurityGroupRuleId.NotFound"));
}

#[tokio::test]
async fn groups_interfaces_and_prefix_lists_are_told() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    aws.add_group(ACCOUNT, REGION, GROUP_ELSEWHERE, "bastion", &[("whitelistmcp:managed", "true")]);
    let groups = |filters: Vec<Filter>| ec2.describe_security_groups().set_filters(Some(filters)).send();
    let all = groups(vec![]).await.expect("groups");
    let names: Vec<_> = all.security_groups().iter().filter_map(|group| group.group_name()).collect();
    assert_eq!(names, ["staging-db", "payroll-db", "bastion"]);
    for filter in [
        filter("tag-key", &["whitelistmcp:managed"]),
        filter("tag:whitelistmcp:managed", &["t*"]),
        filter("group-name", &["bast*"]),
        filter("group-id", &[GROUP_ELSEWHERE]),
    ] {
        let found = groups(vec![filter]).await.expect("groups");
        let [group] = found.security_groups() else { panic!("{found:?}") };
        assert_eq!((group.group_id(), group.owner_id()), (Some(GROUP_ELSEWHERE), Some(ACCOUNT)));
        assert_eq!((group.description(), group.vpc_id()), (Some("bastion for a test"), Some("vpc-0123456789abcdef0")));
        assert_eq!((group.tags().len(), group.tags()[0].value()), (1, Some("true")));
    }
    let two = ec2.describe_security_groups().group_ids(GROUP).group_ids(OTHER_GROUP);
    assert_eq!(two.clone().send().await.expect("groups").security_groups().len(), 2);
    let unknown = two.group_ids("sg-0dddddddddddddddd").send().await;
    assert_eq!(refused(unknown), invalid("InvalidGroup.NotFound"));
    aws.page_of(2);
    let page = ec2.describe_security_groups().send().await.expect("a page");
    let rest = ec2
        .describe_security_groups()
        .set_next_token(page.next_token().map(str::to_owned))
        .send()
        .await
        .expect("a page");
    assert_eq!((rest.security_groups().len(), rest.next_token()), (1, None));

    let instance = NetworkInterface {
        id: "eni-1".to_owned(),
        kind: "interface".to_owned(),
        attachment: Some((Some("i-0123456789abcdef0".to_owned()), ACCOUNT.to_owned())),
        groups: vec![GROUP.to_owned(), OTHER_GROUP.to_owned()],
        tags: [("Name".to_owned(), "db-1".to_owned())].into(),
        ..NetworkInterface::default()
    };
    let balancer = NetworkInterface {
        id: "eni-2".to_owned(),
        description: "ELB app/web/0123".to_owned(),
        kind: "network_load_balancer".to_owned(),
        requester: Some("amazon-elb".to_owned()),
        requester_managed: true,
        groups: vec![OTHER_GROUP.to_owned()],
        ..NetworkInterface::default()
    };
    aws.add_interface(ACCOUNT, REGION, balancer);
    aws.add_interface(ACCOUNT, REGION, instance);
    let interfaces = |group: &str| ec2.describe_network_interfaces().filters(filter("group-id", &[group])).send();
    let found = interfaces(GROUP).await.expect("interfaces");
    let [found] = found.network_interfaces() else { panic!("{found:?}") };
    let attachment = found.attachment().expect("attached");
    assert_eq!(
        (attachment.instance_id(), attachment.instance_owner_id()),
        (Some("i-0123456789abcdef0"), Some(ACCOUNT))
    );
    assert_eq!((found.groups().len(), found.tag_set()[0].value()), (2, Some("db-1")));
    let found = interfaces(OTHER_GROUP).await.expect("interfaces");
    let [_, found] = found.network_interfaces() else { panic!("{found:?}") };
    assert_eq!((found.requester_id(), found.requester_managed()), (Some("amazon-elb"), Some(true)));
    assert_eq!((found.description(), found.attachment()), (Some("ELB app/web/0123"), None));
    assert_eq!(found.interface_type().expect("a type").as_str(), "network_load_balancer");

    let list = |id: &str, of_aws| PrefixList {
        id: id.to_owned(),
        name: format!("name of {id}"),
        ipv6: of_aws,
        entries: 55,
        of_aws,
    };
    aws.add_prefix_list(ACCOUNT, REGION, list("pl-1", false));
    aws.add_prefix_list(ACCOUNT, REGION, list("pl-2", true));
    let asked = ec2.describe_managed_prefix_lists().prefix_list_ids("pl-1").prefix_list_ids("pl-2");
    let found = asked.clone().send().await.expect("lists");
    let told: Vec<_> = found
        .prefix_lists()
        .iter()
        .map(|list| (list.prefix_list_name(), list.owner_id(), list.max_entries(), list.address_family()))
        .collect();
    let expected = [
        (Some("name of pl-1"), Some(ACCOUNT), Some(55), Some("IPv4")),
        (Some("name of pl-2"), Some("AWS"), None, Some("IPv6")),
    ];
    assert_eq!(told, expected);
    let unknown = asked.prefix_list_ids("pl-3").send().await;
    assert_eq!(refused(unknown), invalid("InvalidPrefixListID.NotFound"));
}

#[tokio::test]
async fn accounts_and_regions_are_apart() {
    let aws = AwsDouble::start().await;
    aws.add_group(ELSEWHERE.0, ELSEWHERE.1, GROUP_ELSEWHERE, "bastion", &[]);
    let (here, there) = (base(&aws), session(&aws, ELSEWHERE, "alice", None).await);
    assert_eq!(rules(&here, vec![]).await.len(), 2);
    let [only] = rules(&there, vec![]).await.try_into().expect("one rule");
    assert_eq!((only.group_id(), only.group_owner_id()), (Some(GROUP_ELSEWHERE), Some(ELSEWHERE.0)));
    assert!(rules(&session(&aws, (ELSEWHERE.0, REGION), "alice", None).await, vec![]).await.is_empty());
    let rule = aws.rule_in(ELSEWHERE, GROUP_ELSEWHERE, "tcp", (22, 22), ("CidrIpv4", "203.0.113.7/32"));
    let reach = |ec2: &Client| ec2.create_tags().resources(&rule).tags(tag("a", "b")).send();
    assert_eq!(refused(reach(&here).await), invalid("InvalidSecurityGroupRuleId.NotFound"));
    reach(&there).await.expect("its own rule");
    let standing = aws.standing();
    assert_eq!((standing[0].account.as_str(), standing[0].region.as_str()), ELSEWHERE);
    assert_eq!(standing[0].protocol, "tcp");

    let forged = client(&aws, REGION, Credentials::new("ASIANOTLENT", "secret", None, None, "test"));
    assert_eq!(refused(forged.describe_security_groups().send().await), (401, "AuthFailure".to_owned()));
    let who = sts(&aws).get_caller_identity().send().await.expect("who");
    assert_eq!(who.account(), Some(ACCOUNT));
}

/// The answer to a request, as it comes.
async fn raw(aws: &AwsDouble, body: &str) -> String {
    let endpoint = aws.access().endpoint;
    let mut stream =
        tokio::net::TcpStream::connect(endpoint.trim_start_matches("http://")).await.expect("a connection");
    let request =
        format!("POST / HTTP/1.1\r\nhost: aws\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_ok() && stream.read_to_string(&mut answer).await.is_err() {
        answer.clear();
    }
    answer
}

#[tokio::test]
async fn every_answer_tells_the_time() {
    let aws = AwsDouble::start().await;
    for offset in [0, 3600, -86_400] {
        aws.clock_offset(offset);
        for body in ["Action=DescribeSecurityGroups", "Action=Nonsense"] {
            let answer = raw(&aws, body).await;
            let date = answer.lines().find_map(|line| line.strip_prefix("date: ")).expect("a date");
            let date = jiff::fmt::rfc2822::parse(date).expect("a date of HTTP").timestamp();
            let now = whitelistmcp::clock::Clock::system().now();
            let ahead = date.as_second() - now.as_second() - offset;
            assert!((-5..=1).contains(&ahead), "{answer}");
        }
    }
}

#[tokio::test]
async fn reads_come_late_and_changes_at_once() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    let delay = Duration::from_secs(1);
    let old = aws.rule("tcp", 22, 22, ("CidrIpv4", "203.0.113.1/32"));
    tokio::time::sleep(delay).await;
    aws.read_delay(delay);
    let add = || {
        let permission = tcp(22).ip_ranges(v4("203.0.113.2/32")).build();
        ec2.authorize_security_group_ingress().group_id(GROUP).ip_permissions(permission).send()
    };
    let made = add().await.expect("it is made");
    let new = made.security_group_rules()[0].security_group_rule_id().expect("an id").to_owned();
    assert_eq!(refused(add().await), invalid("InvalidPermission.Duplicate"));
    ec2.create_tags()
        .resources(&new)
        .resources(&old)
        .resources(GROUP)
        .tags(tag("a", "b"))
        .send()
        .await
        .expect("it stands");
    aws.hand_revoke(&old);
    aws.add_group(ACCOUNT, REGION, GROUP_ELSEWHERE, "bastion", &[]);

    let inbound = || async {
        let found = rules(&ec2, vec![filter("group-id", &[GROUP])]).await;
        found.into_iter().filter(|rule| rule.is_egress() == Some(false)).collect::<Vec<_>>()
    };
    let groups = || async {
        let found = ec2.describe_security_groups().send().await.expect("groups");
        (found.security_groups().len(), found.security_groups().iter().map(|group| group.tags().len()).sum::<usize>())
    };
    let seen = inbound().await;
    assert_eq!((ids(&seen), seen[0].tags().len()), (vec![old.as_str()], 0), "as it was before");
    assert_eq!(groups().await, (2, 0));
    tokio::time::sleep(delay).await;
    let seen = inbound().await;
    assert_eq!((ids(&seen), seen[0].tags().len()), (vec![new.as_str()], 1), "as it is now");
    assert_eq!(groups().await, (3, 1));
    aws.hand_revoke(&new);
    aws.read_delay(Duration::ZERO);
    assert!(inbound().await.is_empty());
}

#[tokio::test]
async fn a_session_does_what_its_policy_allows() {
    let aws = AwsDouble::start().await;
    let here = (ACCOUNT, REGION);
    let group = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{GROUP}");
    let any_rule = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:security-group-rule/*");
    let denied = (403, "UnauthorizedOperation".to_owned());
    let add = |ec2: &Client, group: &str, port: i32, owner: Option<&str>| {
        let tags = owner.map(|owner| {
            let specification = TagSpecification::builder().resource_type(ResourceType::SecurityGroupRule);
            vec![specification.tags(tag("owner", owner)).build()]
        });
        let permission = tcp(port).ip_ranges(v4("203.0.113.7/32")).build();
        let request = ec2.authorize_security_group_ingress().group_id(group).ip_permissions(permission);
        request.set_tag_specifications(tags).send()
    };

    let adder = json!([
        {"Effect": "Allow", "Action": "ec2:AuthorizeSecurityGroupIngress", "Resource": group},
        {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": any_rule, "Condition": {
            "StringEquals": {"ec2:CreateAction": "AuthorizeSecurityGroupIngress", "aws:RequestTag/owner": "alice"},
            "ForAllValues:StringEquals": {"aws:TagKeys": ["owner"]}}},
    ]);
    let adder = session(&aws, here, "alice", Some(adder)).await;
    let made = add(&adder, GROUP, 22, Some("alice")).await.expect("allowed");
    let alices = made.security_group_rules()[0].security_group_rule_id().expect("an id").to_owned();
    add(&adder, GROUP, 80, None).await.expect("no tags, no CreateTags");
    assert_eq!(refused(add(&adder, GROUP, 443, Some("bob")).await), denied);
    assert_eq!(refused(add(&adder, OTHER_GROUP, 22, Some("alice")).await), denied);
    assert_eq!(refused(adder.create_tags().resources(&alices).tags(tag("owner", "alice")).send().await), denied);
    assert_eq!(refused(adder.describe_security_groups().send().await), denied);

    let reader = json!({"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*", "Condition": {"StringEquals": {"aws:RequestedRegion": REGION}}});
    let reader = session(&aws, here, "alice", Some(reader)).await;
    reader.describe_security_groups().send().await.expect("allowed");
    let by_arn = json!({"Effect": "Allow", "Action": "ec2:Describe*", "Resource": [group, any_rule]});
    let by_arn = session(&aws, here, "alice", Some(by_arn)).await;
    assert_eq!(refused(by_arn.describe_security_group_rules().send().await), denied, "Describe takes no resource");

    let bobs = aws.rule("tcp", 25, 25, ("CidrIpv4", "203.0.113.8/32"));
    aws.hand_tag(&bobs, "owner", "bob");
    let own = json!({"StringEquals": {"aws:ResourceTag/owner": "alice"}});
    let changer = json!([
        {"Effect": "Allow", "Action": "ec2:ModifySecurityGroupRules", "Resource": group},
        {"Effect": "Allow", "Action": ["ec2:ModifySecurityGroupRules", "ec2:CreateTags"], "Resource": any_rule, "Condition": own},
        {"Effect": "Allow", "Action": "ec2:DeleteTags", "Resource": any_rule, "Condition": {"ForAllValues:StringLike": {"aws:TagKeys": ["until*"]}, "StringEquals": {"aws:RequestTag/until": "noon"}}},
        {"Effect": "Deny", "Action": "ec2:CreateTags", "Resource": "*", "Condition": {"StringLike": {"aws:RequestTag/owner": "*"}}},
    ]);
    let changer = session(&aws, here, "alice", Some(changer)).await;
    let modify = |rule: &str| {
        let update = update(rule, request(2222).cidr_ipv4("203.0.113.9/32"));
        changer.modify_security_group_rules().group_id(GROUP).security_group_rules(update).send()
    };
    modify(&alices).await.expect("her own");
    assert_eq!(refused(modify(&bobs).await), denied);
    let retag = |rules: &[&str], key: &str| {
        let rules = rules.iter().map(|&id| id.to_owned()).collect();
        changer.create_tags().set_resources(Some(rules)).tags(tag(key, "noon")).send()
    };
    retag(&[&alices], "until").await.expect("her own");
    assert_eq!(refused(retag(&[&alices, &bobs], "until").await), denied, "each of them must be allowed");
    assert_eq!(refused(retag(&[&alices], "owner").await), denied, "a deny wins");
    let untag = |tag: Tag| changer.delete_tags().resources(&alices).tags(tag).send();
    assert_eq!(refused(untag(Tag::builder().key("until").build()).await), denied, "no value is named");
    assert_eq!(refused(untag(tag("owner", "alice")).await), denied);
    untag(tag("until", "noon")).await.expect("that very tag");

    let remover = json!({"Effect": "Allow", "Action": "ec2:RevokeSecurityGroupIngress", "Resource": group});
    let remover = session(&aws, here, "alice", Some(remover)).await;
    let others = aws.rule_in(here, OTHER_GROUP, "tcp", (22, 22), ("CidrIpv4", "203.0.113.8/32"));
    let revoke = |rule: &str| remover.revoke_security_group_ingress().security_group_rule_ids(rule).send();
    assert_eq!(refused(revoke(&others).await), denied, "the rule's group counts where none is named");
    revoke(&bobs).await.expect("any rule of the group");
    let broken = sts(&aws).assume_role().role_arn(aws.access().role_arn).role_session_name("alice").policy("{}");
    assert_eq!(refused(broken.send().await), invalid("MalformedPolicyDocument"));
}

#[tokio::test]
async fn who_asks_too_often_is_throttled() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    aws.bucket("DescribeSecurityGroups", 2, 1.0);
    aws.bucket("AssumeRole", 1, 0.0);
    let there = session(&aws, ELSEWHERE, "alice", None).await;
    let ask = |ec2: &Client| ec2.describe_security_groups().send();
    ask(&ec2).await.expect("one");
    ask(&ec2).await.expect("two");
    assert_eq!(refused(ask(&ec2).await), (503, "RequestLimitExceeded".to_owned()));
    ask(&there).await.expect("each account and Region has its own bucket");
    ec2.describe_security_group_rules().send().await.expect("each action has its own bucket");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    ask(&ec2).await.expect("the bucket fills again");
    let again = sts(&aws).assume_role().role_arn(aws.access().role_arn).role_session_name("alice").send().await;
    assert_eq!(refused(again), invalid("Throttling"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_down_nothing_is_answered() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    ec2.describe_security_groups().send().await.expect("up");
    aws.fail("DescribeSecurityGroupRules", crate::support::aws_double::Fault::Hang(Duration::from_secs(20)));
    let hanging = tokio::spawn(ec2.describe_security_group_rules().send());
    while aws.actions().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    aws.down(true);
    assert!(hanging.await.expect("it ends").expect_err("cut").raw_response().is_none());
    assert!(ec2.describe_security_groups().send().await.expect_err("cut").raw_response().is_none());
    assert_eq!(raw(&aws, "Action=DescribeSecurityGroups").await, "");
    assert_eq!(aws.actions().len(), 2, "nothing arrived");
    aws.down(false);
    ec2.describe_security_groups().send().await.expect("up again");
}

#[tokio::test]
async fn every_change_is_remembered() {
    let aws = AwsDouble::start().await;
    aws.clock_offset(86_400);
    let alice = session(&aws, (ACCOUNT, REGION), "alice", None).await;
    let begun = Instant::now();
    let permission = tcp(22).ip_ranges(v4("203.0.113.7/32")).build();
    let made = alice.authorize_security_group_ingress().group_id(GROUP).ip_permissions(permission).send().await;
    let id = made.expect("it is made").security_group_rules()[0].security_group_rule_id().expect("an id").to_owned();
    alice.create_tags().resources(&id).resources(OTHER_GROUP).tags(tag("owner", "alice")).send().await.expect("tagged");
    assert!(aws.hand_tag(&id, "until", "noon"));
    assert!(aws.hand_modify(&id, "203.0.113.9/24"));
    let change = update(&id, request(443).cidr_ipv4("203.0.113.8/32"));
    alice.modify_security_group_rules().group_id(GROUP).security_group_rules(change).send().await.expect("modified");
    alice.delete_tags().resources(&id).tags(tag("owner", "alice")).send().await.expect("untagged");
    assert!(aws.hand_untag(&id, "until"));
    alice.revoke_security_group_ingress().security_group_rule_ids(&id).send().await.expect("revoked");
    assert!(!aws.hand_revoke(&id) && !aws.hand_tag(&id, "a", "b") && aws.standing().is_empty());

    let history = aws.history();
    let told: Vec<_> = history
        .iter()
        .map(|change| {
            (change.what, change.by.as_str(), change.rule.source.as_str(), change.rule.from, change.rule.tags.len())
        })
        .collect();
    let (owner, cidr, wide, moved) = ("alice", "203.0.113.7/32", "203.0.113.0/24", "203.0.113.8/32");
    let expected = [
        (What::Made, owner, cidr, 22, 0),
        (What::Tagged, owner, "", -1, 1),
        (What::Tagged, owner, cidr, 22, 1),
        (What::Tagged, "by hand", cidr, 22, 2),
        (What::Modified, "by hand", wide, 22, 2),
        (What::Modified, owner, moved, 443, 2),
        (What::Untagged, owner, moved, 443, 1),
        (What::Untagged, "by hand", moved, 443, 0),
        (What::Revoked, owner, moved, 443, 0),
    ];
    assert_eq!(told, expected);
    let now = whitelistmcp::clock::Clock::system().now();
    let tomorrow = |change: &crate::support::aws_double::Change| change.time.as_second() - now.as_second() - 86_400;
    assert!(history.iter().all(|change| change.at >= begun && tomorrow(change).abs() < 30));
    assert!(history.is_sorted_by_key(|change| change.at));
    assert_eq!((history[1].rule.group.as_str(), history[0].rule.id.as_str()), (OTHER_GROUP, id.as_str()));
    assert_eq!((history[0].rule.account.as_str(), history[0].rule.region.as_str()), (ACCOUNT, REGION));
}

#[tokio::test]
async fn some_thousand_rules_are_no_burden() {
    let aws = AwsDouble::start().await;
    let ec2 = base(&aws);
    aws.rule_limit(10_000);
    for n in 0..4000 {
        aws.rule("tcp", n, n, ("CidrIpv4", "203.0.113.7/32"));
    }
    aws.read_delay(Duration::from_secs(60));
    assert!(rules(&ec2, vec![]).await.is_empty(), "a minute ago there was nothing");
    aws.read_delay(Duration::from_millis(1));
    let begun = Instant::now();
    for n in 4000..4100 {
        let permission = tcp(n).ip_ranges(v4("203.0.113.7/32")).build();
        ec2.authorize_security_group_ingress()
            .group_id(GROUP)
            .ip_permissions(permission)
            .send()
            .await
            .expect("it is made");
    }
    let mut pages = ec2.describe_security_group_rules().filters(filter("group-id", &[GROUP])).into_paginator().send();
    let mut found = 0;
    while let Some(page) = pages.next().await {
        found += page.expect("a page").security_group_rules().len();
    }
    assert_eq!(found, 4101);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
