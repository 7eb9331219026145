//! Traces: where a call's spans hang, and how the next service finds that.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` part of the trace that the caller sent, if it sent one.
pub fn continue_trace<'a>(span: &Span, read: impl Fn(&str) -> Option<&'a str>) {
    if read("traceparent").is_none() {
        return;
    }
    let context = extract(read);
    if context.span().span_context().is_valid() {
        // Without an exporter there is nothing to set it on, and nothing is lost.
        let _: Result<(), _> = span.set_parent(context);
    }
}

fn extract<'a>(read: impl Fn(&str) -> Option<&'a str>) -> opentelemetry::Context {
    struct From<'a, F>(F, std::marker::PhantomData<&'a str>);
    impl<'a, F: Fn(&str) -> Option<&'a str>> Extractor for From<'a, F> {
        fn get(&self, key: &str) -> Option<&str> {
            (self.0)(key)
        }
        fn keys(&self) -> Vec<&str> {
            vec!["traceparent", "tracestate"]
        }
    }
    TraceContextPropagator::new().extract(&From(read, std::marker::PhantomData))
}

/// Writes the current trace where the next service finds it.
pub fn inject_trace(write: impl FnMut(&str, String)) {
    struct Into<F>(F);
    impl<F: FnMut(&str, String)> Injector for Into<F> {
        fn set(&mut self, key: &str, value: String) {
            (self.0)(key, value);
        }
    }
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Into(write));
}

/// Ties `span` to the trace that the caller's HTTP request belongs to, where its message names another one.
pub fn link_trace<'a>(span: &Span, read: impl Fn(&str) -> Option<&'a str>) {
    let context = extract(read);
    let linked = context.span().span_context().clone();
    if linked.is_valid() {
        span.add_link(linked);
    }
}

/// Says on the current call's span what policy has decided, and by which policies.
pub fn decided(effect: &'static str, policies: &[String]) {
    let span = Span::current();
    span.record("whitelistmcp.decision", effect);
    span.record("whitelistmcp.policies", policies.join(","));
}

/// Says on the current call's span which session policy its power is limited by.
pub fn borrows(session_policy_sha256: &str) {
    Span::current().record("whitelistmcp.session_policy.sha256", session_policy_sha256);
}

/// Says on the current call's span by which ids AWS knows what it was asked.
pub fn asked_aws(request_ids: &[String]) {
    if !request_ids.is_empty() {
        Span::current().record("aws.request_ids", request_ids.join(","));
    }
}
