//! The EC2 calls: `read` looks, `write` changes; `kept` is what the cache keeps of a look.

mod kept;
mod read;
mod write;

use std::time::Duration;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::operation::RequestId;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use tokio::time::Instant;

use super::assume::Session;
use super::error::AwsError;
use crate::audit::AwsCall;

pub(super) use kept::KeptRule;
pub(super) use read::NOT_MANAGED;
pub use read::{GroupFacts, MANAGED};
pub use write::Authorized;

pub(super) const AUTHORIZE: &str = "ec2:AuthorizeSecurityGroupIngress";
pub(super) const REVOKE: &str = "ec2:RevokeSecurityGroupIngress";
pub(super) const MODIFY: &str = "ec2:ModifySecurityGroupRules";
pub(super) const TAG: &str = "ec2:CreateTags";
pub(super) const UNTAG: &str = "ec2:DeleteTags";

/// How often a throttled change is tried again, and how long is waited before the first time; it doubles.
const THROTTLED_MOST: u32 = 4;
const THROTTLED_PAUSE: Duration = Duration::from_millis(300);

impl Session<'_> {
    /// Sends a change, and again only where AWS said that it was not even looked at.
    async fn change<T, E, R, F>(&self, action: &'static str, send: impl Fn() -> F) -> Result<T, AwsError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        self.change_by(action, None, send).await
    }

    /// The same, but not sent any more after `not_after`: what it rests on would be too old.
    async fn change_by<T, E, R, F>(
        &self,
        action: &'static str,
        not_after: Option<Instant>,
        send: impl Fn() -> F,
    ) -> Result<T, AwsError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let sent = self.resend(action, not_after, send).await;
        // Whatever came of it, what was read before may be wrong now.
        if let (Some(cache), Ok(group)) = (self.cache, self.group()) {
            cache.drop_rules(self.operation.scope().place(), group.as_str()).await;
        }
        sent
    }

    async fn resend<T, E, R, F>(
        &self,
        action: &'static str,
        not_after: Option<Instant>,
        send: impl Fn() -> F,
    ) -> Result<T, AwsError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let mut throttled = 0;
        loop {
            if not_after.is_some_and(|not_after| Instant::now() > not_after) {
                return Err(AwsError::TooLate { action });
            }
            let error = match send().await {
                Ok(answer) => {
                    self.note(action, answer.request_id());
                    return Ok(answer);
                }
                Err(error) => self.failed(action, error),
            };
            if !error.is_throttling() || throttled == THROTTLED_MOST {
                return Err(error);
            }
            // Half of it at random, so that those who were turned away together do not come back together.
            let pause = THROTTLED_PAUSE * 2_u32.pow(throttled);
            let pause = pause / 2 + pause.mul_f64(crate::digest::chance() / 2.0);
            // What has been begun is finished, whoever waits for it or not; what has not is not begun any more.
            if !self.entry.has_changed() {
                let late = self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline);
                if late || !self.breaker.may_resend(Instant::now()) {
                    return Err(error);
                }
            }
            tokio::time::sleep(pause).await;
            throttled += 1;
        }
    }

    /// A change is sent once: were it tried again after a lost answer, the last attempt's error would hide what the
    /// first one did.
    fn signed_once(&self) -> aws_sdk_ec2::config::Builder {
        self.signed().retry_config(RetryConfig::disabled())
    }

    fn failed<E, R>(&self, action: &'static str, error: SdkError<E, R>) -> AwsError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
        SdkError<E, R>: RequestId,
    {
        let (error, call) = AwsError::from_sdk(action, error, &self.operation.scope().label());
        self.entry.note(call);
        error.tell(&self.breaker);
        error
    }

    fn note(&self, action: &'static str, request_id: Option<&str>) {
        self.breaker.answered();
        self.entry.note(AwsCall { action, request_id: request_id.map(str::to_owned), error: None });
    }
}
