//! `whitelistmcp.v1.WhitelistService`: reads a request, hands it to the broker, writes the answer. Nothing else.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::broker::upkeep::Reconciler;
use crate::broker::{AT_ONCE, Broker, FRESH, LOOK_AGAIN, STILL_OPTED_IN};
use crate::error::Error;
use crate::grpc::authn::Authenticator;
use crate::identity::Caller;
use crate::limit::{Admitted, Class, Subject};
use crate::listen::Connection;
use crate::operation::target::Known;
use crate::operation::{CallId, Context, Operation, Tool};
use crate::pb::whitelistmcp::v1 as pb;
use crate::pb::whitelistmcp::v1::whitelist_service_server::WhitelistService;
use crate::telemetry::{self, OpenStream};

use super::present::{self, Part, Shown};
use super::status::{self, to_status};
use super::{DEADLINE_DEFAULT, DEADLINE_MAX, parse_timeout};

/// The service over a broker.
#[derive(Clone, Debug)]
pub(super) struct Service {
    broker: Arc<Broker>,
    reconciler: Arc<Reconciler>,
    authenticator: Arc<Authenticator>,
}

/// A request whose caller is known and may call the tool.
struct Entered<Q> {
    service: Service,
    tool: Tool,
    caller: Arc<Caller>,
    admitted: Arc<Admitted>,
    call: CallId,
    message: Q,
    deadline: Option<Instant>,
}

type Parse<Q> = for<'a> fn(Q, CallId, Context<'a>) -> Result<Vec<Operation>, Error>;
type Present<A> = fn(Vec<Part>) -> A;
type Work<Q, A> = fn(Entered<Q>) -> BoxFuture<'static, Result<A, Error>>;

impl Service {
    pub(super) fn new(broker: Arc<Broker>, reconciler: Arc<Reconciler>, authenticator: Arc<Authenticator>) -> Self {
        Self { broker, reconciler, authenticator }
    }

    /// What every RPC has in common: a span, a call id, who calls, and an answer or a status.
    async fn call<Q, A>(
        &self,
        tool: Tool,
        request: Request<Q>,
        work: impl FnOnce(Entered<Q>) -> BoxFuture<'static, Result<A, Error>> + Send,
    ) -> Result<Response<A>, Status>
    where
        Q: Send + 'static,
    {
        let (metadata, extensions, message) = request.into_parts();
        let method = format!("whitelistmcp.v1.WhitelistService/{}", tool.rpc().unwrap_or_default());
        let stream = OpenStream::count("core");
        let span = tracing::info_span!(
            "whitelistmcp.v1.WhitelistService",
            otel.name = method,
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
            whitelistmcp.call = tracing::field::Empty,
            whitelistmcp.principal = tracing::field::Empty,
            whitelistmcp.tool = tool.name(),
            whitelistmcp.target = tracing::field::Empty,
            whitelistmcp.outcome = tracing::field::Empty,
            whitelistmcp.decision = tracing::field::Empty,
            whitelistmcp.policies = tracing::field::Empty,
            whitelistmcp.session_policy.sha256 = tracing::field::Empty,
            aws.request_ids = tracing::field::Empty,
            error.type = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
        );
        telemetry::continue_trace(&span, |key| metadata.get(key).and_then(|value| value.to_str().ok()));
        let call = CallId::new();
        span.record("whitelistmcp.call", call.as_str());
        let started = Instant::now();
        let deadline = Some(started + timeout(&metadata));
        let connection = extensions.get::<Connection>().cloned();
        let result = async {
            let (caller, admitted) = self.enter(tool, &call, connection.as_ref(), &metadata).await?;
            let service = self.clone();
            work(Entered { service, tool, caller, admitted, call: call.clone(), message, deadline }).await
        }
        .instrument(span.clone())
        .await;
        let outcome = result.as_ref().err().map_or("ok", Error::reason);
        span.record("whitelistmcp.outcome", outcome);
        let answer = match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                let status = span.in_scope(|| to_status(&error.fact("call_id", call.as_str())));
                span.record("error.type", outcome);
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", status.message());
                Err(status)
            }
        };
        let code = status::name(answer.as_ref().err().map_or(tonic::Code::Ok, Status::code));
        span.record("rpc.response.status_code", code);
        telemetry::record_call(tool.name(), method, code, outcome, started.elapsed());
        drop(stream);
        answer
    }

    /// Who calls, that they are within their limits, and that they hold the tool's scope.
    async fn enter(
        &self,
        tool: Tool,
        call: &CallId,
        connection: Option<&Connection>,
        metadata: &MetadataMap,
    ) -> Result<(Arc<Caller>, Arc<Admitted>), Error> {
        let (broker, limits) = (&self.broker, self.broker.limits());
        // Before anything is asked of anybody: what waits for an answer takes memory as well.
        let operation =
            limits.operation().await.map_err(|exceeded| broker.refuse_exceeded(tool, call, None, exceeded))?;
        let caller = self.authenticator.authenticate(connection, metadata).await.map_err(|error| {
            let peer = connection.and_then(Connection::peer).map(|names| format!("{names:?}"));
            broker.refuse_unproven(tool, call, &peer.unwrap_or_default(), error)
        })?;
        tracing::Span::current().record("whitelistmcp.principal", caller.principal().id());
        let class = if tool.can_change() { Class::Change } else { Class::Read };
        let admitted = limits.admit(operation, Subject::of(caller.principal().id()), class).await;
        let admitted = admitted.map_err(|exceeded| broker.refuse_exceeded(tool, call, Some(&caller), exceeded))?;
        let refuse = |error| broker.refuse(tool, call, Some(&caller), error);
        self.authenticator.require_scope(&caller, tool).map_err(refuse)?;
        Ok((Arc::new(caller), Arc::new(admitted)))
    }

    /// A tool that is about named groups: one operation for each.
    async fn groups<Q, A>(
        &self,
        tool: Tool,
        request: Request<Q>,
        parse: Parse<Q>,
        present: Present<A>,
    ) -> Result<Response<A>, Status>
    where
        Q: Clone + Send + Sync + 'static,
        A: 'static,
    {
        self.call(tool, request, move |entered| Box::pin(async move { Ok(present(entered.groups(parse).await?)) }))
            .await
    }
}

impl<Q: Clone> Entered<Q> {
    /// Reads the request, against what the caller may know of. A name that is not known may be one that a group's owner
    /// has opted in since anyone looked; one that is hidden causes the same look, so that it cannot be told from it.
    async fn read<T>(
        &self,
        parse: impl Fn(&Self, Context<'_>) -> Result<T, Error>,
        known: impl Fn(&T) -> Known,
    ) -> Result<T, Error> {
        let broker = &self.service.broker;
        let places = broker.targets().places(None, None)?;
        let parse = || {
            let sight = broker.sight(Arc::clone(&self.caller), broker.targets());
            parse(self, broker.context(&sight))
        };
        // What policies speak of is read before the first decision.
        let mut missed = match broker.reads_descriptions() {
            true => broker.discover(&places, STILL_OPTED_IN).await,
            false => Vec::new(),
        };
        let first = parse();
        let older_than = match first.as_ref().map(known) {
            Ok(Known::Configured) => None,
            Ok(Known::OptedIn) => Some(STILL_OPTED_IN),
            Ok(Known::ById) => Some(LOOK_AGAIN),
            Err(error) => (error.reason() == "SECURITY_GROUP_UNKNOWN").then_some(LOOK_AGAIN),
        };
        let read = match older_than {
            None => first,
            Some(older_than) => {
                missed = broker.discover(&places, older_than).await;
                parse()
            }
        };
        read.map_err(|error| {
            let error = broker.unless_unread(error, &missed);
            broker.refuse(self.tool, &self.call, Some(&self.caller), error)
        })
    }

    /// Performs one operation for each group that is named. What fails in one does not keep the others back.
    async fn groups(self, parse: Parse<Q>) -> Result<Vec<Part>, Error> {
        let broker = &self.service.broker;
        let operations = self
            .read(
                |this, context| parse(this.message.clone(), this.call.clone(), context),
                |operations| least_known(operations),
            )
            .await?;
        let groups: Vec<String> = operations.iter().map(|operation| operation.scope().label()).collect();
        tracing::Span::current().record("whitelistmcp.target", groups.join(", "));
        let parts = futures_util::stream::iter(operations).map(|operation| {
            let shown = Shown::of(&operation, &self.caller, broker, &self.service.reconciler);
            let performed = broker.perform(Arc::clone(&self.caller), &self.admitted, operation, self.deadline);
            async move { Part { shown, result: performed.await } }
        });
        let mut parts: Vec<Part> = parts.buffered(AT_ONCE).collect().await;
        // With nothing done anywhere the whole call has failed, and the first refusal says why.
        if !parts.is_empty() && parts.iter().all(|part| part.result.is_err()) {
            if let Some(waiting) = all_that_waits(&parts) {
                return Err(waiting);
            }
            parts.swap_remove(0).result?;
        }
        Ok(parts)
    }
}

/// What waits for somebody's word in several groups, as one refusal that names every request.
fn all_that_waits(parts: &[Part]) -> Option<Error> {
    let waiting: Vec<&Error> = parts
        .iter()
        .filter_map(|part| part.result.as_ref().err().filter(|error| error.reason() == "APPROVAL_NEEDED"))
        .collect();
    let first = waiting.first()?;
    if parts.len() == 1 {
        return None;
    }
    let of = |name: &str, error: &Error| {
        error.facts().iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    // What is refused beside it is said as well.
    let errors = parts.iter().filter_map(|part| part.result.as_ref().err());
    let text = errors.map(Error::message).collect::<Vec<_>>().join("; ");
    let ids: Vec<String> = waiting.iter().map(|error| of("approval", error)).collect();
    let error = Error::new(first.code(), first.reason(), text);
    let from: Vec<String> = waiting.iter().map(|error| of("approval_from", error)).collect();
    Some(error.fact("approval", ids.join(",")).fact("approval_from", from.join(",")))
}

/// How well the least known of the groups is known.
fn least_known(operations: &[Operation]) -> Known {
    let known = |wanted| {
        operations.iter().any(|operation| operation.scope().group().is_some_and(|target| target.known() == wanted))
    };
    match (known(Known::ById), known(Known::OptedIn)) {
        (true, _) => Known::ById,
        (false, true) => Known::OptedIn,
        (false, false) => Known::Configured,
    }
}

fn timeout(metadata: &MetadataMap) -> std::time::Duration {
    let asked = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    let whole = asked.unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX);
    // A caller's own clock started earlier: the last tenth is for the answer's way back.
    whole - whole / 10
}

async fn leases(entered: Entered<pb::ListLeasesRequest>) -> Result<pb::ListLeasesResponse, Error> {
    let broker = &entered.service.broker;
    let searches = entered
        .read(
            |this, context| Operation::find_leases(this.message.clone(), this.call.clone(), context),
            |_| Known::Configured,
        )
        .await?;
    let (found, missed) = broker.search(&entered.caller, &entered.admitted, searches, entered.deadline).await;
    if found.is_empty() && !missed.is_empty() {
        // Nothing was found because nothing could be asked, or may be.
        let mut missed = missed;
        return Err(missed.swap_remove(0).error);
    }
    Ok(present::leases(&entered.caller, &entered.call, &entered.message, broker.now(), found, missed))
}

async fn targets(entered: Entered<pb::ListTargetsRequest>) -> Result<pb::ListTargetsResponse, Error> {
    let broker = &entered.service.broker;
    let sight = broker.sight(Arc::clone(&entered.caller), broker.targets());
    let read = Operation::find_targets(&entered.message, broker.context(&sight));
    let (places, name) =
        read.map_err(|error| broker.refuse(entered.tool, &entered.call, Some(&entered.caller), error))?;
    let missed = broker.discover(&places, FRESH).await;
    let groups = broker.groups(&entered.caller, &places, name.as_deref(), &broker.targets());
    Ok(present::targets(&entered.call, name.as_deref(), groups, missed))
}

async fn revoke_holder(entered: Entered<pb::RevokeHolderRequest>) -> Result<pb::RevokeHolderResponse, Error> {
    let broker = &entered.service.broker;
    let (searches, leaver) = entered
        .read(|this, context| Operation::find_holder(&this.message, &this.call, context), |_| Known::Configured)
        .await?;
    let ended = broker.end_holder(&entered.caller, &entered.admitted, searches, &leaver, entered.deadline).await?;
    let parts = ended.groups.into_iter().map(|(operation, result)| {
        let shown = Shown::of(&operation, &entered.caller, broker, &entered.service.reconciler);
        Part { shown, result }
    });
    Ok(present::holder_revoked(&entered.call, &leaver, parts.collect(), ended.missed))
}

#[tonic::async_trait]
impl WhitelistService for Service {
    async fn add_rule(&self, request: Request<pb::AddRuleRequest>) -> Result<Response<pb::AddRuleResponse>, Status> {
        self.groups(Tool::Add, request, Operation::add, present::added).await
    }

    async fn remove_rules(
        &self,
        request: Request<pb::RemoveRulesRequest>,
    ) -> Result<Response<pb::RemoveRulesResponse>, Status> {
        self.groups(Tool::Remove, request, Operation::remove, present::removed).await
    }

    async fn extend_leases(
        &self,
        request: Request<pb::ExtendLeasesRequest>,
    ) -> Result<Response<pb::ExtendLeasesResponse>, Status> {
        self.groups(Tool::Extend, request, Operation::extend, present::extended).await
    }

    async fn move_leases(
        &self,
        request: Request<pb::MoveLeasesRequest>,
    ) -> Result<Response<pb::MoveLeasesResponse>, Status> {
        self.groups(Tool::Move, request, Operation::relocate, present::moved).await
    }

    async fn list_rules(
        &self,
        request: Request<pb::ListRulesRequest>,
    ) -> Result<Response<pb::ListRulesResponse>, Status> {
        self.groups(Tool::List, request, Operation::list, present::listed).await
    }

    async fn check_access(
        &self,
        request: Request<pb::CheckAccessRequest>,
    ) -> Result<Response<pb::CheckAccessResponse>, Status> {
        self.groups(Tool::Check, request, Operation::check, present::checked).await
    }

    async fn list_leases(
        &self,
        request: Request<pb::ListLeasesRequest>,
    ) -> Result<Response<pb::ListLeasesResponse>, Status> {
        let work: Work<_, _> = |entered| Box::pin(leases(entered));
        self.call(Tool::Leases, request, work).await
    }

    async fn list_targets(
        &self,
        request: Request<pb::ListTargetsRequest>,
    ) -> Result<Response<pb::ListTargetsResponse>, Status> {
        let work: Work<_, _> = |entered| Box::pin(targets(entered));
        self.call(Tool::Targets, request, work).await
    }

    async fn revoke_holder(
        &self,
        request: Request<pb::RevokeHolderRequest>,
    ) -> Result<Response<pb::RevokeHolderResponse>, Status> {
        let work: Work<_, _> = |entered| Box::pin(revoke_holder(entered));
        self.call(Tool::RevokeHolder, request, work).await
    }
}
