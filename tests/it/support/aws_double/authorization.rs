//! What a request must be allowed to do: its actions, the resource of each, and what conditions see of it.

use std::collections::BTreeSet;

use super::Asked;
use super::params::Params;
use super::resources::{Tags, Where};
use super::session::Caller;
use super::session_policy::Need;
use super::tagging;
use super::world::World;

impl World {
    /// Whether the caller's session lets it do what it asks for. Who has no session policy may do anything.
    pub(super) fn permits(&self, asked: &Asked, caller: &Caller) -> bool {
        let Some(policy) = caller.session.as_ref().and_then(|session| session.policy()) else { return true };
        self.needs(asked, &caller.at).iter().all(|need| policy.allows(need))
    }

    fn needs(&self, asked: &Asked, at: &Where) -> Vec<Need> {
        let p = Params(&asked.params);
        let base = Need {
            action: format!("ec2:{}", asked.action),
            resource: "*".to_owned(),
            region: at.region.clone(),
            ..Need::default()
        };
        let group = || p.get("GroupId").map(str::to_owned);
        let on = |base: &Need, id: &str| Need {
            resource: at.arn(id),
            resource_tags: self.resource_tags(at, id),
            ..base.clone()
        };
        match asked.action.as_str() {
            "AuthorizeSecurityGroupIngress" => {
                let new = tagging::requested(p, "TagSpecification.1.Tag");
                let base = Need {
                    tag_keys: new.iter().map(|(key, _)| key.clone()).collect(),
                    request_tags: new.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect(),
                    ..base
                };
                let mut needs = vec![on(&base, &group().unwrap_or_default())];
                if p.any("TagSpecification.") {
                    needs.push(Need {
                        action: "ec2:CreateTags".to_owned(),
                        create_action: Some("AuthorizeSecurityGroupIngress"),
                        ..on(&base, "*")
                    });
                }
                needs
            }
            "RevokeSecurityGroupIngress" => {
                let rules = p.list("SecurityGroupRuleId");
                let groups =
                    || rules.iter().filter_map(|id| Some(self.places.get(at)?.rule(id)?.group.clone())).collect();
                let groups: BTreeSet<String> = group().map_or_else(groups, |group| BTreeSet::from([group]));
                groups.iter().map(|group| on(&base, group)).collect()
            }
            "ModifySecurityGroupRules" => {
                let rules = p.structures("SecurityGroupRule");
                let rules = rules.iter().filter_map(|prefix| p.get(&format!("{prefix}SecurityGroupRuleId")));
                let group = group().unwrap_or_default();
                [group.as_str()].into_iter().chain(rules).map(|id| on(&base, id)).collect()
            }
            "CreateTags" | "DeleteTags" => {
                let tags = tagging::requested(p, "Tag");
                let base = Need {
                    tag_keys: tags.iter().map(|(key, _)| key.clone()).collect(),
                    request_tags: tags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
                    ..base
                };
                p.list("ResourceId").into_iter().map(|id| on(&base, id)).collect()
            }
            _ => vec![base],
        }
    }

    fn resource_tags(&self, at: &Where, id: &str) -> Tags {
        let Some(place) = self.places.get(at) else { return Tags::new() };
        let rule = place.rule(id).map(|rule| &rule.tags);
        rule.or_else(|| place.group(id).map(|group| &group.tags)).cloned().unwrap_or_default()
    }
}
