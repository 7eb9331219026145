//! The core's limits: by principal, whatever door a call came through.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Queue;
use super::changes::{Changes, DAY, HOUR};
use super::flight::{Flight, Flights, Operation};
use super::leases::{Held, Room, Tally};
use super::rate::{Rate, Rates};
use super::{Class, Config, Exceeded, Limit, Subject};
use crate::shared::{Condition, Script, Shared};

/// For how long a call counts as worked on in Redis, should its replica die: longer than a call may take.
const FLIGHT_MOST: Duration = Duration::from_secs(90);

/// For how long Redis tells other replicas of a lease. By then each has seen it in a survey.
const LATELY: Duration = Duration::from_secs(300);

/// For how long the room of an opening is taken in Redis, should its replica die.
const ROOM_MOST: Duration = Duration::from_secs(120);

/// Everything that a core counts by principal.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    rates: Rates<(Subject, Class)>,
    flights: Flights,
    changes: Changes,
    tally: Tally,
    operations: Queue,
    replicas: Option<Replicas>,
}

/// The same counts in Redis.
#[derive(Clone, Debug)]
pub(super) struct Replicas {
    shared: Shared,
    admit: Script,
    leave: Script,
    changes: Script,
    room: Script,
    settle: Script,
}

/// A call that is within every limit. While it lives it counts as worked on; a change that outlives its call keeps it.
pub struct Admitted {
    subject: Subject,
    /// Whether a change of this call was counted already, where everything that it changes counts as one.
    charged: tokio::sync::Mutex<bool>,
    replicas: Option<(Replicas, String)>,
    _flight: Flight,
    _operation: Operation,
}

/// A change that is counted. It stays so unless it is given back.
#[derive(Debug)]
#[must_use = "a change that did not reach AWS must be given back"]
pub struct Charge {
    subject: Subject,
    id: u128,
}

impl Limits {
    /// Limits as configured, on every replica where there is something that they share.
    pub fn new(config: Config, shared: Option<Shared>) -> Self {
        Self {
            operations: Queue::new(usize::try_from(config.operations).unwrap_or(usize::MAX >> 3), config.queue),
            replicas: shared.map(Replicas::new),
            config,
            rates: Rates::new(),
            flights: Flights::default(),
            changes: Changes::default(),
            tally: Tally::default(),
        }
    }

    /// How what replicas share was found last, where there is something.
    pub fn condition(&self) -> Option<Condition> {
        self.replicas.as_ref().map(|replicas| replicas.shared.condition())
    }

    /// A place among the calls that this core works on, whoever's they are.
    /// With all of them taken a call waits a little for one.
    pub async fn operation(&self) -> Result<Operation, Exceeded> {
        let place = self.operations.enter().await.map(Operation::new);
        place.ok_or_else(|| Exceeded::new(Limit::Operations, self.config.operations, Duration::from_secs(1)))
    }

    /// Lets a call in, or says which limit it is over. What is refused has used nothing up.
    pub async fn admit(&self, operation: Operation, subject: Subject, class: Class) -> Result<Admitted, Exceeded> {
        let (limit, most) = match class {
            Class::Read => (Limit::Reads, self.config.reads_per_minute),
            Class::Change => (Limit::Changes, self.config.changes_per_minute),
            Class::Other => (Limit::Others, self.config.others_per_minute),
        };
        let full = || Exceeded::new(Limit::InFlight, self.config.in_flight, Duration::from_secs(1));
        let flight = self.flights.take(subject, self.config.in_flight).ok_or_else(full)?;
        let rate = Rate::per_minute(most);
        self.rates.take((subject, class), rate, Instant::now()).map_err(|wait| Exceeded::new(limit, most, wait))?;
        let mut replicas = None;
        if let Some(all) = &self.replicas {
            let call = uuid::Uuid::new_v4().simple().to_string();
            match all.admit(subject, class.key(), rate, self.config.in_flight, &call).await {
                Verdict::Free => replicas = Some((all.clone(), call)),
                Verdict::Rate(wait) => return Err(Exceeded::new(limit, most, wait)),
                Verdict::InFlight => return Err(full()),
                Verdict::NotTold => {}
            }
        }
        Ok(Admitted {
            subject,
            charged: tokio::sync::Mutex::new(false),
            replicas,
            _flight: flight,
            _operation: operation,
        })
    }

    /// Counts a change of a call against the hour and the day. With `once`, everything that the call changes counts as
    /// one, and all after the first are free.
    pub async fn charge(&self, admitted: &Admitted, once: bool) -> Result<Option<Charge>, Exceeded> {
        // Held until it is known, so that what a call changes at the same time in other groups is not free before.
        let mut charged = if once { Some(admitted.charged.lock().await) } else { None };
        if charged.as_deref() == Some(&true) {
            return Ok(None);
        }
        let charge = Charge { subject: admitted.subject, id: uuid::Uuid::new_v4().as_u128() };
        self.changes.take(charge.subject, charge.id, &self.config, Instant::now())?;
        if let Some(replicas) = &self.replicas
            && let Some(exceeded) = replicas.charge(&charge, &self.config).await
        {
            self.changes.give_back(charge.subject, charge.id);
            return Err(exceeded);
        }
        if let Some(charged) = charged.as_deref_mut() {
            *charged = true;
        }
        Ok(Some(charge))
    }

    /// Gives a change back that did not reach AWS.
    pub async fn give_back(&self, charge: Charge) {
        self.changes.give_back(charge.subject, charge.id);
        if let Some(replicas) = &self.replicas {
            replicas.leave(charge.subject, "changes", &charge.id.to_string()).await;
        }
    }

    /// Room for so many more leases of a subject, given which they held in the group at hand at an instant.
    pub async fn room(
        &self,
        subject: Subject,
        group: (&str, &str),
        (standing, shown): (Vec<Held>, Instant),
        count: usize,
        now: Timestamp,
    ) -> Result<Room, Exceeded> {
        self.tally.stands(subject, group, standing, shown);
        let (room, held) = self.tally.take(subject, uuid::Uuid::new_v4().as_u128(), count, now);
        let mut holds = held.rules.len() + held.taken;
        if let Some(replicas) = &self.replicas {
            holds = replicas.room(&room, held.rules).await.unwrap_or(holds);
        }
        if count == 0 || holds <= usize::try_from(self.config.open_leases).unwrap_or(usize::MAX) {
            return Ok(room);
        }
        self.settle(&room, &[], &[]).await;
        let wait = held.first_end.and_then(|end| Duration::try_from(end.duration_since(now)).ok());
        Err(Exceeded::new(Limit::OpenLeases, self.config.open_leases, wait.unwrap_or(Duration::from_secs(60))))
    }

    /// Tells every replica what became of an opening, and that its room is free.
    pub async fn settle(&self, room: &Room, opened: &[Held], left: &[Held]) {
        self.note(opened.iter().chain(left));
        if let Some(replicas) = &self.replicas {
            replicas.settle(room.subject, room.id, room.count, opened, left).await;
        }
    }

    /// Tells every replica of leases that ended.
    pub async fn left(&self, subject: Subject, left: &[Held]) {
        self.note(left);
        if let Some(replicas) = self.replicas.as_ref().filter(|_| !left.is_empty()) {
            replicas.settle(subject, 0, 0, &[], left).await;
        }
    }

    /// Notes leases that were opened, extended or ended just now, in this process.
    pub fn note<'a>(&self, leases: impl IntoIterator<Item = &'a Held>) {
        for held in leases {
            self.tally.note(held.clone());
        }
    }

    /// Takes over what a survey of a place showed at an instant.
    pub fn surveyed(&self, place: &str, shown: Instant, leases: Vec<Held>, now: Timestamp) {
        self.tally.surveyed(place, shown, leases, now);
    }
}

impl Admitted {
    /// Whose call it is.
    pub fn subject(&self) -> Subject {
        self.subject
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some((replicas, call)) = self.replicas.take() else { return };
        let subject = self.subject;
        // At the end of the runtime there is nobody left to tell it: Redis forgets the call by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { replicas.leave(subject, "flight", &call).await });
        }
    }
}

/// What Redis says of a call.
pub(super) enum Verdict {
    Free,
    Rate(Duration),
    InFlight,
    /// Nothing: the process's own count holds.
    NotTold,
}

impl Replicas {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            admit: Script::new(include_str!("admit.lua")),
            leave: Script::new("return redis.call('ZREM', KEYS[1], ARGV[1])"),
            changes: Script::new(include_str!("changes.lua")),
            room: Script::new(include_str!("room.lua")),
            settle: Script::new(include_str!("settle.lua")),
        }
    }

    pub(super) async fn admit(&self, subject: Subject, what: &str, rate: Rate, most: u32, call: &str) -> Verdict {
        let keys = [subject.key(what), subject.key("flight")];
        let arguments = [
            rate.interval.as_micros().max(1).to_string(),
            rate.burst().as_micros().max(1).to_string(),
            most.to_string(),
            call.to_owned(),
            FLIGHT_MOST.as_millis().to_string(),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        match self.shared.script::<(u8, u64)>(&self.admit, &keys, &arguments).await {
            Ok((0, _)) => Verdict::Free,
            Ok((1, microseconds)) => Verdict::Rate(Duration::from_micros(microseconds)),
            Ok(_) => Verdict::InFlight,
            Err(_) => Verdict::NotTold,
        }
    }

    async fn charge(&self, charge: &Charge, config: &Config) -> Option<Exceeded> {
        let key = charge.subject.key("changes");
        let (hour, day) = (config.changes_per_hour, config.changes_per_day);
        let arguments = [hour.to_string(), day.to_string(), charge.id.to_string()];
        let answer = self.shared.script::<(u8, u64)>(&self.changes, &[key.as_str()], &arguments).await;
        let wait = |milliseconds, window| Duration::from_millis(milliseconds).min(window);
        match answer.ok()? {
            (0, _) => None,
            (1, milliseconds) => Some(Exceeded::new(Limit::ChangesPerHour, hour, wait(milliseconds, HOUR))),
            (_, milliseconds) => Some(Exceeded::new(Limit::ChangesPerDay, day, wait(milliseconds, DAY))),
        }
    }

    /// How many leases a subject holds, with what other replicas tell of and the room that is taken; none if Redis does
    /// not answer.
    async fn room(&self, room: &Room, mut known: HashSet<String>) -> Option<usize> {
        let key = room.subject.key("leases");
        let arguments = [ROOM_MOST.as_millis().to_string(), room.count.to_string(), taken(room.id)];
        let told = self.shared.script::<Vec<String>>(&self.room, &[key.as_str()], &arguments).await;
        for member in told.ok()? {
            match member.strip_prefix('-') {
                Some(left) => known.remove(left),
                None => known.insert(member),
            };
        }
        Some(known.len())
    }

    async fn settle(&self, subject: Subject, id: u128, count: usize, opened: &[Held], left: &[Held]) {
        let key = subject.key("leases");
        let mut arguments = vec![LATELY.as_millis().to_string(), count.to_string(), taken(id)];
        arguments.extend(opened.iter().map(|held| format!("+{}", held.rule)));
        arguments.extend(left.iter().map(|held| format!("-{}", held.rule)));
        // What cannot be told now is forgotten by itself, and surveys tell the rest.
        let _untold = self.shared.script::<i64>(&self.settle, &[key.as_str()], &arguments).await;
    }

    async fn leave(&self, subject: Subject, what: &str, member: &str) {
        let _untold = self.shared.script::<i64>(&self.leave, &[subject.key(what).as_str()], &[member]).await;
    }
}

/// What the members begin with that stand for room, so that no rule's id can be taken for one.
fn taken(id: u128) -> String {
    format!("~{id:032x}:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        Limits::new(toml::from_str(text).expect("sound"), None)
    }

    async fn admit(limits: &Limits, subject: u64, class: Class) -> Result<Admitted, Exceeded> {
        limits.admit(limits.operation().await?, Subject(subject), class).await
    }

    #[tokio::test]
    async fn classes_and_principals_are_counted_apart() {
        let limits = limits("reads_per_minute = 2\nchanges_per_minute = 1");
        for class in [Class::Read, Class::Read, Class::Change] {
            admit(&limits, 1, class).await.expect("within");
        }
        let refused = admit(&limits, 1, Class::Read).await.expect_err("over");
        assert_eq!((refused.limit(), refused.wait()), (Limit::Reads, Duration::from_secs(30)));
        assert_eq!(admit(&limits, 1, Class::Change).await.expect_err("over").limit(), Limit::Changes);
        admit(&limits, 2, Class::Read).await.expect("somebody else's");
    }

    #[tokio::test]
    async fn a_call_holds_its_places_until_it_ends() {
        let limits = limits("in_flight = 2\noperations = 3");
        let held = [admit(&limits, 1, Class::Read).await, admit(&limits, 1, Class::Read).await];
        assert_eq!(admit(&limits, 1, Class::Read).await.expect_err("over").limit(), Limit::InFlight);
        let third = admit(&limits, 2, Class::Read).await.expect("within");
        assert_eq!(admit(&limits, 3, Class::Read).await.expect_err("over").limit(), Limit::Operations);
        drop(held);
        admit(&limits, 1, Class::Read).await.expect("free again");
        drop(third);
    }

    #[tokio::test]
    async fn what_is_refused_has_used_nothing_up() {
        let limits = limits("in_flight = 1\nreads_per_minute = 2");
        let held = admit(&limits, 1, Class::Read).await.expect("within");
        for _ in 0..10 {
            assert_eq!(admit(&limits, 1, Class::Read).await.expect_err("over").limit(), Limit::InFlight);
        }
        drop(held);
        drop(admit(&limits, 1, Class::Read).await.expect("within"));
        for _ in 0..10 {
            assert_eq!(admit(&limits, 1, Class::Read).await.expect_err("over").limit(), Limit::Reads);
        }
        drop(admit(&limits, 1, Class::Change).await.expect("its place is free"));
    }

    #[tokio::test]
    async fn a_call_that_changes_many_groups_may_count_once() {
        let limits = limits("changes_per_hour = 2\nchanges_per_day = 2");
        let admitted = admit(&limits, 1, Class::Change).await.expect("within");
        let first = limits.charge(&admitted, true).await.expect("within");
        assert!(first.is_some());
        assert!(limits.charge(&admitted, true).await.expect("within").is_none());
        let other = admit(&limits, 1, Class::Change).await.expect("within");
        let given = limits.charge(&other, false).await.expect("within").expect("counted");
        assert!(limits.charge(&other, false).await.is_err());
        limits.give_back(given).await;
        assert!(limits.charge(&other, false).await.expect("within").is_some());
    }

    #[tokio::test]
    async fn a_call_that_counts_once_and_is_over_the_quota_is_refused_in_every_group() {
        let limits = limits("changes_per_hour = 1\nchanges_per_day = 2");
        let first = admit(&limits, 1, Class::Change).await.expect("within");
        let charge = limits.charge(&first, true).await.expect("within").expect("counted");
        let over = admit(&limits, 1, Class::Change).await.expect("within");
        let (one, other) = tokio::join!(limits.charge(&over, true), limits.charge(&over, true));
        for refused in [one, other, limits.charge(&over, true).await] {
            assert_eq!(refused.expect_err("over").limit(), Limit::ChangesPerHour);
        }
        limits.give_back(charge).await;
        assert!(limits.charge(&over, true).await.expect("within").is_some());
        assert!(limits.charge(&over, true).await.expect("within").is_none());
    }

    #[tokio::test]
    async fn room_for_leases_is_taken_before_they_are_opened() {
        let (limits, alice) = (limits("open_leases = 3"), Subject(1));
        let now = Timestamp::from_second(1000).expect("a time");
        let held = |rule: &str| Held {
            subject: alice,
            place: "p".to_owned(),
            group: "g".to_owned(),
            rule: rule.to_owned(),
            until: Timestamp::from_second(1600).expect("a time"),
        };
        let room = limits.room(alice, ("p", "g"), (vec![held("sgr-1")], Instant::now()), 2, now).await.expect("room");
        let refused =
            limits.room(alice, ("p", "g"), (vec![held("sgr-1")], Instant::now()), 1, now).await.expect_err("full");
        assert_eq!((refused.limit(), refused.wait()), (Limit::OpenLeases, Duration::from_secs(600)));
        limits.settle(&room, &[held("sgr-2")], &[]).await;
        drop(room);
        // In another group: what is known of this one still counts.
        let room = limits.room(alice, ("p", "h"), (Vec::new(), Instant::now()), 1, now).await.expect("room");
        assert!(limits.room(alice, ("p", "h"), (Vec::new(), Instant::now()), 1, now).await.is_err());
        drop(room);
        limits.left(alice, &[Held { until: now, ..held("sgr-1") }]).await;
        limits.room(alice, ("p", "h"), (Vec::new(), Instant::now()), 2, now).await.expect("room");
        // Who opens nothing new is never refused.
        let all = ["a", "b", "c", "d"].map(held).to_vec();
        limits.room(alice, ("p", "g"), (all, Instant::now()), 0, now).await.expect("nothing new");
    }
}
