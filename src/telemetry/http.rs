//! OTLP over HTTP by the service's own HTTP stack.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;

use crate::http_client::{IDLE, Pooled, pooled};

/// The most bytes of an answer.
const ANSWER_MAX: usize = 1024 * 1024;

/// A client whose requests run on the runtime, whichever thread exports.
#[derive(Clone, Debug)]
pub(super) struct Client {
    hyper: Pooled,
    runtime: Handle,
}

impl Client {
    pub(super) fn new(tls: rustls::ClientConfig) -> Self {
        Self { hyper: pooled(tls, IDLE), runtime: Handle::current() }
    }
}

impl HttpClient for Client {
    /// How long it may take is the exporter's to say.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.hyper.clone();
        let sent = self.runtime.spawn(async move {
            let response = client.request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(parts, body))
        });
        Box::pin(async move { sent.await? })
    }
}
