//! A group's rules for who only looks: as a call before has read them, or as the operation's own session does.

use std::time::Duration;

use super::cache::{Cache, Kind, Seen, Ticket};
use super::ec2::KeptRule;
use super::{Aws, AwsError, Session};
use crate::audit::Entry;
use crate::operation::Operation;
use crate::operation::rule::Rule;
use crate::policy::LookPermit;

/// What a look into the cache came to.
#[derive(Debug)]
pub enum Look<'a> {
    /// What stands, as it was read before.
    Seen {
        /// The rules.
        rules: Vec<Rule>,
        /// How long ago AWS was asked.
        age: Duration,
    },
    /// AWS is to be asked.
    Ask(Asking<'a>),
}

/// The right to keep what AWS is about to be asked.
#[derive(Debug)]
pub struct Asking<'a> {
    cache: Option<(&'a Cache, Ticket)>,
    operation: &'a Operation,
}

impl Aws {
    /// Looks for the group's rules where they may have been kept, for an operation that was permitted and only looks.
    pub async fn look<'a>(&'a self, permit: &'a LookPermit, entry: &Entry) -> Look<'a> {
        let operation = permit.operation();
        let ask = |cache| Look::Ask(Asking { cache, operation });
        let (Some(cache), Some(target)) = (&self.cache, operation.scope().group()) else { return ask(None) };
        let (place, group) = (target.place(), target.group().as_str());
        let (seen, ticket) = cache.look::<Vec<KeptRule>>(Kind::Rules, place, group, operation.is_fresh()).await;
        let Some(Seen { value, call, age }) = seen else { return ask(Some((cache, ticket))) };
        match value.into_iter().map(KeptRule::read).collect() {
            Some(rules) => {
                entry.read_from(&call);
                Look::Seen { rules, age }
            }
            None => ask(Some((cache, ticket))),
        }
    }
}

impl Asking<'_> {
    /// Asks AWS, and keeps what it says.
    pub async fn ask(self, session: &Session<'_>) -> Result<Vec<Rule>, AwsError> {
        let rules = session.rules().await?;
        if let Some((cache, ticket)) = self.cache {
            let kept: Vec<KeptRule> = rules.iter().map(KeptRule::of).collect();
            cache.keep(ticket, self.operation.call().as_str(), &kept).await;
        }
        Ok(rules)
    }
}
