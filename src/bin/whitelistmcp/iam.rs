//! `iam`: what AWS is asked for, and what an operator sets up for it, printed by the same code that asks.

mod print;

use std::process::ExitCode;

use whitelistmcp::aws::role::is_partition;
use whitelistmcp::aws::session_policy::{Actions, Power, SessionPolicy};
use whitelistmcp::aws::{AccountConfig, Accounts, Config};
use whitelistmcp::operation::Tool;
use whitelistmcp::operation::lease::Holder;
use whitelistmcp::operation::target::{AccountId, GroupId, Place, Region, TargetError};

use crate::{complain, fail, say};

/// What to print.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prints the session policy of one call, exactly as STS gets it.
    SessionPolicy(Box<SessionPolicyArguments>),
    /// Prints the roles' trust and permission policies, and a kill switch, as JSON, CloudFormation or Terraform.
    Print(Box<print::Arguments>),
}

/// The call.
#[derive(Debug, clap::Args)]
pub(crate) struct SessionPolicyArguments {
    /// The tool, such as `whitelist_add`, or what the service does for itself, such as `close`.
    #[arg(long)]
    tool: String,
    /// The 12-digit account.
    #[arg(long)]
    account: String,
    /// The Region.
    #[arg(long)]
    region: String,
    /// The security group's id; none for what looks at all of a Region.
    #[arg(long)]
    group: Option<String>,
    /// The call's id, as the journal has it.
    #[arg(long)]
    call: String,
    /// Who asked: the journal's `who.id`.
    #[arg(long)]
    holder: Option<String>,
    /// The call had an idempotency key.
    #[arg(long)]
    keyed: bool,
    /// A rule, for `close` and `tidy`; may be given several times.
    #[arg(long)]
    rule: Vec<String>,
    /// The key of a tag that `tidy` took away; may be given several times.
    #[arg(long)]
    tag: Vec<String>,
    /// The policy of a dry run, which can change nothing.
    #[arg(long)]
    dry_run: bool,
    /// The ARN partition.
    #[arg(long, default_value = "aws")]
    partition: String,
    /// Print the policy's SHA-256, as the journal has it, instead.
    #[arg(long)]
    digest: bool,
}

pub(crate) fn run(command: &Command) -> ExitCode {
    match command {
        Command::SessionPolicy(arguments) => print_session_policy(arguments),
        Command::Print(arguments) => print::run(arguments),
    }
}

fn print_session_policy(arguments: &SessionPolicyArguments) -> ExitCode {
    let every = || Tool::ALL.into_iter().chain(Tool::OWN);
    let Some(tool) = every().find(|tool| tool.name() == arguments.tool) else {
        complain(&format!(
            "there is no tool `{}`; the tools are {}",
            arguments.tool,
            every().map(Tool::name).collect::<Vec<_>>().join(", ")
        ));
        return ExitCode::FAILURE;
    };
    match session_policy(tool, arguments) {
        Ok(policy) => {
            say(if arguments.digest { policy.sha256().unwrap_or_default() } else { policy.as_str() });
            ExitCode::SUCCESS
        }
        Err(error) => fail(error.as_ref()),
    }
}

fn session_policy(tool: Tool, arguments: &SessionPolicyArguments) -> Result<SessionPolicy, Box<dyn std::error::Error>> {
    let account = AccountConfig {
        id: arguments.account.clone(),
        role_arn: Some(format!("arn:{}:iam::{}:role/any", arguments.partition, arguments.account)),
        external_id: None,
        regions: vec![arguments.region.clone()],
        rules_per_group: 60,
    };
    if !is_partition(&arguments.partition) {
        return Err(
            format!("`{}` is no partition of AWS, such as aws, aws-cn or aws-us-gov", arguments.partition).into()
        );
    }
    let accounts = Accounts::new(&Config { accounts: vec![account], ..Config::default() })?;
    if tool.can_change() && arguments.group.is_none() {
        return Err(format!("`{}` is about one security group: give it by --group", tool.name()).into());
    }
    let place = Place::new(AccountId::parse(&arguments.account)?, Region::parse(&arguments.region)?);
    let account = accounts.find(place.account()).ok_or_else(|| TargetError::Account(arguments.account.clone()))?;
    let holder = arguments.holder.as_deref().map(|id| {
        Holder::new(id, id)
            .ok_or_else(|| format!("`{id}` is not a holder's id: it ends in - and 16 hexadecimal digits"))
    });
    let power = Power {
        tool,
        changes: tool.can_change() && !arguments.dry_run,
        place,
        group: arguments.group.as_deref().map(GroupId::parse).transpose()?,
        call: arguments.call.parse()?,
        holder: holder.transpose()?,
        keyed: arguments.keyed,
        rules: arguments.rule.clone(),
        tags: arguments.tag.clone(),
    };
    Ok(Actions::embedded()?.session_policy(&power, account))
}
