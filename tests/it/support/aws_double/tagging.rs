//! `CreateTags` and `DeleteTags`, and what a tag may look like.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::params::{INVALID, MISSING, Params};
use super::resources::{Group, Rule, Tags, Where};
use super::session::Caller;
use super::world::World;
use super::{Asked, Refusal, What, xml};

const TAGS_MOST: usize = 50;
const KEY_MOST: usize = 127;
const VALUE_MOST: usize = 256;

/// Something that has tags.
enum Tagged {
    Rule(Arc<Rule>),
    Group(Arc<Group>),
}

/// The tags that a request names: `name.1.Key`, `name.1.Value` and so on.
pub(super) fn requested(p: Params<'_>, name: &str) -> Vec<(String, Option<String>)> {
    let one = |prefix: String| {
        let key = p.get(&format!("{prefix}Key")).unwrap_or_default().to_owned();
        (key, p.get(&format!("{prefix}Value")).map(str::to_owned))
    };
    p.structures(name).into_iter().map(one).collect()
}

/// The same as tags to set, if AWS takes them.
pub(super) fn to_set(p: Params<'_>, name: &str) -> Result<Tags, Refusal> {
    let mut tags = Tags::new();
    for (key, value) in requested(p, name) {
        let value = value.unwrap_or_default();
        let sound = is_sound_key(&key) && value.chars().count() <= VALUE_MOST && value.chars().all(is_sound);
        if !sound || tags.insert(key, value).is_some() {
            return Err(INVALID);
        }
    }
    if tags.len() > TAGS_MOST { Err((400, "TagLimitExceeded")) } else { Ok(tags) }
}

fn is_sound_key(key: &str) -> bool {
    let reserved = key.to_ascii_lowercase().starts_with("aws:");
    (1..=KEY_MOST).contains(&key.chars().count()) && key.chars().all(is_sound) && !reserved
}

fn is_sound(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c)
}

impl World {
    pub(super) fn create_tags(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let tags = to_set(p, "Tag")?;
        if tags.is_empty() {
            return Err(MISSING);
        }
        self.retag(p, caller, What::Tagged, |present| {
            present.extend(tags.clone());
        })?;
        Ok(xml::ec2("CreateTags", "<return>true</return>"))
    }

    pub(super) fn delete_tags(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let gone = requested(p, "Tag");
        if gone.iter().any(|(key, _)| !is_sound_key(key)) {
            return Err(INVALID);
        }
        self.retag(p, caller, What::Untagged, |present| {
            present.retain(|key, value| {
                let meant = |(of, exactly): &(String, Option<String>)| {
                    of == key && exactly.as_ref().is_none_or(|exactly| exactly == value)
                };
                // Who names no tag means them all.
                !(gone.is_empty() || gone.iter().any(meant))
            });
        })?;
        Ok(xml::ec2("DeleteTags", "<return>true</return>"))
    }

    /// Changes the tags of every resource that is named, or of none.
    fn retag(&mut self, p: Params<'_>, caller: &Caller, what: What, change: impl Fn(&mut Tags)) -> Result<(), Refusal> {
        let ids: BTreeSet<&str> = p.list("ResourceId").into_iter().collect();
        if ids.is_empty() {
            return Err(MISSING);
        }
        let mut changed = Vec::new();
        for id in ids {
            let resource = self.tagged(&caller.at, id)?;
            let before = match &resource {
                Tagged::Rule(rule) => &rule.tags,
                Tagged::Group(group) => &group.tags,
            };
            let mut tags = before.clone();
            change(&mut tags);
            if tags.len() > TAGS_MOST {
                return Err((400, "TagLimitExceeded"));
            }
            if tags != *before {
                changed.push((resource, tags));
            }
        }
        for (resource, tags) in changed {
            match resource {
                Tagged::Rule(rule) => {
                    self.put(&caller.at, Rule { tags, ..Rule::clone(&rule) }, what, &caller.name);
                }
                Tagged::Group(group) => {
                    self.put_group(&caller.at, Group { tags, ..Group::clone(&group) }, Some(what), &caller.name);
                }
            }
        }
        Ok(())
    }

    fn tagged(&mut self, at: &Where, id: &str) -> Result<Tagged, Refusal> {
        let place = self.place(at);
        if id.starts_with("sgr-") {
            let rule = place.rule(id).ok_or((400, "InvalidSecurityGroupRuleId.NotFound"))?;
            return Ok(Tagged::Rule(Arc::clone(rule)));
        }
        if id.starts_with("sg-") {
            let group = place.group(id).ok_or((400, "InvalidGroup.NotFound"))?;
            return Ok(Tagged::Group(Arc::clone(group)));
        }
        Err((400, "InvalidID"))
    }
}
