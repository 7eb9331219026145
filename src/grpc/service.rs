//! `whitelistmcp.v1.WhitelistService`: reads a request, hands it to the broker, writes the answer. Nothing else.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::broker::{Answer, Broker};
use crate::error::Error;
use crate::grpc::authn::Authenticator;
use crate::listen::Connection;
use crate::operation::{CallId, Context, Operation, Tool};
use crate::pb::whitelistmcp::v1 as pb;
use crate::pb::whitelistmcp::v1::whitelist_service_server::WhitelistService;
use crate::telemetry;

use super::present::{self, Shown};
use super::status::to_status;
use super::{DEADLINE_DEFAULT, DEADLINE_MAX, parse_timeout};

/// The service over a broker.
#[derive(Clone, Debug)]
pub(super) struct Service {
    broker: Arc<Broker>,
    authenticator: Arc<Authenticator>,
}

type Parse<Q> = for<'a> fn(Q, CallId, Context<'a>) -> Result<Operation, Error>;
type Present<A> = fn(Shown, Answer) -> A;

impl Service {
    pub(super) fn new(broker: Arc<Broker>, authenticator: Arc<Authenticator>) -> Self {
        Self { broker, authenticator }
    }

    /// The same five steps for every RPC.
    async fn call<Q, A>(
        &self,
        tool: Tool,
        request: Request<Q>,
        parse: Parse<Q>,
        present: Present<A>,
    ) -> Result<Response<A>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let span = tracing::info_span!(
            "whitelistmcp.v1.WhitelistService",
            otel.name = format!("whitelistmcp.v1.WhitelistService/{}", tool.rpc()),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = "whitelistmcp.v1.WhitelistService",
            rpc.method = tool.rpc(),
            rpc.grpc.status_code = tracing::field::Empty,
            whitelistmcp.call = tracing::field::Empty,
            whitelistmcp.principal = tracing::field::Empty,
            whitelistmcp.tool = tool.name(),
            whitelistmcp.target = tracing::field::Empty,
            whitelistmcp.outcome = tracing::field::Empty,
        );
        telemetry::continue_trace(&span, |key| metadata.get(key).and_then(|value| value.to_str().ok()));
        let call = CallId::new();
        span.record("whitelistmcp.call", call.as_str());
        let started = Instant::now();
        let result = self
            .steps(tool, &call, &metadata, extensions.get::<Connection>().cloned(), message, parse, present)
            .instrument(span.clone())
            .await;
        let outcome = result.as_ref().err().map_or("ok", Error::reason);
        span.record("whitelistmcp.outcome", outcome);
        telemetry::record_call(tool.name(), outcome, started.elapsed());
        match result {
            Ok(answer) => {
                span.record("rpc.grpc.status_code", 0);
                Ok(Response::new(answer))
            }
            Err(error) => {
                let status = span.in_scope(|| to_status(&error.fact("call_id", call.as_str())));
                span.record("rpc.grpc.status_code", i32::from(status.code()));
                Err(status)
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private function with one caller, split off only to be measured as a whole"
    )]
    async fn steps<Q, A>(
        &self,
        tool: Tool,
        call: &CallId,
        metadata: &MetadataMap,
        connection: Option<Connection>,
        message: Q,
        parse: Parse<Q>,
        present: Present<A>,
    ) -> Result<A, Error> {
        let caller = self
            .authenticator
            .authenticate(connection.as_ref(), metadata)
            .await
            .map_err(|error| self.broker.refuse(tool, call, None, error))?;
        tracing::Span::current().record("whitelistmcp.principal", caller.principal().id());
        let refuse = |error| self.broker.refuse(tool, call, Some(&caller), error);
        self.authenticator.require_scope(&caller, tool).map_err(refuse)?;
        let operation = parse(message, call.clone(), self.broker.context(&caller)).map_err(refuse)?;
        tracing::Span::current().record("whitelistmcp.target", operation.target().group().as_str());
        let shown = Shown::of(&operation);
        let deadline = Some(Instant::now() + timeout(metadata));
        let answer = self.broker.perform(Arc::new(caller), operation, deadline).await?;
        Ok(present(shown, answer))
    }
}

fn timeout(metadata: &MetadataMap) -> std::time::Duration {
    let asked = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    let whole = asked.unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX);
    // A caller's own clock started earlier: the last tenth is for the answer's way back.
    whole - whole / 10
}

#[tonic::async_trait]
impl WhitelistService for Service {
    async fn add_rule(&self, request: Request<pb::AddRuleRequest>) -> Result<Response<pb::AddRuleResponse>, Status> {
        self.call(Tool::Add, request, Operation::add, present::added).await
    }

    async fn remove_rules(
        &self,
        request: Request<pb::RemoveRulesRequest>,
    ) -> Result<Response<pb::RemoveRulesResponse>, Status> {
        self.call(Tool::Remove, request, Operation::remove, present::removed).await
    }

    async fn list_rules(
        &self,
        request: Request<pb::ListRulesRequest>,
    ) -> Result<Response<pb::ListRulesResponse>, Status> {
        self.call(Tool::List, request, Operation::list, present::listed).await
    }

    async fn check_access(
        &self,
        request: Request<pb::CheckAccessRequest>,
    ) -> Result<Response<pb::CheckAccessResponse>, Status> {
        self.call(Tool::Check, request, Operation::check, present::checked).await
    }
}
