//! The facts that policies see, in Cedar's terms. The schema beside this file says the same.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};

use quick_cache::sync::Cache;

use super::{Denial, broken};
use crate::identity::{self, Caller};
use crate::operation::rule::{Rule, Source};
use crate::operation::{Kind, Operation};

/// Who asks and for what, as entities.
pub(super) struct Facts {
    pub(super) principal: EntityUid,
    pub(super) resource: EntityUid,
    pub(super) entities: Entities,
    call: RestrictedExpression,
}

/// A fact that is known only once AWS was read: its name in the context, and its value.
pub(super) type Standing = (&'static str, RestrictedExpression);

struct Types {
    action: EntityTypeName,
    group: EntityTypeName,
    person: EntityTypeName,
    service: EntityTypeName,
    security_group: EntityTypeName,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the names are literals, and every test of this module runs this")]
    let name = |name| EntityTypeName::from_str(name).expect("an entity type's name");
    Types {
        action: name("Action"),
        group: name("Group"),
        person: name("Person"),
        service: name("Service"),
        security_group: name("SecurityGroup"),
    }
});

pub(super) fn action_type() -> EntityTypeName {
    TYPES.action.clone()
}

// === impl Facts ===

impl Facts {
    pub(super) fn new(caller: &Caller, operation: &Operation, schema: &Schema) -> Result<Self, Denial> {
        let principal = caller.principal();
        let target = operation.target();
        let uid = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        let groups: Vec<EntityUid> = principal.groups().iter().map(|group| uid(&TYPES.group, group)).collect();

        let (kind, mut attributes) = match principal.kind() {
            identity::Kind::Person => (
                &TYPES.person,
                vec![
                    ("issuer", string(principal.issuer())),
                    ("subject", string(principal.subject())),
                    ("client", string(principal.client().unwrap_or_default())),
                ],
            ),
            identity::Kind::Service | identity::Kind::Own => (&TYPES.service, Vec::new()),
        };
        attributes.push(("name", string(principal.name())));
        let principal_uid = match principal.kind() {
            identity::Kind::Person => uid(kind, &format!("{}|{}", principal.issuer(), principal.subject())),
            identity::Kind::Service | identity::Kind::Own => uid(kind, principal.subject()),
        };
        let principal =
            Entity::new(principal_uid.clone(), owned(attributes), groups.iter().cloned().collect()).map_err(broken)?;

        let resource_uid =
            uid(&TYPES.security_group, &format!("{}/{}/{}", target.account(), target.region(), target.group()));
        let mut attributes = vec![
            ("id", string(target.group().as_str())),
            ("account", string(target.account().as_str())),
            ("region", string(target.region().as_str())),
            ("configured", RestrictedExpression::new_bool(target.name().is_some())),
        ];
        attributes.extend(target.name().map(|name| ("name", string(name))));
        let resource = Entity::new(resource_uid.clone(), owned(attributes), HashSet::new()).map_err(broken)?;

        let groups = groups.into_iter().map(|group| Entity::new_no_attrs(group, HashSet::new()));
        let entities = Entities::from_entities(groups.chain([principal, resource]), Some(schema)).map_err(broken)?;

        let mut call = vec![("peer", string(caller.peer().as_str()))];
        call.extend(caller.address().map(|address| ("client_address", ip(address.to_canonical().to_string()))));
        Ok(Self { principal: principal_uid, resource: resource_uid, entities, call: record(call)? })
    }

    /// The context of `see`.
    pub(super) fn see(&self) -> Result<Context, Denial> {
        context(vec![("call", self.call.clone())])
    }

    /// The context of the operation's own action.
    pub(super) fn request(&self, operation: &Operation, standing: Option<Standing>) -> Result<Context, Denial> {
        let long = |number: i64| RestrictedExpression::new_long(number);
        let mut pairs = vec![("call", self.call.clone())];
        match operation.kind() {
            Kind::Add(add) => {
                pairs.extend([
                    ("address", ip(add.block.to_string())),
                    ("prefix", long(add.block.prefix().into())),
                    ("ipv6", RestrictedExpression::new_bool(add.block.is_ipv6())),
                    ("public", RestrictedExpression::new_bool(add.block.is_public())),
                    ("special", RestrictedExpression::new_bool(add.block.is_special())),
                    ("protocol", string(add.ports.protocol().as_str())),
                    ("from_port", long(add.ports.from_port().into())),
                    ("to_port", long(add.ports.to_port().into())),
                    ("reason", string(&add.reason)),
                    ("dry_run", RestrictedExpression::new_bool(add.dry_run)),
                ]);
                pairs.extend(add.lease.length(operation.received()).map(|length| ("seconds", long(length.as_secs()))));
            }
            Kind::Remove(remove) => pairs.push(("dry_run", RestrictedExpression::new_bool(remove.dry_run))),
            Kind::List(_) | Kind::Check(_) => {}
        }
        pairs.extend(standing);
        context(pairs)
    }
}

/// How many rules of each family stand.
pub(super) fn standing(rules: &[Rule]) -> Result<Standing, Denial> {
    let count = |ipv6| {
        rules.iter().filter(|rule| matches!(rule.source, Source::Block(block) if block.is_ipv6() == ipv6)).count()
    };
    let long = |count: usize| RestrictedExpression::new_long(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(("standing", record(vec![("ipv4_rules", long(count(false))), ("ipv6_rules", long(count(true)))])?))
}

/// Whose a rule is.
pub(super) fn standing_rule(caller: &Caller, rule: &Rule) -> Result<Standing, Denial> {
    let own = rule.ownership.as_ref().is_some_and(|ownership| caller.principal().is(&ownership.holder_id));
    let managed = rule.ownership.is_some();
    Ok((
        "rule",
        record(vec![
            ("managed", RestrictedExpression::new_bool(managed)),
            ("callers_own", RestrictedExpression::new_bool(own)),
        ])?,
    ))
}

/// How many addresses are remembered as expressions.
const ADDRESSES_MOST: usize = 1024;

/// An address. Cedar parses the name of its own function for each one, so those that come again are kept.
fn ip(address: String) -> RestrictedExpression {
    static KNOWN: LazyLock<Cache<String, RestrictedExpression>> = LazyLock::new(|| Cache::new(ADDRESSES_MOST));
    KNOWN.get(&address).unwrap_or_else(|| {
        let expression = RestrictedExpression::new_ip(&address);
        KNOWN.insert(address, expression.clone());
        expression
    })
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn owned(pairs: Vec<(&'static str, RestrictedExpression)>) -> HashMap<String, RestrictedExpression> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn record(pairs: Vec<(&'static str, RestrictedExpression)>) -> Result<RestrictedExpression, Denial> {
    RestrictedExpression::new_record(pairs.into_iter().map(|(key, value)| (key.to_owned(), value))).map_err(broken)
}

fn context(pairs: Vec<(&'static str, RestrictedExpression)>) -> Result<Context, Denial> {
    Context::from_pairs(pairs.into_iter().map(|(key, value)| (key.to_owned(), value))).map_err(broken)
}
