//! Whether AWS lends the service its roles, asked again and again: what is wrong is known before the first caller meets it.
//!
//! Each test is an operation like any other, with an entry and a session of its own that may do nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::{Answer, Broker, Done, settle};
use crate::error::{Code, Error};
use crate::identity::Caller;
use crate::operation::target::Place;
use crate::operation::{Operation, Tool};

/// How long one test may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the last tests went, by account and Region.
#[derive(Clone, Debug)]
pub struct SelfTest {
    broker: Arc<Broker>,
    places: Vec<Place>,
    wrong: Arc<Mutex<BTreeMap<Place, (Code, String)>>>,
}

impl SelfTest {
    /// Of every account and Region that is configured.
    pub fn new(broker: Arc<Broker>) -> Self {
        let places = broker.aws.accounts().regions();
        let places = places
            .flat_map(|(account, regions)| regions.into_iter().map(move |region| Place::new(account.clone(), region)));
        let places = places.collect();
        Self { broker, places, wrong: Arc::default() }
    }

    /// Tests until the shutdown.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        loop {
            self.round().await;
            if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    /// One test of each place.
    pub async fn round(&self) {
        for place in &self.places {
            let tested = self.broker.self_test(place).await;
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            match tested {
                Ok(()) => drop(wrong.remove(place)),
                Err(error) => {
                    let why = (error.code(), format!("{}: {}", error.reason(), error.message()));
                    drop(wrong.insert(place.clone(), why));
                }
            }
        }
    }

    /// Where AWS has not lent the role.
    pub fn refused(&self) -> Option<String> {
        self.wrong_where(|code| code != Code::Unavailable && code != Code::DeadlineExceeded)
    }

    /// Where AWS has not answered.
    pub fn unreachable(&self) -> Option<String> {
        self.wrong_where(|code| code == Code::Unavailable || code == Code::DeadlineExceeded)
    }

    fn wrong_where(&self, of: impl Fn(Code) -> bool) -> Option<String> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let told = wrong.iter().filter(|(_, (code, _))| of(*code)).map(|(place, (_, why))| format!("{place}: {why}"));
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

impl Broker {
    /// Borrows the role of a place for nothing but to be told who that is.
    async fn self_test(&self, place: &Place) -> Result<(), Error> {
        let caller = Arc::new(Caller::own("self-test"));
        let operation = Operation::survey(Tool::SelfTest, place.clone(), self.clock.now());
        let (permit, policy) = self.permit(caller, operation)?;
        let entry = self.audit.begin_read(&permit, policy.sha256());
        let result = async {
            let session = self.aws.assume(&permit, &policy, &entry, Some(Instant::now() + PATIENCE)).await?;
            self.aws.who_is(&session).await?;
            Ok::<_, Failure>(Answer::Leases(Vec::new()))
        }
        .await;
        settle(entry, result, false, Done::default()).map(drop)
    }
}
