//! The facts that policies see, in Cedar's terms. The schema beside this file says the same.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use quick_cache::sync::Cache;

use super::{Change, Denial, broken};
use crate::identity::{self, Caller};
use crate::operation::rule::{Rule, Source};
use crate::operation::target::Known;
use crate::operation::{Kind, Opening, Operation, Scope};

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
    api_key: EntityTypeName,
    group: EntityTypeName,
    own: EntityTypeName,
    person: EntityTypeName,
    region: EntityTypeName,
    service: EntityTypeName,
    security_group: EntityTypeName,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the names are literals, and every test of this module runs this")]
    let name = |name| EntityTypeName::from_str(name).expect("an entity type's name");
    Types {
        action: name("Action"),
        api_key: name("ApiKey"),
        group: name("Group"),
        own: name("Own"),
        person: name("Person"),
        region: name("Region"),
        service: name("Service"),
        security_group: name("SecurityGroup"),
    }
});

pub(super) fn action_type() -> EntityTypeName {
    TYPES.action.clone()
}

pub(super) fn security_group_type() -> EntityTypeName {
    TYPES.security_group.clone()
}

pub(super) fn region_type() -> EntityTypeName {
    TYPES.region.clone()
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// Who asks, alone: every other entity counts as unknown.
pub(super) fn principal(caller: &Caller, schema: &Schema) -> Result<(EntityUid, Entities), Denial> {
    let (principal, entities) = principal_entities(caller)?;
    Ok((principal, Entities::from_entities(entities, Some(schema)).map_err(broken)?.partial()))
}

/// Who asks, and the groups that they are in.
fn principal_entities(caller: &Caller) -> Result<(EntityUid, Vec<Entity>), Denial> {
    let principal = caller.principal();
    let groups: Vec<EntityUid> = principal.groups().iter().map(|group| uid(&TYPES.group, group)).collect();
    let mut claims = Vec::new();
    let (principal_uid, mut attributes) = match principal.kind() {
        identity::Kind::Person => {
            claims.extend(principal.said().claims.iter().map(|(name, value)| (name.clone(), string(value))));
            (
                uid(&TYPES.person, &format!("{}|{}", principal.issuer(), principal.subject())),
                vec![
                    ("issuer", string(principal.issuer())),
                    ("subject", string(principal.subject())),
                    ("client", string(principal.client().unwrap_or_default())),
                ],
            )
        }
        identity::Kind::Service => (uid(&TYPES.service, principal.subject()), Vec::new()),
        identity::Kind::ApiKey => {
            (uid(&TYPES.api_key, principal.subject()), vec![("owner", string(principal.owner().unwrap_or_default()))])
        }
        identity::Kind::Own => (uid(&TYPES.own, principal.subject()), Vec::new()),
    };
    attributes.push(("name", string(principal.name())));
    let who = Entity::new_with_tags(principal_uid.clone(), owned(attributes), groups.iter().cloned(), claims);
    let mut entities = vec![who.map_err(broken)?];
    entities.extend(groups.into_iter().map(|group| Entity::new_no_attrs(group, HashSet::new())));
    Ok((principal_uid, entities))
}

// === impl Facts ===

impl Facts {
    /// What is known of a call that came in then. `zone` is the one that `hour`, `minute` and `weekday` are told in.
    pub(super) fn new(
        caller: &Caller,
        scope: &Scope,
        at: Timestamp,
        zone: &TimeZone,
        schema: &Schema,
    ) -> Result<Self, Denial> {
        let said = caller.principal().said();
        let (principal_uid, who) = principal_entities(caller)?;

        let place = scope.place();
        let mut attributes =
            vec![("account", string(place.account().as_str())), ("region", string(place.region().as_str()))];
        let mut tags = Vec::new();
        let resource_uid = match scope {
            Scope::Region(_) => uid(&TYPES.region, &format!("{}/{}", place.account(), place.region())),
            Scope::Group(target) => {
                attributes.extend([
                    ("id", string(target.group().as_str())),
                    ("configured", RestrictedExpression::new_bool(target.known() == Known::Configured)),
                    ("opted_in", RestrictedExpression::new_bool(target.known() == Known::OptedIn)),
                ]);
                attributes.extend(target.name().map(|name| ("name", string(name))));
                if let Some(described) = target.described() {
                    attributes.extend(described.vpc.as_deref().map(|vpc| ("vpc", string(vpc))));
                    tags.extend(described.tags.iter().map(|(key, value)| (key.clone(), string(value))));
                }
                uid(&TYPES.security_group, &format!("{}/{}/{}", place.account(), place.region(), target.group()))
            }
        };
        let resource =
            Entity::new_with_tags(resource_uid.clone(), owned(attributes), HashSet::new(), tags).map_err(broken)?;

        let entities = Entities::from_entities(who.into_iter().chain([resource]), Some(schema)).map_err(broken)?;

        let set = |texts: &mut dyn Iterator<Item = &String>| {
            RestrictedExpression::new_set(texts.map(|text| string(text)).collect::<Vec<_>>())
        };
        let local = at.to_zoned(zone.clone());
        let mut call = vec![
            ("peer", string(caller.peer().as_str())),
            ("amr", set(&mut said.amr.iter())),
            ("actors", set(&mut said.actors.iter())),
            ("now", datetime(at)),
            ("hour", RestrictedExpression::new_long(local.hour().into())),
            ("minute", RestrictedExpression::new_long(local.minute().into())),
            ("weekday", RestrictedExpression::new_long(local.weekday().to_monday_one_offset().into())),
        ];
        call.extend(caller.address().map(|address| ("client_address", ip(address.to_canonical().to_string()))));
        call.extend(said.acr.as_deref().map(|acr| ("acr", string(acr))));
        call.extend(said.actors.first().map(|actor| ("actor", string(actor))));
        // A login that lies ahead, by a clock that is a little off, was just now.
        let ago = said.authenticated.map(|login| at.duration_since(login).as_secs().max(0));
        call.extend(ago.map(|ago| ("authenticated", RestrictedExpression::new_long(ago))));
        Ok(Self { principal: principal_uid, resource: resource_uid, entities, call: record(call)? })
    }

    /// The context of an action that is asked about with nothing else.
    pub(super) fn bare(&self) -> Result<Context, Denial> {
        context(vec![("call", self.call.clone())])
    }

    /// The context of an action that is decided on the request alone.
    pub(super) fn request(&self, operation: &Operation) -> Result<Context, Denial> {
        let mut pairs = vec![("call", self.call.clone())];
        if let Some(manner) = operation.manner() {
            pairs.push(("dry_run", RestrictedExpression::new_bool(manner.dry_run)));
        }
        context(pairs)
    }

    /// The context of a search for leases, and of showing one that was found.
    pub(super) fn leases(&self, operation: &Operation, callers_own: bool) -> Result<Context, Denial> {
        let bool = RestrictedExpression::new_bool;
        let own = ("callers_own", bool(callers_own));
        match operation.tool() {
            crate::operation::Tool::Leases => context(vec![("call", self.call.clone()), own]),
            _ => context(vec![("call", self.call.clone()), ("dry_run", bool(false))]),
        }
    }

    /// The context of the question how long a lease lasts.
    pub(super) fn default_term(&self, opening: Opening) -> Result<Context, Denial> {
        let mut pairs = vec![("call", self.call.clone())];
        pairs.extend(described(opening));
        context(pairs)
    }

    /// The context of an opening.
    pub(super) fn opening(
        &self,
        operation: &Operation,
        opening: Opening,
        length: SignedDuration,
        standing: Option<Standing>,
    ) -> Result<Context, Denial> {
        let mut pairs = self.pairs(operation, opening, length);
        pairs.extend(standing);
        context(pairs)
    }

    /// The context of a rule that stands and is to stand differently.
    pub(super) fn reopening(
        &self,
        operation: &Operation,
        opening: Opening,
        length: SignedDuration,
        rule: Standing,
        standing: Standing,
    ) -> Result<Context, Denial> {
        let mut pairs = self.pairs(operation, opening, length);
        pairs.extend([rule, standing]);
        context(pairs)
    }

    fn pairs(
        &self,
        operation: &Operation,
        opening: Opening,
        length: SignedDuration,
    ) -> Vec<(&'static str, RestrictedExpression)> {
        let reason = match operation.kind() {
            Kind::Add(add) => add.reason.as_str(),
            Kind::Extend(extend) => extend.reason.as_deref().unwrap_or_default(),
            _ => "",
        };
        let dry_run = operation.manner().is_some_and(|manner| manner.dry_run);
        let mut pairs = vec![("call", self.call.clone())];
        pairs.extend(described(opening));
        pairs.extend([
            ("reason", string(reason)),
            ("seconds", RestrictedExpression::new_long(length.as_secs())),
            ("dry_run", RestrictedExpression::new_bool(dry_run)),
        ]);
        pairs
    }

    /// The context of a rule on which leases are to end.
    pub(super) fn removal(&self, operation: &Operation, rule: Standing) -> Result<Context, Denial> {
        let dry_run = operation.manner().is_some_and(|manner| manner.dry_run);
        context(vec![("call", self.call.clone()), ("dry_run", RestrictedExpression::new_bool(dry_run)), rule])
    }

    /// The context of going ahead with a change at once: by which tool.
    pub(super) fn glass(&self, tool: &str) -> Result<Context, Denial> {
        context(vec![("call", self.call.clone()), ("tool", string(tool))])
    }

    /// The context of a decision on a request, and whether it is the caller's own.
    pub(super) fn decision(&self, request: &crate::approval::Request, own: bool) -> Result<Context, Denial> {
        let requester = request.requester();
        let mut pairs = vec![
            ("call", self.call.clone()),
            ("tool", string(request.tool())),
            ("callers_own", RestrictedExpression::new_bool(own)),
            ("requester_kind", string(&requester.kind)),
        ];
        pairs.extend(requester.owner.as_deref().map(|owner| ("requester_owner", string(owner))));
        context(pairs)
    }

    /// The context of what the service does to a rule for itself.
    pub(super) fn upkeep(&self, ended: bool) -> Result<Context, Denial> {
        context(vec![("call", self.call.clone()), ("ended", RestrictedExpression::new_bool(ended))])
    }
}

/// What is to be open.
fn described(opening: Opening) -> Vec<(&'static str, RestrictedExpression)> {
    let long = |number: i64| RestrictedExpression::new_long(number);
    let Opening { block, ports } = opening;
    vec![
        ("address", ip(block.to_string())),
        ("prefix", long(block.prefix().into())),
        ("ipv6", RestrictedExpression::new_bool(block.is_ipv6())),
        ("public", RestrictedExpression::new_bool(block.is_public())),
        ("special", RestrictedExpression::new_bool(block.is_special())),
        ("protocol", string(ports.protocol().as_str())),
        ("from_port", long(ports.from_port().into())),
        ("to_port", long(ports.to_port().into())),
    ]
}

/// How many rules of each family stand.
pub(super) fn standing(rules: &[Rule]) -> Result<Standing, Denial> {
    let count = |ipv6| {
        rules.iter().filter(|rule| matches!(rule.source, Source::Block(block) if block.is_ipv6() == ipv6)).count()
    };
    Ok(("standing", record(vec![("ipv4_rules", long(count(false))), ("ipv6_rules", long(count(true)))])?))
}

/// Whose a rule is.
pub(super) fn standing_rule(change: &Change) -> Result<Standing, Denial> {
    let ownership = change.rule.ownership();
    let holders = ownership.map_or(0, |ownership| ownership.leases.len());
    Ok((
        "rule",
        record(vec![
            ("managed", RestrictedExpression::new_bool(ownership.is_some())),
            ("callers_own", RestrictedExpression::new_bool(change.callers_own)),
            ("holders", long(holders)),
        ])?,
    ))
}

fn long(count: usize) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(count).unwrap_or(i64::MAX))
}

/// How many addresses are remembered as expressions.
const ADDRESSES_MOST: usize = 1024;
/// How many times are: calls of the same second share one.
const TIMES_MOST: usize = 16;

/// An address. Cedar parses the name of its own function for each one, so those that come again are kept.
fn ip(address: String) -> RestrictedExpression {
    static KNOWN: LazyLock<Cache<String, RestrictedExpression>> = LazyLock::new(|| Cache::new(ADDRESSES_MOST));
    KNOWN.get(&address).unwrap_or_else(|| {
        let expression = RestrictedExpression::new_ip(&address);
        KNOWN.insert(address, expression.clone());
        expression
    })
}

/// A time, to the second.
fn datetime(at: Timestamp) -> RestrictedExpression {
    static KNOWN: LazyLock<Cache<i64, RestrictedExpression>> = LazyLock::new(|| Cache::new(TIMES_MOST));
    KNOWN.get(&at.as_second()).unwrap_or_else(|| {
        let expression = RestrictedExpression::new_datetime(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        KNOWN.insert(at.as_second(), expression.clone());
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
