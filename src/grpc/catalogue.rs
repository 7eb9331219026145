//! `mcp.v1.Catalogue`: which tools the caller may call at all, as scopes and policy say. It reads nothing but the token and
//! the policies, and nothing is recorded of it.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::authn::Authenticator;
use super::status::to_status;
use crate::broker::Broker;
use crate::listen::Connection;
use crate::operation::Tool;
use crate::pb::mcp::v1::catalogue_server::Catalogue;
use crate::pb::mcp::v1::{ListCallableToolsRequest, ListCallableToolsResponse};

/// The service over a broker's policies.
#[derive(Clone, Debug)]
pub(super) struct Catalogued {
    broker: Arc<Broker>,
    authenticator: Arc<Authenticator>,
}

impl Catalogued {
    pub(super) fn new(broker: Arc<Broker>, authenticator: Arc<Authenticator>) -> Self {
        Self { broker, authenticator }
    }
}

#[tonic::async_trait]
impl Catalogue for Catalogued {
    async fn list_callable_tools(
        &self,
        request: Request<ListCallableToolsRequest>,
    ) -> Result<Response<ListCallableToolsResponse>, Status> {
        let connection = request.extensions().get::<Connection>();
        let caller = self.authenticator.authenticate(connection, request.metadata()).await;
        let caller = caller.map_err(|error| to_status(&error))?;
        let _admitted = self.broker.admit_other(&caller).await.map_err(|error| to_status(&error))?;
        let callable = |tool: &Tool| {
            self.authenticator.require_scope(&caller, *tool).is_ok() && self.broker.may_call(&caller, *tool)
        };
        let tools = Tool::ALL.into_iter().filter(callable).map(|tool| tool.name().to_owned()).collect();
        Ok(Response::new(ListCallableToolsResponse { tools }))
    }
}
