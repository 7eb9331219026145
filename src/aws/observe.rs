//! What every request to AWS leaves in traces and metrics, in one place: a span of its own by the conventions for the AWS
//! SDK, and a measure of how long it took.

use std::time::Instant;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use crate::telemetry;

/// Watches requests. Its span is the child of whatever is entered when a request is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observe(pub(super) &'static str);

/// A request that is being watched.
#[derive(Debug)]
struct Watched {
    span: tracing::Span,
    begun: Instant,
}

/// How many times it was sent.
#[derive(Debug)]
struct Attempts(u32);

impl Storable for Watched {
    type Storer = StoreReplace<Self>;
}

impl Storable for Attempts {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Observe {
    fn name(&self) -> &'static str {
        "Observe"
    }

    // Before that, the operation's own name is not known.
    fn read_before_serialization(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let method = config.load::<Metadata>().map(|about| about.name().to_owned()).unwrap_or_default();
        let region = config.load::<aws_types::region::SigningRegion>().map(|region| region.as_ref().to_owned());
        let span = tracing::info_span!(
            "aws",
            otel.name = format!("{}.{method}", self.0),
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            rpc.system.name = "aws-api",
            rpc.service = self.0,
            rpc.method = method,
            cloud.region = region,
            aws.request_id = tracing::field::Empty,
            http.response.status_code = tracing::field::Empty,
            http.request.resend_count = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        config.interceptor_state().store_put(Watched { span, begun: Instant::now() });
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let before = config.load::<Attempts>().map_or(0, |attempts| attempts.0);
        config.interceptor_state().store_put(Attempts(before + 1));
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(Watched { span, begun }) = config.load::<Watched>() else { return Ok(()) };
        let response = context.response();
        let failed = context.output_or_error().is_none_or(|outcome| outcome.is_err());
        let error =
            failed.then(|| response.map_or("no_answer".to_owned(), |answer| answer.status().as_u16().to_string()));
        if let Some(response) = response {
            span.record("http.response.status_code", i64::from(response.status().as_u16()));
            let headers = response.headers();
            span.record("aws.request_id", headers.get("x-amzn-requestid").or_else(|| headers.get("x-amz-request-id")));
        }
        let resent = config.load::<Attempts>().map_or(0, |attempts| attempts.0.saturating_sub(1));
        if resent > 0 {
            span.record("http.request.resend_count", i64::from(resent));
        }
        if let Some(error) = &error {
            span.record("error.type", error);
            span.record("otel.status_code", "ERROR");
        }
        let method = config.load::<Metadata>().map(|about| about.name().to_owned()).unwrap_or_default();
        telemetry::record_aws(self.0, &method, error.as_deref(), begun.elapsed());
        Ok(())
    }
}
