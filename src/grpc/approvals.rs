//! `mcp.v1.Approvals`: what waits for somebody's word, and the word.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::authn::Authenticator;
use super::status::to_status;
use crate::approval::{ApprovalError, Request as Approval, State, WhoseWord};
use crate::broker::Broker;
use crate::broker::approvals::Shown;
use crate::error::Error;
use crate::identity::{Caller, Kind};
use crate::limit::Admitted;
use crate::listen::Connection;
use crate::operation::{CallId, Tool};
use crate::pb::mcp::v1 as pb;
use crate::pb::mcp::v1::approvals_server::Approvals;

/// The service over a broker.
#[derive(Clone, Debug)]
pub(super) struct Service {
    broker: Arc<Broker>,
    authenticator: Arc<Authenticator>,
}

impl Service {
    pub(super) fn new(broker: Arc<Broker>, authenticator: Arc<Authenticator>) -> Self {
        Self { broker, authenticator }
    }

    /// Who calls, and that they are within their limits. Whoever decides on changes must be able to ask for some: the scope is that of changing.
    async fn enter<Q>(&self, request: &Request<Q>) -> Result<(Caller, Admitted), Error> {
        let connection = request.extensions().get::<Connection>();
        let caller = self.authenticator.authenticate(connection, request.metadata()).await?;
        let admitted = self.broker.admit_other(&caller).await?;
        self.authenticator.require_scope(&caller, Tool::Add)?;
        Ok((caller, admitted))
    }

    async fn get(&self, request: Request<pb::GetApprovalRequest>) -> Result<pb::Approval, Error> {
        let (caller, _admitted) = self.enter(&request).await?;
        Ok(shown(self.broker.approval(&caller, &request.get_ref().id).await?))
    }

    async fn say(&self, request: Request<pb::DecideRequest>) -> Result<pb::Approval, Error> {
        let call = CallId::new();
        let (caller, _admitted) =
            self.enter(&request).await.map_err(|error| self.broker.refuse(Tool::Decide, &call, None, error))?;
        // Somebody who tries to decide on what is not theirs is somebody to know of.
        let refuse = |error| self.broker.refuse(Tool::Decide, &call, Some(&caller), error);
        self.decided(&caller, &call, request.into_inner()).await.map_err(refuse)
    }

    async fn decided(
        &self,
        caller: &Caller,
        call: &CallId,
        decision: pb::DecideRequest,
    ) -> Result<pb::Approval, Error> {
        let approve = match decision.verdict() {
            pb::Verdict::Approve => true,
            pb::Verdict::Decline => false,
            pb::Verdict::Unspecified => return Err(ApprovalError::NoVerdict.into()),
        };
        let login = match (caller.principal().kind(), self.broker.login_client()) {
            (Kind::Person, Some(client)) if !decision.login.is_empty() => {
                Some(self.authenticator.login(caller, &decision.login, client).await?)
            }
            (Kind::Person, None) => return Err(ApprovalError::Login("no login client is configured").into()),
            _ => None,
        };
        let request = self.broker.decide(caller, call, &decision.id, approve, &decision.note, login.as_ref()).await?;
        Ok(shown(Shown { request, may_decide: false }))
    }
}

fn shown(shown: Shown) -> pb::Approval {
    let Shown { request, may_decide } = shown;
    let decision = request.decision();
    pb::Approval {
        id: request.id().to_owned(),
        title: request.title().to_owned(),
        details: details(&request),
        requester: request.requester().name.clone(),
        from: match request.from() {
            WhoseWord::Another => pb::ApprovalFrom::Another,
            WhoseWord::Requester => pb::ApprovalFrom::Requester,
        }
        .into(),
        state: match request.state() {
            State::Waiting => pb::ApprovalState::Waiting,
            State::Approved => pb::ApprovalState::Approved,
            State::Declined => pb::ApprovalState::Declined,
            State::Used => pb::ApprovalState::Used,
        }
        .into(),
        expires: request.expires().to_string(),
        decided_by: decision.map(|decision| decision.by().name.clone()).unwrap_or_default(),
        note: decision.map(|decision| decision.note().to_owned()).unwrap_or_default(),
        yours_to_decide: may_decide,
    }
}

fn details(request: &Approval) -> Vec<pb::Detail> {
    let detail = |(name, value): &(String, String)| pb::Detail { name: name.clone(), value: value.clone() };
    request.details().iter().map(detail).collect()
}

#[tonic::async_trait]
impl Approvals for Service {
    async fn get_approval(
        &self,
        request: Request<pb::GetApprovalRequest>,
    ) -> Result<Response<pb::GetApprovalResponse>, Status> {
        let approval = self.get(request).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::GetApprovalResponse { approval: Some(approval) }))
    }

    async fn decide(&self, request: Request<pb::DecideRequest>) -> Result<Response<pb::DecideResponse>, Status> {
        let approval = self.say(request).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(pb::DecideResponse { approval: Some(approval) }))
    }
}
