//! Borrowing power from STS, for one operation.

use std::time::Duration;

use aws_sdk_ec2::config::Credentials;
use aws_sdk_sts::error::SdkError;
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::operation::assume_role::builders::AssumeRoleFluentBuilder;
use aws_sdk_sts::operation::assume_role::{AssumeRoleError, AssumeRoleOutput};
use aws_sdk_sts::types::Tag;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::cache::Cache;
use super::circuit::Breaker;
use super::session_policy::SessionPolicy;
use super::{Aws, AwsError};
use crate::audit::{AwsCall, Entry};
use crate::identity::{Kind, Principal};
use crate::operation::ownership::tag_value;
use crate::operation::target::{AccountId, Region};
use crate::operation::{CallId, Operation, Tool};
use crate::policy::LookPermit;

/// How long a session lives: the least that STS grants. The operation is over long before.
const SECONDS: i32 = 900;

/// How long AWS must have been silent for a caller's deadline to say something of AWS, and not of the caller.
const SILENT: Duration = Duration::from_secs(5);

/// What credentials that are had anew are waited for as.
const CREDENTIALS: &str = "the service's own credentials";

pub(super) const ACTION: &str = "sts:AssumeRole";

/// The keys of the tags that every session carries; a role's trust policy can demand these.
pub(super) const ALWAYS: [&str; 2] = ["call", "tool"];
/// The keys of further tags that the session of an operation carries.
pub(super) const BESIDES: [&str; 2] = ["issuer", "peer"];

const WHO: &str = "sts:GetCallerIdentity";

/// Credentials borrowed for one operation on one security group, and the entry that its calls are noted on.
pub struct Session<'a> {
    pub(super) ec2: &'a aws_sdk_ec2::Client,
    credentials: Credentials,
    pub(super) operation: &'a Operation,
    pub(super) entry: &'a Entry,
    pub(super) deadline: Option<Instant>,
    pub(super) breaker: Breaker,
    pub(super) cache: Option<&'a Cache>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("scope", self.operation.scope()).finish_non_exhaustive()
    }
}

impl Aws {
    /// Assumes the role of the operation's account, with the power that `policy` leaves of it; an account without a role is
    /// reached by the person's own credentials.
    ///
    /// Session name and source identity say who, the tags say which call, and CloudTrail shows all three.
    /// Source: STS API reference, `AssumeRole`.
    pub async fn assume<'a>(
        &'a self,
        permit: &'a LookPermit,
        policy: &SessionPolicy,
        entry: &'a Entry,
        deadline: Option<Instant>,
    ) -> Result<Session<'a>, AwsError> {
        let operation = permit.operation();
        let place = operation.scope().place();
        let ec2 = self.ec2.get(place.region()).ok_or(AwsError::NoRole)?;
        let principal = permit.caller().principal();
        let besides = [principal.issuer(), permit.caller().peer().as_str()];
        let mut tags = tags(operation.call(), operation.tool().name());
        tags.extend(BESIDES.into_iter().zip(besides).filter_map(tag));
        let own = within(deadline, CREDENTIALS, self.own()).await??;
        let account = self.accounts.find(place.account()).ok_or(AwsError::NoRole)?;
        let of = |service| self.circuits.of(service, place.account(), place.region());
        let (breaker, ec2_breaker) = (of("STS"), of("EC2"));
        // What the service does for itself goes on trying, at its own pace.
        if principal.kind() != Kind::Own {
            let now = Instant::now();
            // A session that nothing could be done with is not borrowed.
            if let Some(wait) = ec2_breaker.wait(now) {
                return Err(AwsError::Open { wait });
            }
            let asked = if account.has_role() { &[&breaker, &ec2_breaker][..] } else { &[&ec2_breaker] };
            for breaker in asked {
                breaker.enter(now).map_err(|wait| AwsError::Open { wait })?;
            }
        }
        let session = |credentials| Session {
            ec2,
            credentials,
            operation,
            entry,
            deadline,
            breaker: ec2_breaker,
            cache: self.cache.as_ref(),
        };
        // Without a role nothing is borrowed, and nothing narrows what the credentials can do.
        if let (false, Some(own)) = (account.has_role(), &own) {
            return Ok(session(own.clone()));
        }
        let request = self.request(place.account(), place.region(), principal, policy)?.set_tags(Some(tags));
        let asked = Instant::now();
        let answer = within(deadline, ACTION, self.lend(request, own)).await;
        if answer.is_err() && asked.elapsed() >= SILENT {
            breaker.failed(Instant::now());
        }
        let answer = answer?.map_err(|error| {
            let (error, call) = AwsError::from_sdk(ACTION, error, &operation.scope().label());
            entry.note(call);
            error.tell(&breaker);
            error
        })?;
        breaker.answered();
        let request_id = answer.request_id().map(str::to_owned);
        entry.note(AwsCall { action: ACTION, request_id, error: None });
        Ok(session(borrowed(answer.credentials())?))
    }

    /// Asks STS who the service is once it has assumed the role of an account, with a session that may do nothing
    /// else: `GetCallerIdentity` needs no permission and cannot be denied. The answer is the session's ARN.
    pub async fn self_test(&self, account: &AccountId, region: &Region) -> Result<String, AwsError> {
        let own = Principal::own("self-test");
        let request = self.request(account, region, &own, &SessionPolicy::deny_all())?;
        let request = request.set_tags(Some(tags(&CallId::new(), Tool::SelfTest.name())));
        let answer = self
            .lend(request, self.own().await?)
            .await
            .map_err(|error| AwsError::from_sdk(ACTION, error, account.as_str()).0)?;
        let session = aws_sdk_sts::Config::builder().credentials_provider(borrowed(answer.credentials())?);
        let sts = self.sts.get(region).ok_or(AwsError::NoRole)?;
        let identity = sts.get_caller_identity().customize().config_override(session).send().await;
        let identity = identity.map_err(|error| AwsError::from_sdk(WHO, error, account.as_str()).0)?;
        identity.arn().map(str::to_owned).ok_or(AwsError::Incomplete { action: WHO, what: "an ARN" })
    }

    /// Asks STS who a session is: `GetCallerIdentity` needs no permission and cannot be denied. The answer is its ARN.
    pub async fn who_is(&self, session: &Session<'_>) -> Result<String, AwsError> {
        let sts = self.sts.get(session.operation.scope().place().region()).ok_or(AwsError::NoRole)?;
        let signed = aws_sdk_sts::Config::builder().credentials_provider(session.credentials.clone());
        let answer =
            within(session.deadline, WHO, sts.get_caller_identity().customize().config_override(signed).send());
        let answer = answer.await?.map_err(|error| {
            let (error, call) = AwsError::from_sdk(WHO, error, &session.operation.scope().label());
            session.entry.note(call);
            error
        })?;
        session.entry.note(AwsCall { action: WHO, request_id: answer.request_id().map(str::to_owned), error: None });
        answer.arn().map(str::to_owned).ok_or(AwsError::Incomplete { action: WHO, what: "an ARN" })
    }

    /// [`send`]; what AWS does not take of the service's own credentials is not kept.
    pub(super) async fn lend(
        &self,
        request: AssumeRoleFluentBuilder,
        own: Option<Credentials>,
    ) -> Result<AssumeRoleOutput, SdkError<AssumeRoleError>> {
        let key = own.as_ref().map(|own| own.access_key_id().to_owned());
        let answer = send(request, own).await;
        let refused = answer.as_ref().err().and_then(SdkError::as_service_error);
        if let (Some(federation), Some(key), Some(code)) =
            (&self.federation, key, refused.and_then(ProvideErrorMetadata::code))
        {
            federation.refused(&key, code);
        }
        answer
    }

    /// What every request for a role says: which role, who asks, and what of the role's power is left.
    pub(super) fn request(
        &self,
        account: &AccountId,
        region: &Region,
        who: &Principal,
        policy: &SessionPolicy,
    ) -> Result<AssumeRoleFluentBuilder, AwsError> {
        let role = self.accounts.find(account).and_then(|account| account.role.as_ref()).ok_or(AwsError::NoRole)?;
        let sts = self.sts.get(region).ok_or(AwsError::NoRole)?;
        Ok(sts
            .assume_role()
            .role_arn(role.arn.as_str())
            .role_session_name(who.id())
            .source_identity(who.id())
            .set_external_id(role.external_id.clone())
            .duration_seconds(SECONDS)
            .policy(policy.as_str()))
    }
}

impl Session<'_> {
    /// What makes a request this session's own.
    pub(super) fn signed(&self) -> aws_sdk_ec2::config::Builder {
        aws_sdk_ec2::Config::builder().credentials_provider(self.credentials.clone())
    }
}

/// The tags that every session carries: which call it is for, and what it does.
pub(super) fn tags(call: &CallId, tool: &str) -> Vec<Tag> {
    ALWAYS.into_iter().zip([call.as_str(), tool]).filter_map(tag).collect()
}

fn tag((key, value): (&str, &str)) -> Option<Tag> {
    Tag::builder().key(key).value(tag_value(value)).build().ok()
}

/// Asks for a role, with these credentials or else with those that the client has itself. Boxed, or every call would be as large as
/// the larger way.
fn send(
    request: AssumeRoleFluentBuilder,
    own: Option<Credentials>,
) -> BoxFuture<'static, Result<AssumeRoleOutput, SdkError<AssumeRoleError>>> {
    Box::pin(async move {
        match own {
            None => request.send().await,
            Some(own) => {
                let signed = aws_sdk_sts::Config::builder().credentials_provider(own);
                request.customize().config_override(signed).send().await
            }
        }
    })
}

/// The credentials in STS's answer.
pub(super) fn borrowed(lent: Option<&aws_sdk_sts::types::Credentials>) -> Result<Credentials, AwsError> {
    let lent = lent.ok_or(AwsError::Incomplete { action: ACTION, what: "credentials" })?;
    let token = Some(lent.session_token().to_owned());
    Ok(Credentials::new(lent.access_key_id(), lent.secret_access_key(), token, None, "whitelistmcp-call"))
}

/// Waits for an answer until the caller's deadline.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    action: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, AwsError> {
    match deadline {
        None => Ok(answer.await),
        Some(deadline) => tokio::time::timeout_at(deadline, answer).await.map_err(|_| AwsError::Deadline { action }),
    }
}
