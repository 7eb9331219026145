//! `iam print`: the IAM documents of an installation, or templates that make its roles.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value};
use whitelistmcp::aws::iam::{
    Document, Documents, Form, GOOGLE, Installation, Limit, Part, Platform, ServiceAccount, Shape, WebIdentity,
};
use whitelistmcp::aws::role::RoleArn;
use whitelistmcp::aws::session_policy::Actions;
use whitelistmcp::aws::{Accounts, MANAGED};
use whitelistmcp::config::Config;
use whitelistmcp::operation::target::{AccountId, GroupId};

use crate::{fail, say};

/// For whom, and in which form.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration whose accounts, Regions, external ids and groups are meant; templates need none.
    #[arg(long, short, env = "WHITELISTMCP_CONFIG")]
    config: Option<PathBuf>,
    /// The account that the target role's documents are for, where the configuration has several.
    #[arg(long)]
    account: Option<String>,
    /// The ARN of the role that the service itself runs as; `whitelistmcp-core` in that account unless given.
    #[arg(long)]
    base_role: Option<String>,
    /// What to print; everything unless given. `base`, `target` and `kill-switch` are templates, all but the first two documents.
    #[arg(long)]
    only: Option<Only>,
    /// How to print it.
    #[arg(long, default_value = "json")]
    format: FormatName,
    /// Which groups the target role may change: those with the tag, those that are listed, or both.
    #[arg(long, default_value = "tagged")]
    limit: LimitName,
    /// The key of that tag. The service itself finds groups by `whitelistmcp:managed`, whatever this says.
    #[arg(long, default_value = MANAGED)]
    tag_key: String,
    /// A security group that is listed, by id or ARN, besides those that the configuration names; may be given several times.
    #[arg(long)]
    group: Vec<String>,
    /// Where the service runs, which is who the base role trusts.
    #[arg(long, default_value = "ecs-tasks")]
    platform: PlatformName,
    /// The issuer of the service's tokens: for `irsa` and `azure`.
    #[arg(long)]
    issuer: Option<String>,
    /// Who the tokens are about: `system:serviceaccount:NAMESPACE:NAME`, a service account's unique id at Google, a managed
    /// identity's object id at Azure.
    #[arg(long)]
    subject: Option<String>,
    /// What the tokens are for.
    #[arg(long)]
    audience: Option<String>,
    /// The kill switch ends sessions that were begun before this RFC 3339 time, rather than all.
    #[arg(long)]
    before: Option<jiff::Timestamp>,
    /// Write everything, in every form and for every platform, to files in this directory instead.
    #[arg(long, conflicts_with_all = ["only", "format", "platform"])]
    directory: Option<PathBuf>,
}

/// What can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Base,
    Target,
    BaseTrust,
    BasePolicy,
    TargetTrust,
    TargetPolicy,
    KillSwitch,
}

/// How it can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    Json,
    Terraform,
    Cloudformation,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LimitName {
    Tagged,
    Listed,
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PlatformName {
    EcsTasks,
    Lambda,
    Ec2,
    EksPodIdentity,
    Irsa,
    Google,
    Azure,
}

/// Something that the command line leaves out, or that does not go together.
#[derive(Debug, thiserror::Error)]
enum PrintError {
    /// A value that only this installation has.
    #[error("these documents hold this installation's own values: name its configuration by --config")]
    NoConfig,
    /// No account, or several.
    #[error("the configuration has {0} accounts: say by --account which one the target role is in")]
    WhichAccount(usize),
    /// Not one of them.
    #[error("the configuration has no account {0}")]
    UnknownAccount(AccountId),
    /// Not a role.
    #[error("`{0}` is not the ARN of a role")]
    Role(String),
    /// Nothing is listed.
    #[error("`--limit {0}` needs a group: by --group, or in `[targets]`")]
    NoGroups(&'static str),
    /// A platform that needs more.
    #[error("`--platform {platform}` needs {wants}")]
    Platform {
        /// The platform.
        platform: &'static str,
        /// What.
        wants: &'static str,
    },
    /// A part that is no single document.
    #[error("`--only {0}` is a template: give --format terraform or --format cloudformation")]
    Template(&'static str),
    /// A document that is no template.
    #[error("`{0}` alone is JSON: leave --format out, or print `base` or `target`")]
    Single(&'static str),
    /// Everything at once.
    #[error("say by --only which template to print: base, target or kill-switch")]
    Several,
    /// A file that cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match print(arguments) {
        Ok(Some(text)) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn print(arguments: &Arguments) -> Result<Option<String>, Box<dyn Error>> {
    let actions = Actions::embedded()?;
    if let Some(directory) = &arguments.directory {
        write_all(arguments, &actions, directory)?;
        return Ok(None);
    }
    let documents = Documents::new(&actions, arguments.shape(arguments.platform.of(arguments)?));
    let text = match (arguments.format, arguments.only) {
        (FormatName::Json, Some(only)) => {
            let document = only.document().ok_or_else(|| PrintError::Template(only.name()))?;
            pretty(&documents.document(document, &arguments.values()?))?
        }
        (FormatName::Json, None) => {
            let values = arguments.values()?;
            let all = Document::ALL.map(|document| (document.name().to_owned(), documents.document(document, &values)));
            pretty(&Value::Object(Map::from_iter(all)))?
        }
        (_, None) => return Err(PrintError::Several.into()),
        (format, Some(only)) => {
            let part = only.part().ok_or_else(|| PrintError::Single(only.name()))?;
            if format == FormatName::Terraform { documents.module(part) } else { pretty(&documents.template(part))? }
        }
    };
    Ok(Some(text))
}

/// Everything, each in a file of its own. Terraform wants a directory for a module.
fn write_all(arguments: &Arguments, actions: &Actions, directory: &Path) -> Result<(), Box<dyn Error>> {
    let values = arguments.values()?;
    let of = |platform| Documents::new(actions, arguments.shape(platform));
    let documents = of(Platform::EcsTasks);
    for document in Document::ALL.into_iter().filter(|document| *document != Document::BaseTrust) {
        let name = format!("{}.json", document.name());
        write(&directory.join(name), &pretty(&documents.document(document, &values))?)?;
    }
    for platform in PlatformName::ALL {
        let trust = of(platform.example()).document(Document::BaseTrust, &values);
        write(&directory.join(format!("base-trust-{}.json", platform.name())), &pretty(&trust)?)?;
    }
    for only in [Only::Base, Only::Target, Only::KillSwitch] {
        if let Some(part) = only.part() {
            let template = pretty(&documents.template(part))?;
            write(&directory.join(format!("{}.cfn.json", only.name())), &template)?;
            write(&directory.join("terraform").join(only.name()).join("main.tf"), &documents.module(part))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), PrintError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text)).map_err(|source| PrintError::Write { path: path.to_owned(), source })
}

fn pretty(value: &Value) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(value).map(|text| text + "\n")
}

// === impl Arguments ===

impl Arguments {
    fn shape(&self, platform: Platform) -> Shape {
        let limit = match self.limit {
            LimitName::Tagged => Limit::Tagged,
            LimitName::Listed => Limit::Listed,
            LimitName::Either => Limit::Either,
        };
        Shape { tag_key: self.tag_key.clone(), limit, platform, before: self.before }
    }

    /// What the configuration says of one account, and of the way into all of them.
    fn values(&self) -> Result<Form, Box<dyn Error>> {
        let path = self.config.as_deref().ok_or(PrintError::NoConfig)?;
        let config = Config::load(path, crate::environment())?;
        let accounts = Accounts::new(&config.aws)?;
        let mut all = accounts.regions();
        let (account, regions) = match &self.account {
            Some(account) => {
                let asked = AccountId::parse(account)?;
                all.find(|(id, _)| *id == asked).ok_or(PrintError::UnknownAccount(asked))?
            }
            None => match (all.next(), config.aws.accounts.len()) {
                (Some(only), 1) => only,
                (_, several) => return Err(PrintError::WhichAccount(several).into()),
            },
        };
        let partition = accounts.find(&account).map_or("aws", |account| account.partition()).to_owned();
        let base_role = match &self.base_role {
            Some(arn) => arn.clone(),
            None => format!("arn:{partition}:iam::{account}:role/whitelistmcp-core"),
        };
        let base_role = RoleArn::parse(&base_role).ok_or(PrintError::Role(base_role))?;
        let regions: Vec<String> = regions.into_iter().map(|region| region.as_str().to_owned()).collect();
        let arn = |region: &str, id: &str| format!("arn:{partition}:ec2:{region}:{account}:security-group/{id}");
        let mut groups = Vec::new();
        for group in &self.group {
            if group.starts_with("arn:") {
                groups.push(group.clone());
            } else {
                // By its id alone it is meant in each Region of the account.
                let id = GroupId::parse(group)?;
                groups.extend(regions.iter().map(|region| arn(region, id.as_str())));
            }
        }
        let targets = &config.targets;
        for group in &targets.groups {
            if group.account.as_ref().or(targets.account.as_ref()).is_some_and(|its| its == account.as_str()) {
                let region = group.region.as_ref().or(targets.region.as_ref());
                groups.push(arn(region.map_or("*", String::as_str), &group.id));
            }
        }
        if groups.is_empty() {
            match self.limit {
                LimitName::Listed => return Err(PrintError::NoGroups("listed").into()),
                LimitName::Either => return Err(PrintError::NoGroups("either").into()),
                LimitName::Tagged => {}
            }
        }
        let entry = config.aws.accounts.iter().find(|entry| entry.id == account.as_str());
        Ok(Form::Values(Box::new(Installation {
            base_role,
            target_roles: config.aws.accounts.iter().filter_map(|entry| entry.role_arn.clone()).collect(),
            account: account.as_str().to_owned(),
            partition,
            regions,
            external_id: entry.and_then(|entry| entry.external_id.clone()),
            groups,
        })))
    }
}

// === impl Only ===

impl Only {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Target => "target",
            Self::BaseTrust => Document::BaseTrust.name(),
            Self::BasePolicy => Document::BasePolicy.name(),
            Self::TargetTrust => Document::TargetTrust.name(),
            Self::TargetPolicy => Document::TargetPolicy.name(),
            Self::KillSwitch => Document::KillSwitch.name(),
        }
    }

    fn document(self) -> Option<Document> {
        Document::ALL.into_iter().find(|document| document.name() == self.name())
    }

    fn part(self) -> Option<Part> {
        match self {
            Self::Base => Some(Part::Base),
            Self::Target => Some(Part::Target),
            Self::KillSwitch => Some(Part::KillSwitch),
            Self::BaseTrust | Self::BasePolicy | Self::TargetTrust | Self::TargetPolicy => None,
        }
    }
}

// === impl PlatformName ===

impl PlatformName {
    const ALL: [Self; 7] =
        [Self::EcsTasks, Self::Lambda, Self::Ec2, Self::EksPodIdentity, Self::Irsa, Self::Google, Self::Azure];

    fn name(self) -> &'static str {
        match self {
            Self::EcsTasks => "ecs-tasks",
            Self::Lambda => "lambda",
            Self::Ec2 => "ec2",
            Self::EksPodIdentity => "eks-pod-identity",
            Self::Irsa => "irsa",
            Self::Google => "google",
            Self::Azure => "azure",
        }
    }

    /// The platform as the command line has it.
    fn of(self, arguments: &Arguments) -> Result<Platform, PrintError> {
        let wants = |wants| PrintError::Platform { platform: self.name(), wants };
        let given = |value: &Option<String>, what| value.clone().ok_or_else(|| wants(what));
        let account = "--subject system:serviceaccount:NAMESPACE:NAME";
        Ok(match self {
            Self::EcsTasks => Platform::EcsTasks,
            Self::Lambda => Platform::Lambda,
            Self::Ec2 => Platform::Ec2,
            Self::EksPodIdentity => {
                let subject = given(&arguments.subject, account)?;
                let named = subject.strip_prefix("system:serviceaccount:").and_then(|named| named.split_once(':'));
                let (namespace, name) = named.ok_or_else(|| wants(account))?;
                Platform::EksPodIdentity(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            Self::Irsa => {
                let issuer =
                    given(&arguments.issuer, "--issuer, the cluster's own: oidc.eks.REGION.amazonaws.com/id/ID")?;
                let audience = arguments.audience.as_deref().unwrap_or("sts.amazonaws.com");
                identity(&issuer, &given(&arguments.subject, account)?, audience)
            }
            Self::Google => {
                let subject = given(&arguments.subject, "--subject, the service account's unique id")?;
                identity(GOOGLE, &subject, &given(&arguments.audience, "--audience")?)
            }
            Self::Azure => {
                let issuer = given(&arguments.issuer, "--issuer sts.windows.net/TENANT/, with the slash at its end")?;
                let subject = given(&arguments.subject, "--subject, the managed identity's object id")?;
                identity(&issuer, &subject, &given(&arguments.audience, "--audience")?)
            }
        })
    }

    /// The platform with values that stand for a reader's own.
    fn example(self) -> Platform {
        let account = ("whitelistmcp", "whitelistmcp-core");
        match self {
            Self::EcsTasks => Platform::EcsTasks,
            Self::Lambda => Platform::Lambda,
            Self::Ec2 => Platform::Ec2,
            Self::EksPodIdentity => {
                Platform::EksPodIdentity(ServiceAccount { namespace: account.0.to_owned(), name: account.1.to_owned() })
            }
            Self::Irsa => identity(
                "oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLE0123456789ABCDEF",
                &format!("system:serviceaccount:{}:{}", account.0, account.1),
                "sts.amazonaws.com",
            ),
            Self::Google => identity(GOOGLE, "123456789012345678901", "whitelistmcp"),
            Self::Azure => identity(
                "sts.windows.net/00000000-0000-0000-0000-000000000000/",
                "11111111-1111-1111-1111-111111111111",
                "api://whitelistmcp",
            ),
        }
    }
}

fn identity(issuer: &str, subject: &str, audience: &str) -> Platform {
    let issuer = issuer.trim_start_matches("https://").to_owned();
    Platform::WebIdentity(WebIdentity { issuer, subject: subject.to_owned(), audience: audience.to_owned() })
}
