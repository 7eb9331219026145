//! What is known of each rule, one record after the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Door, Holder};
use crate::audit::show::{list, ports, text};

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    account: String,
    region: String,
    group: String,
}

/// What a record lets one see: how things were at some time after one record and before another.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// The place of the record after which it was read.
    pub(super) after: usize,
    /// The place of the record that says it.
    pub(super) order: usize,
    /// The time of that record.
    pub(super) at: Timestamp,
    /// The call that the record is about.
    pub(super) call: &'a str,
    /// Who asked for it.
    pub(super) who: &'a str,
    /// Whether it made the rule what it is, or saw it become so.
    pub(super) sure: bool,
}

/// A rule for as long as it let in the same.
struct State {
    door: Door,
    /// The rule as the journal has it.
    rule: Value,
    /// The place of the record that first knew it.
    stood: usize,
    /// The place of the last record that saw it.
    seen: usize,
    /// The place of the record that missed it.
    gone: usize,
}

/// Every rule of a group, with what it was, oldest first.
#[derive(Default)]
struct Group {
    name: String,
    rules: BTreeMap<String, Vec<State>>,
}

/// Every group.
#[derive(Default)]
pub(super) struct History(BTreeMap<Place, Group>);

impl Place {
    pub(super) fn of(target: &Value) -> Self {
        let field = |name: &str| text(target, name).to_owned();
        Self { account: field("account"), region: field("region"), group: field("group") }
    }
}

impl History {
    /// A call names the group; the service's own do not always.
    pub(super) fn name(&mut self, place: &Place, name: &str) {
        if !name.is_empty() {
            name.clone_into(&mut self.group(place).name);
        }
    }

    /// A rule stood. Which of the rule's states that is; none where it says nothing new.
    pub(super) fn stands(&mut self, place: &Place, look: &Look<'_>, rule: &Value) -> Option<usize> {
        let id = text(rule, "id");
        if id.is_empty() {
            return None;
        }
        let states = self.group(place).rules.entry(id.to_owned()).or_default();
        let known = states.iter().rposition(|state| state.is(rule));
        let Some(last) = states.last() else {
            states.push(State::new(place, look, rule));
            return Some(0);
        };
        let is_same = last.is(rule);
        let counts = match last.door.to {
            // An older look does not bring back what is gone; only what nobody took away may have been missed wrongly.
            Some(_) => look.after >= last.gone || (look.sure && last.door.closed_by.is_empty()),
            None => is_same || look.after >= last.stood || !is_old_news(states, look, rule),
        };
        if !counts {
            return known;
        }
        let last = states.last_mut()?;
        if is_same && last.door.closed_by.is_empty() {
            last.door.to = None;
            last.see(look, rule);
        } else {
            if last.door.to.is_none() {
                last.close(look);
            }
            states.push(State::new(place, look, rule));
        }
        states.len().checked_sub(1)
    }

    /// A call says that the state of a rule is its doing, and that it began no later than then.
    pub(super) fn claim(&mut self, place: &Place, look: &Look<'_>, rule: &Value, index: usize, from: Timestamp) {
        let Some(states) = self.group(place).rules.get_mut(text(rule, "id")) else { return };
        if let Some(state) = states.get_mut(index).filter(|state| state.door.opened_by.is_empty()) {
            state.door.from = state.door.from.min(from);
            (state.door.opened_by, state.door.opener) = (look.call.to_owned(), look.who.to_owned());
        }
        if let Some(state) = index.checked_sub(1).and_then(|before| states.get_mut(before)) {
            state.close_by(look);
        }
    }

    /// A call took a rule away.
    pub(super) fn removed(&mut self, place: &Place, look: &Look<'_>, rule: &Value) {
        let id = text(rule, "id");
        if id.is_empty() {
            return;
        }
        let states = self.group(place).rules.entry(id.to_owned()).or_default();
        if states.is_empty() {
            states.push(State::new(place, look, rule));
        }
        if let Some(last) = states.last_mut() {
            if last.door.to.is_none() {
                last.close(look);
            }
            last.close_by(look);
        }
    }

    /// Rules were not there. What was made meanwhile need not have been.
    pub(super) fn missed(&mut self, place: &Place, look: &Look<'_>, is_missing: impl Fn(&str) -> bool) {
        let standing = self.group(place).rules.iter_mut().filter_map(|(id, states)| Some((id, states.last_mut()?)));
        for (_, state) in standing.filter(|(id, state)| state.door.to.is_none() && is_missing(id)) {
            if state.stood < look.after {
                state.close(look);
            }
        }
    }

    /// Whether a call took a rule away, and nobody has seen it since.
    pub(super) fn was_removed(&self, place: &Place, rule: &Value) -> bool {
        let states = self.0.get(place).and_then(|group| group.rules.get(text(rule, "id")));
        states.and_then(|states| states.last()).is_some_and(|last| !last.door.closed_by.is_empty())
    }

    /// Every door, each with its rule.
    pub(super) fn into_doors(self) -> impl Iterator<Item = (Door, Value)> {
        self.0.into_values().flat_map(|Group { name, rules }| {
            let states = rules.into_values().flatten();
            states.map(move |state| (Door { name: name.clone(), ..state.door }, state.rule))
        })
    }

    fn group(&mut self, place: &Place) -> &mut Group {
        self.0.entry(place.clone()).or_default()
    }
}

/// Whether a rule has been the same before, so that an older look at it is no news. Who made it so knows better, unless
/// somebody saw it meanwhile.
fn is_old_news(states: &[State], look: &Look<'_>, rule: &Value) -> bool {
    states.iter().any(|state| state.is(rule) && (!look.sure || state.stood > look.after))
}

impl State {
    fn new(place: &Place, look: &Look<'_>, rule: &Value) -> Self {
        let door = Door {
            account: place.account.clone(),
            region: place.region.clone(),
            group: place.group.clone(),
            name: String::new(),
            rule: text(rule, "id").to_owned(),
            source: text(rule, "source").to_owned(),
            ports: ports(rule),
            from: look.at,
            opened_by: String::new(),
            opener: String::new(),
            to: None,
            closed_by: String::new(),
            closer: String::new(),
            holders: Vec::new(),
            seen: look.at,
        };
        let mut state = Self { door, rule: Value::Null, stood: look.order, seen: look.order, gone: look.order };
        state.see(look, rule);
        state
    }

    /// Whether it let in what the rule lets in.
    fn is(&self, rule: &Value) -> bool {
        self.door.source == text(rule, "source") && self.door.ports == ports(rule)
    }

    fn see(&mut self, look: &Look<'_>, rule: &Value) {
        for lease in list(rule, "leases") {
            let holder = Holder {
                id: text(lease, "holder_id").to_owned(),
                until: text(lease, "until").to_owned(),
                call: text(lease, "call").to_owned(),
            };
            // An older look does not know the last end of a lease, unless the lease is its own.
            let is_news = look.after >= self.seen || holder.call == look.call;
            match self.door.holders.iter_mut().find(|known| known.id == holder.id) {
                Some(known) if is_news => *known = holder,
                Some(_) => {}
                None => self.door.holders.push(holder),
            }
        }
        self.door.seen = self.door.seen.max(look.at);
        self.seen = self.seen.max(look.order);
        self.rule = rule.clone();
    }

    fn close(&mut self, look: &Look<'_>) {
        (self.door.to, self.gone) = (Some(look.at), look.order);
    }

    /// Names who closed it, where nobody is named.
    fn close_by(&mut self, look: &Look<'_>) {
        if self.door.to.is_some() && self.door.closed_by.is_empty() {
            (self.door.closed_by, self.door.closer) = (look.call.to_owned(), look.who.to_owned());
        }
    }
}
