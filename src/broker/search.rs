//! `whitelist_leases` and `whitelist_targets`: what is held open, and which groups there are.

use super::failure::Failure;
use super::{Answer, Broker, holder};
use crate::aws::Session;
use crate::identity::Caller;
use crate::operation::ownership::Made;
use crate::operation::target::{Place, Target, Targets};
use crate::operation::{Leases, Whose};
use crate::policy::LookPermit;

/// A group that a caller may ask for.
#[derive(Clone, Debug)]
pub struct GroupShown {
    /// The group.
    pub target: Target,
    /// Other names that mean it.
    pub aliases: Vec<String>,
    /// What is attached to it.
    pub attached: Vec<String>,
}

impl Broker {
    /// The rules of ours in the Region on which there are such leases, each with no more leases than the caller may see.
    pub(super) async fn find_leases(
        &self,
        permit: &LookPermit,
        session: &Session<'_>,
        leases: &Leases,
    ) -> Result<Answer, Failure> {
        let (holder, now) = (holder(permit)?, self.now());
        let (place, targets) = (permit.operation().scope().place(), self.targets());
        let mut found = Vec::new();
        for (group, mut rule) in session.ours().await? {
            let target = targets.found(place, &group);
            if leases.group.as_ref().is_some_and(|asked| !asked.is(&target)) {
                continue;
            }
            let Made::Here(own) = &mut rule.made else { continue };
            let mut shown = Vec::with_capacity(own.leases.len());
            for lease in own.leases.drain(..).filter(|lease| lease.is_live(now)) {
                if permit.policy().shows_lease(permit, &target, &lease)? {
                    shown.push(lease);
                }
            }
            own.leases = shown;
            let meant = own.leases.iter().any(|lease| match &leases.whose {
                Whose::Own => lease.holder.is(&holder),
                Whose::Everyone => true,
                Whose::Named(name) => lease.holder.is_called(name),
            });
            if meant {
                found.push((target, rule));
            }
        }
        found.sort_by_key(|(_, rule)| rule.ownership().map(crate::operation::ownership::Ownership::ends));
        Ok(Answer::Leases(found))
    }

    /// The groups that the caller may ask for, in these accounts and Regions.
    pub fn groups(&self, caller: &Caller, places: &[Place], name: Option<&str>, targets: &Targets) -> Vec<GroupShown> {
        let (opted, now): (Vec<_>, _) = (targets.opted_in().collect(), self.clock.now());
        let shown = |target: Target| {
            let known = opted.iter().find(|(place, known)| *place == target.place() && known.group == *target.group());
            let (aliases, attached) = known.map_or((Vec::new(), Vec::new()), |(_, known)| {
                let own = |alias: &&String| Some(alias.as_str()) != target.name();
                let names = std::iter::once(&known.name).chain(&known.aliases).filter(own).cloned().collect();
                (names, known.attached.iter().cloned().collect())
            });
            GroupShown { target, aliases, attached }
        };
        let configured = targets.named().iter().cloned();
        let others = opted.iter().map(|(place, known)| targets.found(place, &known.group));
        let mut groups: Vec<GroupShown> = Vec::new();
        for target in configured.chain(others) {
            let listed = groups.iter().any(|other| other.target.is(&target) && other.target.name() == target.name());
            if listed || !places.contains(target.place()) || !self.policies.shows(caller, &target, now) {
                continue;
            }
            let group = shown(target);
            let holds = |part: &str| {
                let part = part.to_lowercase();
                let label = group.target.label();
                std::iter::once(&label)
                    .chain(&group.aliases)
                    .chain(&group.attached)
                    .any(|text| text.to_lowercase().contains(&part))
            };
            if name.is_none_or(holds) {
                groups.push(group);
            }
        }
        groups
    }
}
