//! Answers as EC2 and STS write them.

use super::resources::{Group, NetworkInterface, PrefixList, Rule, Source, Tags, Where};

pub(super) const REQUEST_ID: &str = "req-1";

/// An element with text in it.
pub(super) fn text(name: &str, text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<{name}>{escaped}</{name}>")
}

/// An answer of EC2.
pub(super) fn ec2(action: &str, inner: &str) -> String {
    format!(
        "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{REQUEST_ID}</requestId>{inner}</{action}Response>"
    )
}

/// An answer of STS.
pub(super) fn sts(action: &str, inner: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
    )
}

/// An error of EC2.
pub(super) fn ec2_error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>as told</Message></Error></Errors><RequestID>{REQUEST_ID}</RequestID></Response>"
    )
}

/// An error of STS.
pub(super) fn sts_error(code: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>as told</Message></Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
    )
}

/// A rule as Describe and Authorize tell it.
pub(super) fn rule(at: &Where, rule: &Rule) -> String {
    let source = match &rule.source {
        Source::Group(id) => {
            format!("<referencedGroupInfo>{}{}</referencedGroupInfo>", text("groupId", id), text("userId", &at.account))
        }
        source => text(source_name(source), &source.as_text()),
    };
    let owner = text("groupOwnerId", &at.account);
    format!("<item>{owner}{}{source}{}</item>", rule_start(rule), tags(&rule.tags))
}

/// A rule as Revoke tells it.
pub(super) fn revoked(rule: &Rule) -> String {
    format!("<item>{}{}</item>", rule_start(rule), text(source_name(&rule.source), &rule.source.as_text()))
}

fn source_name(source: &Source) -> &'static str {
    match source {
        Source::Cidr(block) if block.is_ipv6() => "cidrIpv6",
        Source::Cidr(_) => "cidrIpv4",
        Source::PrefixList(_) => "prefixListId",
        Source::Group(_) => "referencedGroupId",
    }
}

fn rule_start(rule: &Rule) -> String {
    let description = match rule.description.as_str() {
        "" => String::new(),
        description => text("description", description),
    };
    [
        text("securityGroupRuleId", &rule.id),
        text("groupId", &rule.group),
        text("isEgress", &rule.egress.to_string()),
        text("ipProtocol", &rule.protocol),
        text("fromPort", &rule.from.to_string()),
        text("toPort", &rule.to.to_string()),
        description,
    ]
    .concat()
}

pub(super) fn group(at: &Where, group: &Group) -> String {
    let inner = [
        text("ownerId", &at.account),
        text("groupId", &group.id),
        text("groupName", &group.name),
        text("groupDescription", &group.description),
        text("vpcId", &group.vpc),
        tags(&group.tags),
    ];
    format!("<item>{}</item>", inner.concat())
}

pub(super) fn interface(interface: &NetworkInterface) -> String {
    let optional = |name, value: Option<&String>| value.map(|value| text(name, value)).unwrap_or_default();
    let attachment = interface.attachment.as_ref().map(|(instance, owner)| {
        let inner =
            [optional("instanceId", instance.as_ref()), text("instanceOwnerId", owner), text("status", "attached")];
        format!("<attachment>{}</attachment>", inner.concat())
    });
    let groups: String =
        interface.groups.iter().map(|group| format!("<item>{}</item>", text("groupId", group))).collect();
    let inner = [
        text("networkInterfaceId", &interface.id),
        text("description", &interface.description),
        text("interfaceType", &interface.kind),
        optional("requesterId", interface.requester.as_ref()),
        text("requesterManaged", &interface.requester_managed.to_string()),
        attachment.unwrap_or_default(),
        format!("<groupSet>{groups}</groupSet>"),
        tags(&interface.tags),
    ];
    format!("<item>{}</item>", inner.concat())
}

pub(super) fn prefix_list(at: &Where, list: &PrefixList) -> String {
    let inner = [
        text("prefixListId", &list.id),
        text("prefixListName", &list.name),
        text("addressFamily", if list.ipv6 { "IPv6" } else { "IPv4" }),
        text("ownerId", if list.of_aws { "AWS" } else { &at.account }),
        if list.of_aws { String::new() } else { text("maxEntries", &list.entries.to_string()) },
    ];
    format!("<item>{}</item>", inner.concat())
}

fn tags(tags: &Tags) -> String {
    let items: String =
        tags.iter().map(|(key, value)| format!("<item>{}{}</item>", text("key", key), text("value", value))).collect();
    format!("<tagSet>{items}</tagSet>")
}
