//! Deciding on changes that wait: who may see a request, who may decide, and that it is on disk before it counts.

use super::{Broker, STILL_OPTED_IN};
use crate::approval::{ApprovalError, LOGIN_AGE_MOST, Request, WhoseWord, may_decide};
use crate::error::Error;
use crate::identity::oidc::{CLOCK_LEEWAY, Login};
use crate::identity::{Caller, Kind};
use crate::operation::CallId;
use crate::operation::target::Target;

/// A request, and whether the caller may decide on it.
#[derive(Debug)]
pub struct Shown {
    /// The request.
    pub request: Request,
    /// Whether it is the caller's to decide.
    pub may_decide: bool,
}

impl Broker {
    /// A request, for who asked and for who may decide on it. To everybody else it does not exist.
    pub async fn approval(&self, caller: &Caller, id: &str) -> Result<Shown, Error> {
        let unknown = || Error::from(ApprovalError::Unknown(shown_id(id)));
        let approvals = self.approvals.as_ref().ok_or_else(unknown)?;
        let request = approvals.find(id).await?.ok_or_else(unknown)?;
        // The group may be one that its owner opted in, and this core have heard of nobody who asked for it.
        self.discover(&self.targets().places(None, None)?, STILL_OPTED_IN).await;
        let permitted = match self.may_approve(caller, &request) {
            // Nobody can tell who may decide.
            Err(error) if error.reason() == "GROUPS_UNREAD" => return Err(error),
            permitted => permitted.is_ok(),
        };
        if !permitted && !request.requester().is(caller.principal()) {
            return Err(unknown());
        }
        let may_decide = permitted && may_decide(&request, caller.principal()).is_ok();
        Ok(Shown { request, may_decide })
    }

    /// Decides on a request. `login` is a person's proof that they have just logged in for it.
    pub async fn decide(
        &self,
        caller: &Caller,
        call: &CallId,
        id: &str,
        approve: bool,
        note: &str,
        login: Option<&Login>,
    ) -> Result<Request, Error> {
        let Shown { request, .. } = self.approval(caller, id).await?;
        let unknown = || Error::from(ApprovalError::Unknown(shown_id(id)));
        let approvals = self.approvals.as_ref().ok_or_else(unknown)?;
        may_decide(&request, caller.principal())?;
        let policies = self.may_approve(caller, &request)?;
        self.proven(caller, &request, login)?;
        let note = crate::approval::note(note)?;
        self.audit.decide(call, caller, &request, approve, note, policies).await?;
        Ok(approvals.decide(request, caller.principal(), approve, note).await?)
    }

    /// The OAuth client that people log in through to decide.
    pub fn login_client(&self) -> Option<&str> {
        self.approvals.as_ref()?.login_client()
    }

    fn may_approve(&self, caller: &Caller, request: &Request) -> Result<Vec<String>, Error> {
        let target = self.group_of(request)?;
        let own = request.from() == WhoseWord::Requester && request.requester().is(caller.principal());
        Ok(self.policies.current().approve(caller, request, &target, own, self.clock.now())?)
    }

    fn group_of(&self, request: &Request) -> Result<Target, Error> {
        let target = request.target();
        Ok(self.targets().resolve(&target.group, Some(&target.account), Some(&target.region))?)
    }

    /// A person has logged in after the request was made, for this request, a moment ago; a service is its certificate.
    fn proven(&self, caller: &Caller, request: &Request, login: Option<&Login>) -> Result<(), ApprovalError> {
        match (caller.principal().kind(), request.from()) {
            (Kind::Person, _) => {}
            (Kind::Service, WhoseWord::Another) => return Ok(()),
            (Kind::Service, WhoseWord::Requester) => return Err(ApprovalError::Login("a program has none")),
            (Kind::ApiKey | Kind::Own, _) => return Err(ApprovalError::Login("a key is nobody's word")),
        }
        let login = login.ok_or(ApprovalError::Login("none was sent"))?;
        if login.subject() != caller.principal().subject() || login.issuer() != caller.principal().issuer() {
            return Err(ApprovalError::Login("it is somebody else's"));
        }
        if login.nonce().split_once('.').is_none_or(|(id, rest)| id != request.id() || rest.len() < 16) {
            return Err(ApprovalError::Login("it was made for something else"));
        }
        let leeway = |time: jiff::Timestamp| time.saturating_add(CLOCK_LEEWAY).unwrap_or(time);
        if leeway(login.at()) < request.made() {
            return Err(ApprovalError::Login("it is older than the request"));
        }
        let now = self.clock.now();
        if login.at() > leeway(now) || leeway(login.at()).saturating_add(LOGIN_AGE_MOST).unwrap_or(now) < now {
            return Err(ApprovalError::Login("it is not from the last five minutes"));
        }
        Ok(())
    }
}

/// An id as it may be shown again.
fn shown_id(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}
