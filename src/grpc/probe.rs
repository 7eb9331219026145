//! Whether the service behind an edge serves, asked by the gRPC health protocol now and then, so that a probe of the edge
//! itself is answered from what is known.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::client::Link;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is wrong with the service behind an edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It cannot be asked, or does not answer in words that can be read.
    #[error("{0}")]
    Away(String),
    /// It answers, and some part of it that it needs is not well: what it can do without that part it still does.
    #[error("it says that it is not ready")]
    NotReady,
}

/// What is known of the service behind an edge. Clones know the same.
#[derive(Clone, Debug)]
pub struct Backend {
    link: Link,
    problem: Arc<Mutex<Option<Problem>>>,
}

impl Backend {
    /// Nothing is known yet, and nothing is taken for wrong before it was asked.
    pub fn new(link: Link) -> Self {
        Self { link, problem: Arc::default() }
    }

    /// What was wrong when it was last asked.
    pub fn problem(&self) -> Option<Problem> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until it is stopped.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            let problem = match stop.run_until_cancelled(ask(&self.link)).await {
                None => return,
                Some(answer) => answer.err(),
            };
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    }
}

/// Asks once; what is wrong if it does not serve.
pub(super) async fn ask(link: &Link) -> Result<(), Problem> {
    let message = Bytes::from(HealthCheckRequest::default().encode_to_vec());
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = tokio::time::timeout(PATIENCE, link.unary(path, Request::new(message))).await;
    let answer = answer.map_err(|_| Problem::Away("it does not answer".to_owned()))?;
    let answer = answer.map_err(|status| Problem::Away(format!("it cannot be asked: {:?}", status.code())))?;
    match HealthCheckResponse::decode(answer.into_inner()).map(|answer| answer.status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(_) => Err(Problem::NotReady),
        Err(_) => Err(Problem::Away("its answer cannot be read".to_owned())),
    }
}
