//! Everything that the double remembers, and the only ways to change a rule or a group in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use whitelistmcp::clock::Clock;

use super::history::{Change, Standing, What};
use super::resources::{Group, NetworkInterface, PrefixList, Rule, Where};
use super::session::Session;
use super::throttle::Bucket;
use super::{Asked, Fault};

/// Looks at a request before it is answered.
type Watcher = Box<dyn Fn(&Asked) + Send>;

pub(super) struct World {
    pub(super) places: BTreeMap<Where, Place>,
    pub(super) sessions: BTreeMap<String, Arc<Session>>,
    pub(super) asked: Vec<Asked>,
    pub(super) history: Vec<Change>,
    pub(super) faults: BTreeMap<String, VecDeque<Fault>>,
    pub(super) buckets: BTreeMap<String, Bucket>,
    pub(super) seen: Option<Watcher>,
    pub(super) black_hole: Option<String>,
    pub(super) page: usize,
    pub(super) rule_limit: usize,
    pub(super) clock_offset: i64,
    /// The web identity token that is taken, and for how many seconds it is worth a session.
    pub(super) web_identity: Option<(String, i64)>,
    pub(super) read_delay: Duration,
    made: u64,
}

/// An account's Region.
#[derive(Default)]
pub(super) struct Place {
    groups: BTreeMap<String, Arc<Group>>,
    rules: BTreeMap<String, Arc<Rule>>,
    pub(super) interfaces: Vec<NetworkInterface>,
    pub(super) prefix_lists: BTreeMap<String, PrefixList>,
    /// What was there before each change.
    undo: Vec<(Instant, Before)>,
}

enum Before {
    Rule(String, Option<Arc<Rule>>),
    Group(String, Option<Arc<Group>>),
}

/// The groups and rules of a place as they stand, or as they once stood.
pub(super) struct View<'a> {
    pub(super) groups: Cow<'a, BTreeMap<String, Arc<Group>>>,
    pub(super) rules: Cow<'a, BTreeMap<String, Arc<Rule>>>,
}

// === impl World ===

impl Default for World {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            sessions: BTreeMap::new(),
            asked: Vec::new(),
            history: Vec::new(),
            faults: BTreeMap::new(),
            buckets: BTreeMap::new(),
            seen: None,
            black_hole: None,
            page: 1000,
            rule_limit: 60,
            clock_offset: 0,
            web_identity: None,
            read_delay: Duration::ZERO,
            made: 0,
        }
    }
}

impl World {
    /// The time by AWS's clock.
    pub(super) fn now(&self) -> Timestamp {
        Clock::system().now() + SignedDuration::from_secs(self.clock_offset)
    }

    /// How far back one look sees: AWS's replicas differ, so each look sees something else, up to the whole delay.
    pub(super) fn read_delay(&self) -> Duration {
        let part = uuid::Uuid::new_v4().as_u128() % 1000;
        self.read_delay.mul_f64(f64::from(u32::try_from(part).expect("below a thousand")) / 999.0)
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    pub(super) fn rule_id(&mut self) -> String {
        format!("sgr-{:017x}", self.number())
    }

    pub(super) fn place(&mut self, at: &Where) -> &mut Place {
        if !self.places.contains_key(at) {
            self.places.insert(at.clone(), Place::default());
        }
        self.places.get_mut(at).expect("just made")
    }

    /// A rule, and where it is.
    pub(super) fn find(&self, rule: &str) -> Option<(Where, Arc<Rule>)> {
        self.places.iter().find_map(|(at, place)| Some((at.clone(), Arc::clone(place.rules.get(rule)?))))
    }

    /// Every inbound rule.
    pub(super) fn standing(&self) -> impl Iterator<Item = Standing> {
        self.places.iter().flat_map(|(at, place)| place.inbound().map(move |rule| Standing::rule(at, rule)))
    }

    /// Makes a rule, or changes the one with the same id.
    pub(super) fn put(&mut self, at: &Where, rule: Rule, what: What, by: &str) {
        if !rule.egress {
            self.record(what, Standing::rule(at, &rule), by);
        }
        let place = self.place(at);
        let id = rule.id.clone();
        let before = place.rules.insert(id.clone(), Arc::new(rule));
        place.undo.push((Instant::now(), Before::Rule(id, before)));
    }

    pub(super) fn take(&mut self, at: &Where, id: &str, by: &str) {
        let place = self.place(at);
        let Some(rule) = place.rules.remove(id) else { return };
        place.undo.push((Instant::now(), Before::Rule(id.to_owned(), Some(Arc::clone(&rule)))));
        if !rule.egress {
            self.record(What::Revoked, Standing::rule(at, &rule), by);
        }
    }

    /// Makes a group, or changes the one with the same id. Only a change of its tags is remembered in the history.
    pub(super) fn put_group(&mut self, at: &Where, group: Group, retagged: Option<What>, by: &str) {
        if let Some(what) = retagged {
            self.record(what, Standing::group(at, &group), by);
        }
        let place = self.place(at);
        let id = group.id.clone();
        let before = place.groups.insert(id.clone(), Arc::new(group));
        place.undo.push((Instant::now(), Before::Group(id, before)));
    }

    pub(super) fn take_group(&mut self, at: &Where, id: &str) {
        let place = self.place(at);
        let before = place.groups.remove(id);
        place.undo.push((Instant::now(), Before::Group(id.to_owned(), before)));
    }

    fn record(&mut self, what: What, rule: Standing, by: &str) {
        let change = Change { at: Instant::now(), time: self.now(), what, rule, by: by.to_owned() };
        self.history.push(change);
    }
}

// === impl Place ===

impl Place {
    pub(super) fn group(&self, id: &str) -> Option<&Arc<Group>> {
        self.groups.get(id)
    }

    pub(super) fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.get(id)
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }

    pub(super) fn inbound(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules().filter(|rule| !rule.egress)
    }

    /// What stood that long ago.
    pub(super) fn view(&self, ago: Duration) -> View<'_> {
        let mut view = View { groups: Cow::Borrowed(&self.groups), rules: Cow::Borrowed(&self.rules) };
        let now = Instant::now();
        for (_, before) in self.undo.iter().rev().take_while(|(at, _)| now.duration_since(*at) < ago) {
            match before {
                Before::Rule(id, rule) => restore(view.rules.to_mut(), id, rule.as_ref()),
                Before::Group(id, group) => restore(view.groups.to_mut(), id, group.as_ref()),
            }
        }
        view
    }
}

fn restore<T>(present: &mut BTreeMap<String, Arc<T>>, id: &str, before: Option<&Arc<T>>) {
    match before {
        Some(before) => present.insert(id.to_owned(), Arc::clone(before)),
        None => present.remove(id),
    };
}
