//! The composition root: from a configuration to a running service. Everything is bound before anything is served, so
//! a busy port or a bad certificate fails at start.

mod local;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::annotations::{self, Annotations};
use crate::approval::{self, Approvals};
use crate::audit::{self, Audit, Journal};
use crate::aws::cache::Cache;
use crate::aws::session_policy::Actions;
use crate::aws::{self, Accounts, Aws};
use crate::broker::Broker;
use crate::broker::self_test::SelfTest;
use crate::broker::upkeep::{self, Reconciler, recover};
use crate::clock::{Clock, Monotonic};
use crate::config::Config;
use crate::edge::approvals::login::{Config as LoginConfig, Login, LoginError};
use crate::edge::{self, Edge};
use crate::error::Chain;
use crate::grpc::authn::Authenticator;
use crate::grpc::client::{Link, LinkError};
use crate::grpc::probe::{Backend, Problem};
use crate::grpc::server;
use crate::health::{Health, Part};
use crate::http_client::HttpClient;
use crate::identity::api_key::{self, ApiKeys};
use crate::identity::bearer::Verifier;
use crate::identity::oidc::{self, Issuers};
use crate::identity::peer::{self, Peers};
use crate::lambda::{self, Behind, Function};
use crate::limit::{self, Door, Limits};
use crate::listen::{Listener, PerAddress};
use crate::operation::Tool;
use crate::operation::target::{TargetError, Targets};
use crate::pb::DESCRIPTOR_SET;
use crate::policy::{self, Policies, Reload, reload_apart};
use crate::seal::Seal;
use crate::shared::{self, Condition, Shared};
use crate::shutdown::Shutdown;
use crate::telemetry;
use crate::tls::{self, ClientFiles, Current, Reloader, ServerFiles, ServerSet, TlsError};

pub use local::{Local, local};

/// A service that has bound its addresses.
#[derive(Debug)]
pub struct Bound {
    core: Option<(Listener, axum::Router)>,
    edge: Option<(Listener, axum::Router)>,
    /// The edge's address for WebSocket alone, if it has one.
    sockets: Option<(Listener, axum::Router)>,
    /// The address for probes alone, if there is one.
    probes: Option<(Listener, axum::Router)>,
    upkeep: Option<Upkeep>,
    reloads: Reloads,
}

/// What reads certificates again while the service runs.
struct Reloads {
    every: Duration,
    clock: Clock,
    servers: Vec<Reloader<ServerFiles>>,
    links: Vec<Reloader<ClientFiles>>,
    /// What is in force of them.
    ends: Vec<Ends>,
}

/// A part's certificates, and until when they are good.
type Ends = (&'static str, Box<dyn Fn() -> Timestamp + Send + Sync>);

/// What a core does for itself beside serving.
#[derive(Debug)]
struct Upkeep {
    policies: Reloading,
    broker: Arc<Broker>,
    reconciler: Arc<Reconciler>,
    audit: Audit,
    /// The journal that may have to be opened yet.
    journal: audit::Config,
    closes: bool,
    self_test: Option<(SelfTest, Duration)>,
    health: Health,
    reporter: HealthReporter,
}

/// The policies in force, and how often they are read again.
#[derive(Debug)]
struct Reloading {
    policies: Arc<Policies>,
    every: Duration,
}

/// How long a file that has changed is given until it is looked at once more.
const SETTLES: Duration = Duration::from_millis(500);

/// How often a journal that could not be opened is tried again.
const JOURNAL_AGAIN: Duration = Duration::from_secs(5);

/// How long a probe's connection may take to end, once everything else has.
const LAST_PROBES: Duration = Duration::from_secs(1);

/// How often a core tells its health service how it is.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The descriptor set of the service behind the edge.
    #[error("`[edge.backend] descriptors`: {path} cannot be read")]
    Descriptors {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A section that this service needs.
    #[error("the configuration has no `[{0}]`")]
    Missing(&'static str),
    /// `[edge]`
    #[error(transparent)]
    Edge(#[from] edge::ConfigError),
    /// `[oidc.NAME]`
    #[error("`[oidc]`")]
    Oidc(#[from] oidc::ConfigError),
    /// `[api_keys]`
    #[error("`[api_keys]`")]
    ApiKeys(#[from] api_key::FileError),
    /// `[[core.peers]]`
    #[error("`[[core.peers]]`")]
    Peers(#[from] peer::ConfigError),
    /// `[targets]`
    #[error("`[targets]`")]
    Targets(#[from] TargetError),
    /// `[aws]`
    #[error("`[aws]`")]
    Aws(#[from] aws::ConfigError),
    /// `[aws.cache]`
    #[error(transparent)]
    Cache(#[from] aws::cache::ConfigError),
    /// `[policy]`
    #[error("`[policy]`")]
    Policy(#[from] policy::LoadError),
    /// `[limits]`
    #[error(transparent)]
    Limits(#[from] limit::ConfigError),
    /// `[redis]`
    #[error(transparent)]
    Redis(#[from] shared::ConfigError),
    /// `[edge.login]`
    #[error(transparent)]
    Login(#[from] LoginError),
    /// `[approvals]`
    #[error("`[approvals]`")]
    Approvals(#[from] approval::ConfigError),
    /// `[audit]`
    #[error("`[audit]`")]
    Audit(#[from] audit::JournalError),
    /// A certificate, key or CA.
    #[error("TLS")]
    Tls(#[from] TlsError),
    /// The link from edge to core.
    #[error("`[edge.backend]`")]
    Link(#[from] LinkError),
    /// No secret could be made.
    #[error("the system gives no randomness")]
    Random,
    /// The embedded descriptors.
    #[error("the embedded descriptors")]
    Annotations(#[from] annotations::AnnotationError),
    /// The embedded descriptors' AWS annotations.
    #[error("the embedded descriptors")]
    Actions(#[from] aws::session_policy::AnnotationError),
    /// The embedded descriptors, for reflection.
    #[error("the embedded descriptors cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A configuration that is none of a function.
    #[error(transparent)]
    Function(#[from] lambda::ConfigError),
    /// An address.
    #[error("{address} cannot be bound")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The core alone.
pub async fn core(config: &Config, shutdown: &Shutdown) -> Result<Bound, StartError> {
    let section = config.core.as_ref().ok_or(StartError::Missing("core"))?;
    let verifier = if knows_bearers(config) { Some(verifier(config)?) } else { None };
    let mut reloads = Reloads::new(config);
    let tls = reloads.server(section.files())?;
    let listener = bind(section.listen, Some(tls), section.per_address()).await?;
    let probes = probes(config).await?;
    let reach = reach(config).await?;
    let (routes, upkeep) =
        core_routes(config, reach, shared(config)?, verifier, peers(config)?, reloads.part(), shutdown).await?;
    let core = Some((listener, routes.into_axum_router()));
    let probes = probes.map(|listener| (listener, upkeep.health.router()));
    Ok(Bound { core, edge: None, sockets: None, probes, upkeep: Some(upkeep), reloads })
}

/// The edge alone, in front of a core in another process.
pub async fn edge(config: &Config, shutdown: &Shutdown) -> Result<Bound, StartError> {
    let section = config.edge.as_ref().ok_or(StartError::Missing("edge"))?;
    let backend = section.backend.as_ref().ok_or(StartError::Missing("edge.backend"))?;
    let verifier = verifier(config)?;
    section.check()?;
    let mut reloads = Reloads::new(config);
    let tls = section.files().map(|files| reloads.server(files)).transpose()?;
    let listeners = Listeners::bind(section, tls).await?;
    let probes = probes(config).await?;
    let (link, reloader) = Link::remote(backend, reloads.clock.clone())?;
    reloads.links.push(reloader);
    let shared = shared(config)?;
    if let Some(shared) = &shared {
        shared.connect_soon();
    }
    let limits = Door::new(limits(config)?, shared.clone());
    let (keys, behind) = (Arc::clone(&verifier), Backend::new(link.clone()));
    let (away, unready) = (behind.clone(), behind.clone());
    let parts = vec![
        Part::needed("core", move || {
            away.problem().filter(|problem| matches!(problem, Problem::Away(_))).map(|problem| problem.to_string())
        }),
        // A core whose journal is down lists and checks, and says what it cannot do: without the edge nobody would hear it.
        Part::told("core.ready", move || {
            unready.problem().filter(|problem| *problem == Problem::NotReady).map(|problem| problem.to_string())
        }),
        Part::told("keys", move || keys.problem()),
        reloads.part(),
    ];
    let health = Health::new(parts, shutdown.ending());
    shutdown.tasks().spawn(behind.watch(shutdown.token()));
    let probes = probes.map(|listener| (listener, health.router()));
    let edge = Arc::new(edge_over(config, section, verifier, link, limits, health, shared)?);
    let (edge, sockets) = listeners.route(&edge);
    Ok(Bound { core: None, edge: Some(edge), sockets, probes, upkeep: None, reloads })
}

/// Edge and core in one process: the same service, called in memory. With a `[core]` section the core serves other
/// peers by mTLS as well.
pub async fn serve(config: &Config, shutdown: &Shutdown) -> Result<Bound, StartError> {
    let section = config.edge.as_ref().ok_or(StartError::Missing("edge"))?;
    let verifier = verifier(config)?;
    let peers = peers(config)?.with_in_process_edge();
    section.check()?;
    let mut reloads = Reloads::new(config);
    let tls = section.files().map(|files| reloads.server(files)).transpose()?;
    let listeners = Listeners::bind(section, tls).await?;
    let core = match &config.core {
        None => None,
        Some(core) => Some(bind(core.listen, Some(reloads.server(core.files())?), core.per_address()).await?),
    };
    let probes = probes(config).await?;
    let shared = shared(config)?;
    let (reach, checks) = (reach(config).await?, Arc::clone(&verifier));
    let (routes, upkeep) =
        core_routes(config, reach, shared.clone(), Some(checks), peers, reloads.part(), shutdown).await?;
    let core = core.map(|listener| (listener, routes.clone().into_axum_router()));
    let limits = Door::new(limits(config)?, shared.clone());
    let edge = edge_over(config, section, verifier, Link::local(routes), limits, upkeep.health.clone(), shared)?;
    let (edge, sockets) = listeners.route(&Arc::new(edge));
    let probes = probes.map(|listener| (listener, upkeep.health.router()));
    Ok(Bound { core, edge: Some(edge), sockets, probes, upkeep: Some(upkeep), reloads })
}

/// The service as a function, to which a platform hands single requests: the edge, and the core in the same process unless
/// `[edge.backend]` says that it is elsewhere. Nothing is listened on.
pub async fn function(config: &Config, shutdown: &Shutdown) -> Result<Function, StartError> {
    let section = config.edge.clone().ok_or(StartError::Missing("edge"))?;
    let section = section.handed_over().map_err(lambda::ConfigError::from)?;
    if config.approvals.is_some() && config.redis.is_none() && section.backend.is_none() {
        return Err(lambda::ConfigError::Approvals.into());
    }
    let verifier = verifier(config)?;
    let mut reloads = Reloads::new(config);
    let shared = shared(config)?;
    let limits = Door::new(limits(config)?, shared.clone());
    let keys = Arc::clone(&verifier);
    let (link, health, behind) = if let Some(backend) = &section.backend {
        let (link, reloader) = Link::remote(backend, reloads.clock.clone())?;
        reloads.links.push(reloader);
        if let Some(shared) = &shared {
            shared.connect_soon();
        }
        let parts = vec![Part::told("keys", move || keys.problem()), reloads.part()];
        (link, Health::new(parts, shutdown.ending()), None)
    } else {
        if config.core.is_some() {
            tracing::info!("`[core]` is not served by a function: nobody can connect to it");
        }
        if config.leases.close {
            tracing::info!(
                "a function is frozen between its calls: what has ended is closed when the schedule's event comes"
            );
        }
        // What would go on by itself does not.
        let mut config = config.clone();
        (config.leases.close, config.health.self_test) = (false, None);
        let peers = peers(&config)?.with_in_process_edge();
        let reach = reach(&config).await?;
        let (routes, upkeep) =
            core_routes(&config, reach, shared.clone(), Some(keys), peers, reloads.part(), shutdown).await?;
        let Upkeep { policies, broker, reconciler, audit, journal, health, .. } = upkeep;
        let Reloading { policies, every: reload } = policies;
        if audit.keeps_a_journal() {
            // It only reads AWS, and what is frozen in the midst of it goes on with the next event.
            shutdown.tasks().spawn(recover::run(Arc::clone(&broker), shutdown.token()));
        }
        (
            Link::local(routes),
            health,
            Some(Behind {
                audit,
                journal,
                broker,
                reconciler,
                policies,
                reload,
                tasks: shutdown.tasks(),
                stop: shutdown.token(),
            }),
        )
    };
    reloads.start(shutdown);
    let edge = edge_over(config, &section, verifier, link, limits, health, shared)?;
    Ok(Function::new(edge, behind, Clock::system()))
}

impl Bound {
    /// The core's address.
    pub fn core_address(&self) -> Option<SocketAddr> {
        self.core.as_ref().map(|(listener, _)| listener.address())
    }

    /// The edge's address.
    pub fn edge_address(&self) -> Option<SocketAddr> {
        self.edge.as_ref().map(|(listener, _)| listener.address())
    }

    /// The edge's address for WebSocket alone.
    pub fn websocket_address(&self) -> Option<SocketAddr> {
        self.sockets.as_ref().map(|(listener, _)| listener.address())
    }

    /// The address for probes alone.
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(|(listener, _)| listener.address())
    }

    /// Serves until the shutdown, and returns when everything has finished; false if some of it had to be cut off.
    pub async fn run(self, shutdown: &Shutdown) -> bool {
        // Probes are answered for as long as anything runs: a process that drains is alive, and says that it is not ready.
        let (last, asked) = (CancellationToken::new(), TaskTracker::new());
        if let Some((listener, router)) = self.probes {
            tracing::info!(address = %listener.address(), "probes are answered");
            asked.spawn(listener.serve("probes", router, last.clone(), asked.clone()));
        }
        for (door, what, bound) in [
            ("core", "core", self.core),
            ("edge", "edge", self.edge),
            ("edge", "edge, for WebSockets alone,", self.sockets),
        ] {
            if let Some((listener, router)) = bound {
                tracing::info!(address = %listener.address(), "{what} is listening");
                shutdown.tasks().spawn(listener.serve(door, router, shutdown.token(), shutdown.tasks()));
            }
        }
        if let Some(upkeep) = self.upkeep {
            upkeep.start(shutdown);
        }
        self.reloads.start(shutdown);
        let finished = shutdown.finished().await;
        last.cancel();
        asked.close();
        tokio::time::timeout(LAST_PROBES, asked.wait()).await.unwrap_or_default();
        finished
    }
}

impl std::fmt::Debug for Reloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloads").field("every", &self.every).finish_non_exhaustive()
    }
}

impl Reloads {
    fn new(config: &Config) -> Self {
        Self {
            every: config.tls.reload,
            clock: Clock::system(),
            servers: Vec::new(),
            links: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Reads a listener's files, now and from now on.
    fn server(&mut self, files: ServerFiles) -> Result<Current<ServerSet>, TlsError> {
        let (reloader, current) = Reloader::new(files, self.clock.clone())?;
        self.ends.push(reloader.until());
        self.servers.push(reloader);
        Ok(current)
    }

    /// Whether every certificate that is in force is still good.
    fn part(&mut self) -> Part {
        self.ends.extend(self.links.iter().map(Reloader::until));
        let (ends, clock) = (std::mem::take(&mut self.ends), self.clock.clone());
        Part::needed("certificates", move || {
            let ended = ends.iter().map(|(part, until)| (part, until())).find(|(_, until)| *until <= clock.now());
            ended.map(|(part, until)| format!("those of {part} ended at {until}"))
        })
    }

    /// Reads them again and again, until the shutdown.
    fn start(self, shutdown: &Shutdown) {
        for reloader in self.servers {
            shutdown.tasks().spawn(reloader.run(self.every, shutdown.reloads(), shutdown.token()));
        }
        for reloader in self.links {
            shutdown.tasks().spawn(reloader.run(self.every, shutdown.reloads(), shutdown.token()));
        }
    }
}

impl Upkeep {
    /// Closes what has ended, recovers what was cut off, and tells how the core is, until the shutdown.
    fn start(self, shutdown: &Shutdown) {
        let Self { policies, broker, reconciler, audit, journal, closes, self_test, health, reporter } = self;
        shutdown.tasks().spawn(policies.run(shutdown.reloads(), shutdown.token()));
        if let Some((self_test, every)) = self_test {
            shutdown.tasks().spawn(self_test.run(every, shutdown.token()));
        }
        let (stop, tasks, recovers) = (shutdown.token(), shutdown.tasks(), Arc::clone(&broker));
        shutdown.tasks().spawn(async move {
            open_late(&audit, &journal, &stop).await;
            if audit.keeps_a_journal() {
                tasks.spawn(recover::run(recovers, stop));
                if closes {
                    tasks.spawn(reconciler.run());
                }
            }
        });
        let (stop, ending) = (shutdown.token(), shutdown.ending());
        shutdown.tasks().spawn(async move {
            loop {
                let status = if health.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status(server::SERVICE, status).await;
                reporter.set_service_status("", status).await;
                let configured = |name: &str| name != server::REDIS || broker.limits().condition().is_some();
                for (name, problem) in health.parts().into_iter().filter(|(name, _)| configured(name)) {
                    let up = problem.is_none();
                    let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
                    reporter.set_service_status(name, status).await;
                }
                broker.compare_clocks();
                broker.write_counted(stop.is_cancelled());
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = ending.cancelled(), if !ending.is_cancelled() => {}
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(HEALTH_EVERY) => {}
                }
            }
        });
    }
}

/// Opens a journal that could not be opened at the start, as soon as it can be.
async fn open_late(audit: &Audit, config: &audit::Config, stop: &CancellationToken) {
    while audit.awaits_its_journal() {
        if stop.run_until_cancelled(tokio::time::sleep(JOURNAL_AGAIN)).await.is_none() {
            return;
        }
        audit.open_late(config).await;
    }
}

impl Reloading {
    /// Reads the policies again and again, until the shutdown.
    async fn run(self, mut asked: watch::Receiver<u64>, stop: CancellationToken) {
        let mut wait = self.every;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                Ok(()) = asked.changed() => {}
            }
            let seen = reload_apart(&self.policies).await;
            // What has changed is believed once it is seen to be the same twice: soon, if somebody waits for it.
            wait = if seen == Reload::Changed { self.every.min(SETTLES) } else { self.every };
        }
    }
}

/// A reconciler without a service around it, for one round.
pub async fn reconciler(config: &Config, shutdown: &Shutdown) -> Result<Arc<Reconciler>, StartError> {
    Ok(core_parts(config, reach(config).await?, shared(config)?, shutdown).await?.reconciler)
}

/// The targets that the configuration names, checked.
pub fn targets(config: &Config) -> Result<(Accounts, Targets), StartError> {
    let accounts = Accounts::new(&config.aws)?;
    let targets = Targets::new(&config.targets, accounts.regions())?;
    Ok((accounts, targets))
}

/// What the service behind the edge says of its tools: the product's own core, or another service whose descriptor set the
/// configuration names.
pub fn annotations(config: &Config) -> Result<Annotations, StartError> {
    let backend = config.edge.as_ref().and_then(|edge| edge.backend.as_ref());
    let Some(path) = backend.and_then(|backend| backend.descriptors.as_ref()) else {
        return Ok(Annotations::read(DESCRIPTOR_SET)?);
    };
    let set = std::fs::read(path).map_err(|source| StartError::Descriptors { path: path.clone(), source })?;
    Ok(Annotations::read(&set)?)
}

/// The peers that the configuration names, checked.
pub fn peers(config: &Config) -> Result<Peers, StartError> {
    let annotations = Annotations::read(DESCRIPTOR_SET)?;
    let scopes: Vec<String> = annotations.scopes().scopes().map(str::to_owned).collect();
    let configs = config.core.as_ref().map(|core| core.peers.as_slice()).unwrap_or_default();
    Ok(Peers::new(configs, scopes.iter().map(String::as_str))?)
}

/// What replicas share, where the configuration says so.
pub fn shared(config: &Config) -> Result<Option<Shared>, StartError> {
    Ok(config.redis.as_ref().map(Shared::new).transpose()?)
}

/// The API keys of the file that the configuration names, if it does.
pub fn api_keys(config: &Config) -> Result<Option<ApiKeys>, StartError> {
    let Some(section) = &config.api_keys else { return Ok(None) };
    let annotations = annotations(config)?;
    let scopes = annotations.scopes().scopes().map(str::to_owned).collect();
    Ok(Some(ApiKeys::open(section, scopes, Monotonic::system())?))
}

/// The limits that the configuration sets, checked.
pub fn limits(config: &Config) -> Result<limit::Config, StartError> {
    config.limits.check()?;
    Ok(config.limits.clone())
}

/// What a core can reach, and by which way.
struct Reach {
    aws: Aws,
    targets: Targets,
}

/// By the roles that the configuration names.
async fn reach(config: &Config) -> Result<Reach, StartError> {
    let (accounts, targets) = targets(config)?;
    // Boxed, as it is done once and would be large in every future that waits for it.
    let aws = Box::pin(Aws::new(&config.aws, accounts, Clock::system())).await?;
    Ok(Reach { aws, targets })
}

async fn core_routes(
    config: &Config,
    reach: Reach,
    shared: Option<Shared>,
    verifier: Option<Arc<Verifier>>,
    peers: Peers,
    certificates: Part,
    shutdown: &Shutdown,
) -> Result<(tonic::service::Routes, Upkeep), StartError> {
    let Parts { policies, broker, reconciler, audit } = core_parts(config, reach, shared, shutdown).await?;
    let keys = verifier.clone();
    let closes = config.leases.close;
    let (kept, keeps) = (audit.clone(), audit.clone());
    let journal = move || kept.problem().or_else(|| kept.objection().map(str::to_owned));
    let late = Arc::clone(&reconciler);
    let closing = move || {
        let lag = late.lag();
        (closes && keeps.keeps_a_journal() && lag > upkeep::LATE).then(|| format!("{} s late", lag.as_secs()))
    };
    let (asked, redis) = (Arc::clone(&reconciler), Arc::clone(&broker));
    let self_test = config.health.self_test.map(|every| (SelfTest::new(Arc::clone(&broker)), every));
    let tested = self_test.as_ref().map(|(self_test, _)| self_test.clone());
    let lends = tested.clone();
    let mut parts = vec![
        Part::needed("journal", journal),
        // Who calls is told what AWS or the issuer has; nobody is served better by a core that is taken away. What keeps one core
        // from closing, an account without its role or AWS itself, keeps all of them.
        Part::told("reconciler", closing),
        Part::told("aws", move || asked.unreachable().or_else(|| tested.as_ref().and_then(SelfTest::unreachable))),
        Part::told("sts", move || lends.as_ref().and_then(SelfTest::refused)),
        Part::told("keys", move || keys.as_ref().and_then(|keys| keys.problem())),
        Part::told("redis", move || {
            (redis.limits().condition() == Some(Condition::Down)).then(|| "it does not answer".to_owned())
        }),
    ];
    parts.push(certificates);
    let health = Health::new(parts, shutdown.ending());
    let authenticator = Authenticator::new(peers, verifier, Annotations::read(DESCRIPTOR_SET)?);
    let (routes, reporter) =
        server::routes(Arc::clone(&broker), Arc::clone(&reconciler), Arc::new(authenticator)).await?;
    let policies = Reloading { policies, every: config.policy.reload };
    let journal = config.audit.clone();
    Ok((routes, Upkeep { policies, broker, reconciler, audit, journal, closes, self_test, health, reporter }))
}

/// What a core is made of.
struct Parts {
    policies: Arc<Policies>,
    broker: Arc<Broker>,
    reconciler: Arc<Reconciler>,
    audit: Audit,
}

async fn core_parts(
    config: &Config,
    Reach { aws, targets }: Reach,
    shared: Option<Shared>,
    shutdown: &Shutdown,
) -> Result<Parts, StartError> {
    let clock = Clock::system();
    let limits = limits(config)?;
    if let Some(shared) = &shared {
        shared.connect_soon();
    }
    let limits = Arc::new(Limits::new(limits, shared.clone()));
    let policies = Arc::new(Policies::load(&config.policy)?);
    let cache = cache(config, shared.clone(), &clock)?;
    let aws = aws.with_cache(cache);
    telemetry::begin_at_zero(Tool::ALL.into_iter().filter(|tool| tool.can_change()).map(Tool::name));
    let actions = Actions::embedded()?;
    let approvals = approvals_over(config, shared, &clock)?;
    if approvals.is_none() && policies.current().wants_approvals() {
        tracing::warn!(
            "policies want somebody's word, and without `[approvals]` nobody is asked: what they want vouched for is refused"
        );
    }
    // The journal is opened last: what is wrong with the configuration has been said, and left no file.
    let audit = match Journal::open(&config.audit, clock.clone()) {
        Ok(journal) => {
            tell_of(journal.as_ref());
            Audit::new(journal)
        }
        Err(error) if error.may_pass() => {
            tracing::error!(
                error = %Chain(&error),
                "the audit journal cannot be opened: this core lists and checks, changes nothing, and tries again"
            );
            Audit::unopened(error)
        }
        Err(error) => return Err(error.into()),
    };
    let leases = config.leases.clone();
    let broker = Broker::new(
        Arc::clone(&policies),
        audit.clone(),
        aws,
        actions,
        approvals,
        targets,
        leases,
        clock,
        shutdown.tasks(),
        limits,
    );
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&broker), shutdown.token()));
    Ok(Parts { policies, broker, reconciler, audit })
}

/// Says in the log whether there is a journal, and whether changes may be made on its word.
fn tell_of(journal: Option<&Journal>) {
    match journal {
        Some(journal) => journal.tell(),
        None => {
            tracing::warn!("no `[audit] directory` is configured: this core lists and checks, and changes nothing");
        }
    }
}

/// The edge's addresses, bound and not yet served.
struct Listeners {
    edge: Listener,
    sockets: Option<Listener>,
}

impl Listeners {
    async fn bind(section: &edge::Config, tls: Option<Current<ServerSet>>) -> Result<Self, StartError> {
        let sockets = match section.websocket_listen {
            Some(address) => Some(bind(address, tls.clone(), section.per_address()).await?),
            None => None,
        };
        Ok(Self { edge: bind(section.listen, tls, section.per_address()).await?, sockets })
    }

    /// Each with what is served there.
    fn route(self, edge: &Arc<Edge>) -> ((Listener, axum::Router), Option<(Listener, axum::Router)>) {
        let sockets = self.sockets.map(|listener| (listener, edge::router::sockets(edge)));
        ((self.edge, edge::router::router(edge)), sockets)
    }
}

fn edge_over(
    config: &Config,
    section: &edge::Config,
    verifier: Arc<Verifier>,
    link: Link,
    limits: Door,
    health: Health,
    shared: Option<Shared>,
) -> Result<Edge, StartError> {
    let annotations = annotations(config)?;
    let approvals = section.login.as_ref().map(|login| approval_page(config, section, login)).transpose()?;
    let edge = Edge::new(section.clone(), verifier, link, annotations, limits, health, shared)?;
    Ok(edge.with_approvals(approvals))
}

/// Where requests for approval would be kept, if the configuration names a place; nothing is asked of it.
pub fn approvals(config: &Config) -> Result<Option<Approvals>, StartError> {
    approvals_over(config, shared(config)?, &Clock::system())
}

fn approvals_over(config: &Config, shared: Option<Shared>, clock: &Clock) -> Result<Option<Approvals>, StartError> {
    let approvals = config.approvals.as_ref().map(|section| Approvals::new(section, shared, clock.clone()));
    Ok(approvals.transpose()?)
}

/// What is remembered of what AWS said, where the configuration says so.
pub fn cache(config: &Config, shared: Option<Shared>, clock: &Clock) -> Result<Option<Cache>, StartError> {
    let new = |section| Cache::new(section, shared, config.leases.settle, clock.clone());
    Ok(config.aws.cache.as_ref().map(new).transpose()?)
}

/// Whether some policy asks for somebody's word; not where the policies cannot be loaded.
pub fn wants_approvals(config: &Config) -> bool {
    Policies::load(&config.policy).is_ok_and(|policies| policies.current().wants_approvals())
}

/// Whether the edge has a page on which people decide, everything about it being sound.
pub fn has_approval_page(config: &Config) -> Result<bool, StartError> {
    let page = config.edge.as_ref().and_then(|section| Some((section, section.login.as_ref()?)));
    page.map(|(section, login)| approval_page(config, section, login)).transpose().map(|page| page.is_some())
}

fn approval_page(
    config: &Config,
    section: &edge::Config,
    login: &LoginConfig,
) -> Result<edge::approvals::Approvals, StartError> {
    let issuer = config.oidc.get(&login.issuer).ok_or_else(|| LoginError::Issuer(login.issuer.clone()))?;
    let http = HttpClient::new(tls::public_client(issuer.ca.as_deref())?);
    let seal = match &login.key_file {
        Some(file) => Seal::from_file(file).map_err(LoginError::Key)?,
        None => Seal::random().map_err(LoginError::Key)?,
    };
    let login = Login::new(login, issuer, section.public_url.clone(), http)?;
    Ok(edge::approvals::Approvals::new(login, seal, Clock::system()))
}

fn knows_bearers(config: &Config) -> bool {
    !config.oidc.is_empty() || config.api_keys.is_some()
}

fn verifier(config: &Config) -> Result<Arc<Verifier>, StartError> {
    if !knows_bearers(config) {
        return Err(StartError::Missing("oidc.NAME"));
    }
    let client =
        |issuer: &oidc::Config| Ok::<_, StartError>(HttpClient::new(tls::public_client(issuer.ca.as_deref())?));
    let issuers = Issuers::new(&config.oidc, client)?;
    Ok(Arc::new(Verifier::new(issuers, api_keys(config)?, Clock::system())))
}

/// The address for probes alone, bound and not yet served.
async fn probes(config: &Config) -> Result<Option<Listener>, StartError> {
    match config.health.listen {
        Some(address) => Ok(Some(bind(address, None, PerAddress::default()).await?)),
        None => Ok(None),
    }
}

async fn bind(
    address: SocketAddr,
    tls: Option<Current<ServerSet>>,
    per_address: PerAddress,
) -> Result<Listener, StartError> {
    let bound = Listener::bind(address, tls, per_address, Clock::system()).await;
    bound.map_err(|source| StartError::Bind { address, source })
}
