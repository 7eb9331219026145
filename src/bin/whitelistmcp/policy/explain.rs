//! `policy explain`: may they? Answered from the configuration and what the command line says of who asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use whitelistmcp::annotations::Annotations;
use whitelistmcp::app;
use whitelistmcp::approval::WhoseWord;
use whitelistmcp::broker::trial;
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::identity::{Supposed, SupposedKind};
use whitelistmcp::operation::Tool;
use whitelistmcp::operation::rule::Rule;
use whitelistmcp::operation::target::{Described, Descriptions, Targets};
use whitelistmcp::pb::DESCRIPTOR_SET;
use whitelistmcp::policy::Policy;

use super::ask::{Asked, Call, Verdict};
use super::table::FillIn;
use crate::{fail, say};

/// Who asks, and for what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file: its policies and its groups are asked.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: PathBuf,
    /// Who asks: the subject of their token, or the name in their certificate.
    #[arg(long)]
    who: String,
    /// What they are: person, service or api-key.
    #[arg(long, default_value = "person", value_parser = kind)]
    kind: SupposedKind,
    /// The name that people read; the subject unless given.
    #[arg(long)]
    name: Option<String>,
    /// Their issuer; the first of `[oidc]` unless given.
    #[arg(long)]
    issuer: Option<String>,
    /// Who answers for an API key.
    #[arg(long)]
    owner: Option<String>,
    /// A group that they are in; may be given several times.
    #[arg(long)]
    group: Vec<String>,
    /// A scope that they hold; every scope unless given.
    #[arg(long)]
    scope: Vec<String>,
    /// A claim of their token, as NAME=VALUE; may be given several times.
    #[arg(long, value_parser = pair)]
    claim: Vec<(String, String)>,
    /// The class of their login.
    #[arg(long)]
    acr: Option<String>,
    /// A method of their login; may be given several times.
    #[arg(long)]
    amr: Vec<String>,
    /// How many seconds ago they logged in.
    #[arg(long)]
    authenticated: Option<i64>,
    /// Who acts for them, the current actor first; may be given several times.
    #[arg(long)]
    actor: Vec<String>,
    /// The address that they call from.
    #[arg(long)]
    from: Option<IpAddr>,
    /// When, such as 2027-01-04T12:00:00Z; now unless given.
    #[arg(long)]
    at: Option<Timestamp>,
    /// The tool, such as `whitelist_add`.
    #[arg(long)]
    tool: String,
    /// The security group, by name or id.
    #[arg(long)]
    target: Option<String>,
    /// A tag of the security group, as KEY=VALUE, where policy speaks of tags; may be given several times.
    #[arg(long, value_parser = pair)]
    tag: Vec<(String, String)>,
    /// The VPC of the security group, where policy speaks of it.
    #[arg(long)]
    vpc: Option<String>,
    /// The address to open or close.
    #[arg(long)]
    address: Option<String>,
    /// The port.
    #[arg(long)]
    port: Option<String>,
    /// The protocol.
    #[arg(long)]
    protocol: Option<String>,
    /// For how long.
    #[arg(long)]
    duration: Option<String>,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
    /// Whose leases.
    #[arg(long)]
    holder: Option<String>,
    /// Another argument of the tool, as NAME=VALUE; may be given several times.
    #[arg(long, value_parser = pair)]
    argument: Vec<(String, String)>,
    /// Who holds what is to be closed, extended or moved: themselves unless given.
    #[arg(long)]
    held_by: Vec<String>,
}

/// The terms that are tried where one is refused, the longest first.
const TERMS: [&str; 5] = ["24h", "8h", "2h", "1h", "15m"];

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn kind(text: &str) -> Result<SupposedKind, String> {
    Ok(match text {
        "person" => SupposedKind::Person,
        "service" => SupposedKind::Service,
        "api-key" => SupposedKind::ApiKey,
        _ => return Err(format!("`{text}` is none of person, service and api-key")),
    })
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match explain(arguments) {
        Ok(code) => code,
        Err(error) => fail(error.as_ref()),
    }
}

fn explain(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = Config::load(&arguments.config, crate::environment())?;
    let annotations = Annotations::read(DESCRIPTOR_SET)?;
    let policy = Arc::new(Policy::load(&config.policy)?);
    let targets = arguments.described(app::targets(&config)?.1)?;
    let at = arguments.at.unwrap_or_else(|| Clock::system().now());
    let issuer = arguments.issuer.clone().or_else(|| config.oidc.values().next().map(|oidc| oidc.issuer.clone()));
    let who = arguments.who(issuer, &annotations);
    let asked = Asked { policy, targets: Arc::new(targets), annotations };
    let standing = arguments.standing(&who, at)?;
    let ask = |given: &Map<String, Value>| {
        let (tool, whole) = (arguments.tool.as_str(), Value::Object(given.clone()));
        asked.ask(&Call { who: &who, tool, arguments: &whole, from: arguments.from, at, standing: &standing })
    };
    let given = arguments.arguments();
    let verdict = ask(&given);
    let name = &arguments.who;
    let code = match &verdict {
        Verdict::Allow(allowed) => {
            let until = allowed.until.map(|until| format!(", until {until}")).unwrap_or_default();
            say(&format!("Yes: {name} may{until}."));
            if !allowed.policies.is_empty() {
                say(&format!("Permitted by: {}.", allowed.policies.join(", ")));
            }
            if !allowed.groups.is_empty() {
                say(&format!("Shown: {}.", allowed.groups.join(", ")));
            }
            ExitCode::SUCCESS
        }
        Verdict::Approval(_, demand) => {
            let whose = match demand.from {
                WhoseWord::Another => "another person has approved it",
                WhoseWord::Requester => "they have confirmed it by a login of their own",
            };
            say(&format!("Once {whose}: {name} may then."));
            demand.reasons.iter().for_each(|reason| say(&format!("{} (policy `{}`)", reason.message, reason.policy)));
            ExitCode::FAILURE
        }
        Verdict::Deny(policies, error) => {
            say(&format!("No: {name} may not."));
            say(error.message());
            if !policies.is_empty() {
                say(&format!("Refused by: {}.", policies.join(", ")));
            }
            ExitCode::FAILURE
        }
        Verdict::Unseen(error) => {
            say(&format!("No: {name} may not know of this group, and is told:"));
            say(error.message());
            ExitCode::FAILURE
        }
        Verdict::Scope(scope) => {
            say(&format!("No: this needs the scope `{scope}`, which {name} does not hold."));
            ExitCode::FAILURE
        }
        Verdict::Other(error) if error.reason() == "GROUPS_UNREAD" => {
            say("It depends on the group's tags or its VPC, which are AWS's to tell: give them by --tag and --vpc.");
            ExitCode::FAILURE
        }
        Verdict::Other(error) => {
            say(&format!("No: {}: {}", error.reason(), error.message()));
            ExitCode::FAILURE
        }
    };
    if !matches!(verdict, Verdict::Allow(_)) {
        let allowed = |other: &Map<String, Value>| matches!(ask(other), Verdict::Allow(_));
        let ways = arguments.less(&given);
        let others = ways.iter().filter_map(|ways| ways.iter().find(|(_, other)| allowed(other)));
        let others: Vec<&str> = others.map(|(how, _)| how.as_str()).collect();
        if !others.is_empty() {
            say(&format!("It would be allowed {}.", others.join(", or ")));
        }
    }
    let open = Tool::ALL.into_iter().filter(|tool| trial::may_call(&asked.policy, &who, *tool, at));
    let open: Vec<&str> = open.map(Tool::name).collect();
    say(&format!(
        "Tools that policy does not rule out for {name}, whatever the arguments: {}.",
        match open.as_slice() {
            [] => "none".to_owned(),
            open => open.join(", "),
        }
    ));
    Ok(code)
}

impl Arguments {
    fn who(&self, issuer: Option<String>, annotations: &Annotations) -> Supposed {
        let mut who = Supposed {
            kind: self.kind,
            name: self.name.clone(),
            issuer,
            subject: self.who.clone(),
            client: None,
            owner: self.owner.clone(),
            groups: self.group.iter().cloned().collect(),
            scopes: self.scope.iter().cloned().collect(),
            acr: self.acr.clone(),
            amr: self.amr.iter().cloned().collect(),
            authenticated: self.authenticated,
            actors: self.actor.clone(),
            claims: self.claim.iter().cloned().collect(),
        };
        who.fill_in(&self.who, annotations);
        who
    }

    /// What the tool is called with.
    fn arguments(&self) -> Map<String, Value> {
        // Openings and goodbyes need a reason; what it is decides nothing unless a policy speaks of it.
        let needs_reason = matches!(self.tool.as_str(), "whitelist_add" | "whitelist_revoke_holder");
        let reason = self.reason.clone().or_else(|| needs_reason.then(|| "as asked".to_owned()));
        let named = [
            ("security_group", &self.target),
            ("address", &self.address),
            ("port", &self.port),
            ("protocol", &self.protocol),
            ("duration", &self.duration),
            ("reason", &reason),
            ("holder", &self.holder),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let given = named.chain(self.argument.iter().cloned());
        given
            .map(|(name, value)| match value.as_str() {
                "true" | "false" => (name, Value::Bool(value == "true")),
                _ => (name, Value::String(value)),
            })
            .collect()
    }

    /// The groups, with what the command line says of the one that is asked for.
    fn described(&self, targets: Targets) -> Result<Targets, Box<dyn std::error::Error>> {
        let Some(name) = &self.target else { return Ok(targets) };
        if self.tag.is_empty() && self.vpc.is_none() {
            return Ok(targets);
        }
        let target = targets.resolve(name, None, None)?;
        let tags: BTreeMap<String, String> = self.tag.iter().cloned().collect();
        let described =
            Descriptions::from([(target.group().clone(), Arc::new(Described { vpc: self.vpc.clone(), tags }))]);
        Ok(targets.with_described(target.place(), Some(described)))
    }

    /// What stands, where something is to be closed, extended or moved: the rule that is meant.
    fn standing(&self, who: &Supposed, at: Timestamp) -> Result<Vec<Rule>, Box<dyn std::error::Error>> {
        let meant = matches!(self.tool.as_str(), "whitelist_remove" | "whitelist_extend" | "whitelist_move");
        let old = self.argument.iter().find(|(name, _)| name == "from_address").map(|(_, value)| value);
        let Some(address) = old.or(self.address.as_ref()).filter(|_| meant) else { return Ok(Vec::new()) };
        let opening = trial::opening(address, self.port.as_deref(), self.protocol.as_deref())
            .map_err(|error| error.message().to_owned())?;
        let others: Vec<Supposed> = self
            .held_by
            .iter()
            .map(|name| Supposed { issuer: who.issuer.clone(), subject: name.clone(), ..Supposed::default() })
            .collect();
        let holders: Vec<&Supposed> = if others.is_empty() { vec![who] } else { others.iter().collect() };
        Ok(vec![trial::standing(opening, &holders, at, 1)])
    }

    /// The same with less asked for, and how that differs: of each kind the most first.
    fn less(&self, given: &Map<String, Value>) -> Vec<Vec<(String, Map<String, Value>)>> {
        let with = |changes: &[(&str, &str)]| {
            let changes = changes.iter().map(|&(name, value)| (name.to_owned(), Value::from(value)));
            given.clone().into_iter().chain(changes).collect::<Map<_, _>>()
        };
        let lasts = matches!(self.tool.as_str(), "whitelist_add" | "whitelist_extend");
        let terms = TERMS.into_iter().filter(|_| lasts);
        let shorter = |term: &str| (format!("for {term} (`duration`)"), with(&[("duration", term)]));
        let single = self.address.as_deref().and_then(|address| address.split_once('/')).map(|(address, _)| address);
        let narrower = single.into_iter().flat_map(|single| {
            let alone = (format!("for {single} alone (`address`)"), with(&[("address", single)]));
            let both = terms.clone().map(move |term| (single, term));
            std::iter::once(alone).chain(both.map(|(single, term)| {
                (
                    format!("for {single} alone, for {term} (`address`, `duration`)"),
                    with(&[("address", single), ("duration", term)]),
                )
            }))
        });
        vec![terms.clone().map(shorter).collect(), narrower.collect()]
    }
}
