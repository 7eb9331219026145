//! `whitelist_revoke_holder`: everything of one holder, everywhere, for the day someone leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::failure::Failure;
use super::{Answer, Broker};
use crate::error::Error;
use crate::identity::Caller;
use crate::limit::Admitted;
use crate::operation::Operation;
use crate::operation::request::Leaver;
use crate::operation::target::{Place, Target};

/// How many accounts and Regions, or groups, are asked at once.
pub const AT_ONCE: usize = 8;

/// What became of everything of one holder.
#[derive(Debug)]
pub struct Ended {
    /// Each group in which something was found, the call that dealt with it, and what became of it.
    pub groups: Vec<(Operation, Result<Answer, Error>)>,
    /// The accounts and Regions that could not be asked.
    pub missed: Vec<Missed>,
}

/// An account and Region that could not be asked.
#[derive(Debug)]
pub struct Missed {
    /// Where.
    pub place: Place,
    /// Why not.
    pub error: Error,
}

impl Broker {
    /// Performs the same search in many places. What fails in one does not keep the others back.
    pub async fn search(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        admitted: &Arc<Admitted>,
        searches: Vec<Operation>,
        deadline: Option<Instant>,
    ) -> (Vec<(Target, crate::operation::rule::Rule)>, Vec<Missed>) {
        let (mut found, mut missed) = (Vec::new(), Vec::new());
        let answers = futures_util::stream::iter(searches).map(|search| {
            let (broker, caller, place) = (Arc::clone(self), Arc::clone(caller), search.scope().place().clone());
            async move { (place, broker.perform(caller, admitted, search, deadline).await) }
        });
        let answers: Vec<_> = answers.buffered(AT_ONCE).collect().await;
        for (place, answer) in answers {
            match answer {
                Ok(Answer::Leases(leases)) => found.extend(leases),
                Ok(_) => {}
                Err(error) => missed.push(Missed { place, error }),
            }
        }
        (found, missed)
    }

    /// Ends everything of one holder.
    pub async fn end_holder(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        admitted: &Arc<Admitted>,
        searches: Vec<Operation>,
        leaver: &Leaver,
        deadline: Option<Instant>,
    ) -> Result<Ended, Error> {
        let first = searches.first().cloned();
        let (found, mut missed) = self.search(caller, admitted, searches, deadline).await;
        if found.is_empty() && !missed.is_empty() {
            // Nothing was found because nothing could be asked.
            return Err(missed.swap_remove(0).error);
        }
        let mut holders = BTreeMap::new();
        let mut targets: Vec<Target> = Vec::new();
        for (target, rule) in &found {
            for lease in rule.ownership().into_iter().flat_map(|own| &own.leases) {
                if lease.holder.is_called(&leaver.holder) {
                    holders.insert(lease.holder.tag_key(), lease.holder.id());
                }
            }
            if !targets.iter().any(|known| known.is(target)) {
                targets.push(target.clone());
            }
        }
        if holders.len() > 1 {
            return Err(Failure::SeveralHolders(holders.into_values().collect()).into());
        }
        let holder = holders.into_values().next().unwrap_or_else(|| leaver.holder.clone());
        let parts = targets.into_iter().filter_map(|target| {
            Some(first.as_ref()?.end_holder(target, holder.clone(), leaver.reason.clone(), leaver.dry_run))
        });
        let parts = futures_util::stream::iter(parts).map(|part| {
            let (broker, caller) = (Arc::clone(self), Arc::clone(caller));
            async move {
                let answer = broker.perform(caller, admitted, part.clone(), deadline).await;
                (part, answer)
            }
        });
        Ok(Ended { groups: parts.buffered(AT_ONCE).collect().await, missed })
    }
}
