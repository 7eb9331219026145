//! Finding out what AWS refuses, and why: for an operator, not on the road of a call. Nothing is changed by any of it.

use aws_sdk_ec2::types::{IpPermission, IpRange};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::assume::tags;
use super::error::may_pass;
use super::session_policy::{Actions, Power, SessionPolicy};
use super::{Aws, AwsError};
use crate::error::Chain;
use crate::identity::Principal;
use crate::operation::target::{GroupId, Place};
use crate::operation::{CallId, Tool};

/// What a role's trust policy lets the service do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everything that it needs.
    Whole,
    /// These actions of STS are missing from the trust policy.
    Lacks(Vec<&'static str>),
    /// Nothing of it: the role is not there, or does not trust the service, or wants another external id.
    Refused(String),
    /// AWS could not be asked.
    Unasked(String),
}

/// What the role may do with one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// A dry run would have succeeded.
    Given,
    /// AWS's word against it.
    Refused(String),
    /// AWS could not be asked.
    Unasked(String),
}

/// What of the session is asked for.
#[derive(Clone, Copy)]
struct Asked {
    tags: bool,
    source_identity: bool,
}

impl Aws {
    /// Whether the role of an account lets itself be assumed as every call does it, and if not, what is missing. Each attempt is
    /// a session that may do nothing.
    pub async fn trust(&self, place: &Place) -> Trust {
        let everything = Asked { tags: true, source_identity: true };
        let refused = match self.borrow(place, everything, &SessionPolicy::deny_all()).await {
            Ok(_) => return Trust::Whole,
            Err(error) if error.code().is_none_or(may_pass) => return Trust::Unasked(Chain(&error).to_string()),
            Err(error) => Chain(&error).to_string(),
        };
        for (asked, lacks) in [
            (Asked { tags: false, source_identity: true }, vec!["sts:TagSession"]),
            (Asked { tags: true, source_identity: false }, vec!["sts:SetSourceIdentity"]),
            (Asked { tags: false, source_identity: false }, vec!["sts:TagSession", "sts:SetSourceIdentity"]),
        ] {
            match self.borrow(place, asked, &SessionPolicy::deny_all()).await {
                Ok(_) => return Trust::Lacks(lacks),
                Err(error) if error.code().is_none_or(may_pass) => return Trust::Unasked(Chain(&error).to_string()),
                Err(_) => {}
            }
        }
        Trust::Refused(refused)
    }

    /// Whether the role may open a group, by a dry run in the session that an opening would have.
    pub async fn may_open(&self, place: &Place, group: &GroupId, actions: &Actions) -> Permission {
        let Some(account) = self.accounts.find(place.account()) else {
            return Permission::Unasked("no role is configured for the account".to_owned());
        };
        let power = Power {
            tool: Tool::Add,
            changes: true,
            place: place.clone(),
            group: Some(group.clone()),
            call: CallId::new(),
            holder: None,
            keyed: false,
            rules: Vec::new(),
            tags: Vec::new(),
        };
        let policy = actions.session_policy(&power, account);
        let session = match self.borrow(place, Asked { tags: true, source_identity: true }, &policy).await {
            Ok(session) => session,
            Err(error) => return Permission::Unasked(Chain(&error).to_string()),
        };
        let Some(ec2) = self.ec2.get(place.region()) else {
            return Permission::Unasked("no Region of that name is configured".to_owned());
        };
        // An address of RFC 5737: nobody's.
        let range = IpRange::builder().cidr_ip("192.0.2.1/32").build();
        let permission = IpPermission::builder().ip_protocol("tcp").from_port(22).to_port(22).ip_ranges(range).build();
        let request = ec2.authorize_security_group_ingress().group_id(group.as_str()).ip_permissions(permission);
        let config = aws_sdk_ec2::Config::builder().credentials_provider(session);
        let answer = request.dry_run(true).customize().config_override(config).send().await;
        match answer.err().as_ref().and_then(|error| error.as_service_error()).and_then(ProvideErrorMetadata::code) {
            Some("DryRunOperation") => Permission::Given,
            Some(code) if may_pass(code) => Permission::Unasked(format!("AWS has not decided: {code}; try again")),
            Some(code) => Permission::Refused(code.to_owned()),
            None => Permission::Unasked("it did not answer".to_owned()),
        }
    }

    async fn borrow(
        &self,
        place: &Place,
        asked: Asked,
        policy: &SessionPolicy,
    ) -> Result<aws_sdk_ec2::config::Credentials, AwsError> {
        let own = Principal::own("doctor");
        let request = self.request(place.account(), place.region(), &own, policy)?;
        let request = if asked.source_identity { request } else { request.set_source_identity(None) };
        let request = request.set_tags(asked.tags.then(|| tags(&CallId::new(), "doctor")));
        let answer = self.lend(request, self.own().await?).await;
        let answer =
            answer.map_err(|error| AwsError::from_sdk(super::assume::ACTION, error, place.account().as_str()).0)?;
        super::assume::borrowed(answer.credentials())
    }
}
