//! Services of the same process that are started when they are first needed, and tried again when that failed.
//!
//! So a process can take its first messages at once, and tell whoever calls what keeps it from serving them.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tonic::Status;
use tonic::service::Routes;

use super::status;
use crate::error::Error;

/// Services that may not be there yet. Clones start the same.
#[derive(Clone)]
pub struct Later(Arc<Inner>);

struct Inner {
    routes: OnceCell<Routes>,
    start: Box<dyn Fn() -> BoxFuture<'static, Result<Routes, Error>> + Send + Sync>,
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").field("started", &self.0.routes.initialized()).finish_non_exhaustive()
    }
}

impl Later {
    /// Services that are started so.
    pub fn new(start: impl Fn() -> BoxFuture<'static, Result<Routes, Error>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { routes: OnceCell::new(), start: Box::new(start) }))
    }

    /// The services; who asks while they are being started waits for the same start.
    pub async fn routes(&self) -> Result<Routes, Status> {
        let started = self.0.routes.get_or_try_init(|| (self.0.start)()).await;
        started.cloned().map_err(|error| status::to_status(&error))
    }
}
