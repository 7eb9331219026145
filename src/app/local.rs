//! The whole service for one person, without a server: MCP over stdin and stdout in front, their own AWS profile behind.
//!
//! The road of a call is the server's. What differs is who vouches for the caller ([`crate::identity::local`]), and how AWS is
//! reached ([`crate::aws::profile`]). The core is started when it is first needed: by then AWS must say whose profile it is,
//! and a client that starts its servers itself takes one that is slow to begin for one that is broken.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;

use super::{Reach, StartError, core_routes, limits, shared};
use crate::annotations::Annotations;
use crate::aws::profile::{Profile, ProfileError};
use crate::aws::{Accounts, Aws};
use crate::clock::Clock;
use crate::config::Config;
use crate::edge::{self, Edge};
use crate::error::{Chain, Code, Error};
use crate::grpc::client::Link;
use crate::grpc::later::Later;
use crate::health::{Health, Part};
use crate::identity::bearer::{Bearer, Verifier};
use crate::identity::local;
use crate::identity::peer::Peers;
use crate::identity::scope::Scopes;
use crate::limit::Door;
use crate::operation::target::{Region, Targets};
use crate::pb::DESCRIPTOR_SET;
use crate::policy::Policies;
use crate::shared::Shared;
use crate::shutdown::Shutdown;

/// The service of one person, which takes messages as soon as it is run.
#[derive(Debug)]
pub struct Local {
    edge: Arc<Edge>,
    secret: Bearer,
    core: Later,
}

/// Everything that the core is made of once it is needed.
struct Parts {
    config: Config,
    shared: Option<Shared>,
    profile: Profile,
    name: String,
    secret: Bearer,
    scopes: Scopes,
    shutdown: Shutdown,
}

/// The service of the person of that name. What can be checked without AWS is checked now.
pub async fn local(config: &Config, name: &str, shutdown: &Shutdown) -> Result<Local, StartError> {
    Policies::load(&config.policy)?;
    let limits = limits(config)?;
    let shared = shared(config)?;
    let profile = Profile::new(&config.aws, name, Clock::system())?;
    let annotations = Annotations::read(DESCRIPTOR_SET)?;
    let scopes: Scopes = annotations.scopes().scopes().map(str::to_owned).collect();
    let secret = Bearer::random().ok_or(StartError::Random)?;
    // The edge has nobody's word yet for who sits here. It counts for nobody but them.
    let at_edge = local::Local::new(&secret, name, name, scopes.clone());
    let verifier = Arc::new(Verifier::local(at_edge, Clock::system()));
    let parts = Parts {
        config: config.clone(),
        shared: shared.clone(),
        profile,
        name: name.to_owned(),
        secret: secret.clone(),
        scopes,
        shutdown: shutdown.clone(),
    };
    let parts = Arc::new(parts);
    let core = Later::new(move || {
        let parts = Arc::clone(&parts);
        Box::pin(async move { Box::pin(parts.start()).await })
    });
    let (health, door) = (Health::new(Vec::new(), shutdown.ending()), Door::new(limits, shared.clone()));
    let link = Link::later(core.clone());
    let edge = Edge::new(edge::Config::in_process(), verifier, link, annotations, door, health, shared)?;
    let edge = edge.with_instructions(instructions(config));
    Ok(Local { edge: Arc::new(edge), secret, core })
}

/// What a model is told besides what the tools are for.
fn instructions(config: &Config) -> &'static str {
    if config.aws.accounts.iter().any(|account| account.role_arn.is_some()) {
        "This server runs on the person's own machine, with their own AWS profile. For each call it borrows the role that is configured for the account; where none is, it uses the profile's own credentials, which nothing narrows. Access is closed at its end while this server runs, or else when it or another one next runs. `current` is not known here: ask for the address in figures."
    } else {
        "This server runs on the person's own machine, with their own AWS profile. No role is configured, so every call is made with the profile's own credentials, which nothing narrows. Access is closed at its end while this server runs, or else when it or another one next runs. `current` is not known here: ask for the address in figures."
    }
}

impl Local {
    /// Serves until `input` ends or the shutdown begins, and returns when what was begun has finished; false if some of it
    /// had to be cut off.
    pub async fn run(
        self,
        input: impl AsyncRead + Send + Unpin + 'static,
        output: impl AsyncWrite + Send + Unpin + 'static,
        shutdown: &Shutdown,
    ) -> std::io::Result<bool> {
        let (core, stop) = (self.core, shutdown.token());
        // Looked for before the first call, so that it need not wait; what is wrong is said on stderr by then.
        let early = tokio::spawn(async move { stop.run_until_cancelled(core.routes()).await.map(drop) });
        let served = edge::stdio::serve(self.edge, self.secret, input, output, shutdown.token()).await;
        shutdown.begin();
        early.await.unwrap_or_default();
        let finished = shutdown.finished().await;
        served.map(|()| finished)
    }
}

impl Parts {
    /// Starts the core, once AWS has said whose profile it is.
    async fn start(&self) -> Result<Routes, Error> {
        let Self { config, profile, .. } = self;
        let configured = config.aws.accounts.iter().flat_map(|account| &account.regions).next();
        let configured = configured.or(config.targets.region.as_ref()).and_then(|region| Region::parse(region).ok());
        let region = match profile.region().await? {
            Some(region) => region,
            None => configured.ok_or(ProfileError::NoRegion)?,
        };
        let identity = profile.identity(&region).await?;
        let accounts = Accounts::of_person(&config.aws, &identity, &region).map_err(|error| failed(&error))?;
        let mut targets = config.targets.clone();
        let here = |account: &String| *account == identity.account.as_str();
        if accounts.find(&identity.account).is_some() && targets.account.as_ref().is_none_or(here) {
            targets.account = Some(identity.account.to_string());
            targets.region.get_or_insert_with(|| region.to_string());
        }
        let targets = Targets::new(&targets, accounts.regions()).map_err(|error| failed(&error))?;
        let own = accounts.find(&identity.account).is_some_and(|account| !account.has_role());
        tracing::info!(
            account = %identity.account,
            region = %region,
            arn = identity.arn,
            credentials = if own { "own" } else { "borrowed" },
            "AWS says whose profile this is"
        );
        if own {
            tracing::warn!(
                account = %identity.account,
                "no role is configured for this account: calls are made with the profile's own credentials, which nothing narrows"
            );
        }
        let aws = Aws::of_person(&config.aws, accounts, profile.clone()).await.map_err(|error| failed(&error))?;
        let person = local::Local::new(&self.secret, &self.name, &identity.subject, self.scopes.clone());
        let verifier = Arc::new(Verifier::local(person, Clock::system()));
        let peers = Peers::new(&[], std::iter::empty()).map_err(|error| failed(&error))?.with_in_process_edge();
        let (reach, none) = (Reach { aws, targets }, Part::told("certificates", || None));
        let started =
            core_routes(config, reach, self.shared.clone(), Some(verifier), peers, none, &self.shutdown).await;
        let (routes, upkeep) = started.map_err(|error| failed(&error))?;
        upkeep.start(&self.shutdown);
        Ok(routes)
    }
}

/// Whoever calls is the operator: they are told all of it.
fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(Code::FailedPrecondition, "LOCAL_START_FAILED", Chain(error).to_string())
}
