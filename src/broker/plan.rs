//! Dry runs: the difference that a change would make, the room that is left, and an id that a change can be held to.

use jiff::Timestamp;

use super::add::{Step, new_lease, planned, step};
use super::answer::{Answer, Item, Plan, Word};
use super::extend::Extension;
use super::failure::Failure;
use super::relocate::{Relocation, Way};
use super::remove::Endings;
use super::{Broker, holder, replayed};
use crate::approval::WhoseWord;
use crate::aws::{GroupFacts, Session};
use crate::digest::sha256_hex;
use crate::operation::Kind;
use crate::operation::lease::Lease;
use crate::operation::ownership::{Made, Ownership, short};
use crate::operation::rule::{Rule, Source};
use crate::policy::{Demand, LookPermit};

/// What a change would do, and the rules that are meant and would stand untouched, each with the reason.
pub(super) type Difference = (Vec<Item>, Vec<(Rule, String)>);

impl Broker {
    /// What a change would do.
    pub(super) async fn dry_run(
        &self,
        permit: &LookPermit,
        session: &Session<'_>,
        standing: Vec<Rule>,
    ) -> Result<Answer, Failure> {
        self.check_clock()?;
        let ((items, kept), demand) = self.would(permit, &standing)?;
        let mut plan = Plan {
            id: format!("plan-{}", plan_id(permit, &standing, self.now())),
            ipv4_left: 0,
            ipv6_left: 0,
            warnings: warnings(&session.group_facts().await?),
        };
        let limit = self.aws.accounts().find(permit.operation().scope().place().account());
        let limit = i32::from(limit.map_or(60, |account| account.rules_per_group()));
        let (ipv4, ipv6) = self.counted(session, &standing, &items).await?;
        (plan.ipv4_left, plan.ipv6_left) = (limit - ipv4, limit - ipv6);
        plan.warnings.extend(demand.map(|demand| awaited(&demand)));
        if plan.ipv4_left < 0 || plan.ipv6_left < 0 {
            plan.warnings.push(format!(
                "AWS will refuse this: the group may have {limit} rules of each family, and would have more."
            ));
        }
        Ok(Answer::Changed { items, kept, plan: Some(plan) })
    }

    /// What a change would do, and what policy wants before it is done.
    pub(super) fn would(
        &self,
        permit: &LookPermit,
        standing: &[Rule],
    ) -> Result<(Difference, Option<Demand>), Failure> {
        let (operation, holder, now) = (permit.operation(), holder(permit)?, self.now());
        // A key that the change would be refused for.
        replayed(operation, &holder, standing, now)?;
        let (mut items, mut demand) = (Vec::new(), None);
        match operation.kind() {
            Kind::Add(add) => {
                demand = permit.policy().add(permit, standing)?.demand().cloned();
                let lease = new_lease(operation, &holder, add)?;
                let until = Some(lease.until);
                for &opening in &add.openings {
                    items.push(match step(opening, &lease, standing, now)? {
                        Step::Open => {
                            let rule = planned(opening, Ownership::new(lease.clone(), None));
                            Item { word: Word::Opened, rule, until }
                        }
                        Step::Join(rule) => Item { word: Word::Joined, rule: with(rule, lease.clone()), until },
                        Step::Done(item) => item,
                    });
                }
            }
            Kind::Remove(remove) => {
                let endings = Endings::decide(permit, &holder, remove, standing, now)?;
                for rule in endings.permit.rules() {
                    let word = if endings.is_last(rule, now) { Word::Removed } else { Word::Left };
                    items.push(Item { word, rule: rule.clone(), until: None });
                }
                return Ok(((items, endings.kept()), endings.permit.demand().cloned()));
            }
            Kind::Extend(extend) => {
                let extension = Extension::decide(permit, &holder, extend, standing, &[], now)?;
                demand = extension.permit.demand().cloned();
                for (rule, lease) in extension.leases {
                    let until = Some(lease.until);
                    items.push(Item { word: Word::Extended, rule: with(rule, lease), until });
                }
            }
            Kind::Move(relocate) => {
                let relocation = Relocation::decide(permit, &holder, relocate, standing, now)?;
                demand = relocation.permit.demand().cloned();
                for step in relocation.moves {
                    let until = Some(step.lease.until);
                    items.push(match step.way(standing, now)? {
                        Way::Stay => Item { word: Word::AlreadyYours, rule: step.rule, until },
                        Way::Foreign(rule) => Item { word: Word::AlreadyOpen, rule, until: None },
                        Way::Join(rule) => Item { word: Word::Moved, rule: with(rule, step.lease), until },
                        Way::InPlace => {
                            let id = step.rule.id.clone();
                            let rule = Rule { id, ..planned(step.to, Ownership::new(step.lease, None)) };
                            Item { word: Word::Moved, rule, until }
                        }
                        Way::Split => {
                            let rule = planned(step.to, Ownership::new(step.lease, None));
                            Item { word: Word::Moved, rule, until }
                        }
                    });
                }
            }
            _ => {}
        }
        Ok(((items, Vec::new()), demand))
    }

    /// How many rules of each family the group would count after the change.
    async fn counted(&self, session: &Session<'_>, standing: &[Rule], items: &[Item]) -> Result<(i32, i32), Failure> {
        let lists: Vec<String> = standing
            .iter()
            .filter_map(|rule| match &rule.source {
                Source::PrefixList(id) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let sizes = session.list_sizes(&lists).await?;
        let (mut ipv4, mut ipv6) = (0, 0);
        let mut count = |source: &Source, by: i32| match source {
            Source::Block(block) if block.is_ipv6() => ipv6 += by,
            Source::Block(_) => ipv4 += by,
            Source::PrefixList(id) => match sizes.get(id) {
                Some((size, true)) => ipv6 += by * size,
                Some((size, false)) => ipv4 += by * size,
                None => ipv4 += by,
            },
            // A referenced group counts once in each family.
            Source::Group(_) | Source::Unknown(_) => {
                ipv4 += by;
                ipv6 += by;
            }
        };
        for rule in standing {
            count(&rule.source, 1);
        }
        for item in items {
            match item.word {
                Word::Opened => count(&item.rule.source, 1),
                Word::Moved if item.rule.id.is_none() => count(&item.rule.source, 1),
                Word::Removed => count(&item.rule.source, -1),
                _ => {}
            }
        }
        Ok((ipv4, ipv6))
    }
}

/// Fails unless what stands is what the plan saw that the change is held to.
pub(super) fn check_plan(permit: &LookPermit, standing: &[Rule], now: Timestamp) -> Result<(), Failure> {
    let plan = permit.operation().manner().and_then(|manner| manner.plan.as_deref());
    match plan {
        Some(plan) if !plan.eq_ignore_ascii_case(&plan_id(permit, standing, now)) => Err(Failure::PlanStale),
        _ => Ok(()),
    }
}

/// A digest of who asks, for what, and of everything that stands. It gives no power: whoever could make it up could ask
/// for the same without it.
fn plan_id(permit: &LookPermit, standing: &[Rule], now: Timestamp) -> String {
    // A lease that has run out since changes what stands as well.
    let live = |rule: &Rule| rule.ownership().map_or(0, |own| own.live(now).count());
    let mut rules: Vec<String> = standing.iter().map(|rule| format!("{} {rule:?}", live(rule))).collect();
    rules.sort();
    let who = permit.caller().principal().id();
    short(&sha256_hex(format!("{who}\n{}\n{}", permit.operation().fingerprint(), rules.join("\n"))))
}

/// What a change would wait for.
fn awaited(demand: &Demand) -> String {
    let whose = match demand.from {
        WhoseWord::Another => "another person's word",
        WhoseWord::Requester => "your own word in a browser",
    };
    let why: Vec<String> =
        demand.reasons.iter().map(|reason| format!("{} (policy `{}`)", reason.message, reason.policy)).collect();
    format!("It would wait for {whose}: {}", why.join(" "))
}

/// A rule as it would stand with this lease on it.
fn with(mut rule: Rule, lease: Lease) -> Rule {
    if let Made::Here(own) = &mut rule.made {
        own.put(lease);
    }
    rule
}

/// Who else manages the group, as its name and tags tell: they may take away what they do not know.
fn warnings(facts: &GroupFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    let says = |word: &str| {
        let found = |text: &String| text.to_ascii_lowercase().contains(word);
        facts.tags.iter().any(|(key, value)| found(key) || found(value))
    };
    if says("terraform") || says("opentofu") {
        warnings.push("The group's tags speak of Terraform: if its rules stand inside the group's own resource, the next apply removes this one. Rules as resources of their own, or `ignore_changes`, avoid that.".to_owned());
    }
    if facts.tags.contains_key("aws:cloudformation:stack-name") {
        warnings.push(
            "CloudFormation made this group: an update of its stack may remove what it does not know.".to_owned(),
        );
    }
    if facts.name.starts_with("FMManagedSecurityGroup") || facts.tags.contains_key("FMManaged") {
        warnings.push(
            "Firewall Manager manages this group: its policies may remove or change rules on their own.".to_owned(),
        );
    }
    warnings
}
