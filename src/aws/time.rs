//! The time as AWS has it: from the `Date` of its own answers, and since then by this machine's steady clock.
//!
//! Whether a lease has ended is decided by this time, so all replicas agree on it, and a step of one machine's clock
//! neither closes a door early nor holds one open.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use jiff::Timestamp;
use tokio::time::Instant;

/// What AWS last said the time was, and when it said so.
#[derive(Clone, Debug, Default)]
pub(super) struct AwsTime(Arc<Mutex<Option<(Timestamp, Instant)>>>);

impl AwsTime {
    /// The time; none before AWS has answered for the first time.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (told, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        told.checked_add(at.elapsed()).ok()
    }

    fn told(&self, date: &str) {
        if let Ok(date) = jiff::fmt::rfc2822::parse(date) {
            let told = (date.timestamp(), Instant::now());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for AwsTime {
    fn name(&self) -> &'static str {
        "AwsTime"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.told(date);
        }
        Ok(())
    }
}
