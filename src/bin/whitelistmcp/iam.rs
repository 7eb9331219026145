//! `iam`: what AWS is asked for, printed by the same code that asks.

use std::process::ExitCode;

use whitelistmcp::aws::session_policy::{Actions, SessionPolicy};
use whitelistmcp::aws::{AccountConfig, Accounts, Config};
use whitelistmcp::operation::target::{GroupConfig, TargetError, Targets};
use whitelistmcp::operation::{CallId, Tool, target};

use crate::{complain, fail, say};

/// What to print.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prints the session policy of one call, exactly as STS gets it.
    SessionPolicy(SessionPolicyArguments),
}

/// The call.
#[derive(Debug, clap::Args)]
pub(crate) struct SessionPolicyArguments {
    /// The tool, such as `whitelist_add`.
    #[arg(long)]
    tool: String,
    /// The 12-digit account.
    #[arg(long)]
    account: String,
    /// The Region.
    #[arg(long)]
    region: String,
    /// The security group's id.
    #[arg(long)]
    group: String,
    /// The call's id, as the journal has it.
    #[arg(long)]
    call: String,
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
    let Command::SessionPolicy(arguments) = command;
    let Some(tool) = Tool::from_name(&arguments.tool) else {
        complain(&format!(
            "there is no tool `{}`; the tools are {}",
            arguments.tool,
            Tool::ALL.map(Tool::name).join(", ")
        ));
        return ExitCode::FAILURE;
    };
    match session_policy(tool, arguments) {
        Ok(policy) => {
            say(if arguments.digest { policy.sha256() } else { policy.as_str() });
            ExitCode::SUCCESS
        }
        Err(error) => fail(error.as_ref()),
    }
}

fn session_policy(tool: Tool, arguments: &SessionPolicyArguments) -> Result<SessionPolicy, Box<dyn std::error::Error>> {
    let account = AccountConfig {
        id: arguments.account.clone(),
        role_arn: format!("arn:{}:iam::{}:role/any", arguments.partition, arguments.account),
        external_id: None,
        regions: vec![arguments.region.clone()],
    };
    let accounts = Accounts::new(&Config { accounts: vec![account], ..Config::default() })?;
    let group = GroupConfig {
        name: "the-group".to_owned(),
        id: arguments.group.clone(),
        account: Some(arguments.account.clone()),
        region: Some(arguments.region.clone()),
    };
    let targets =
        Targets::new(&target::Config { groups: vec![group], ..target::Config::default() }, accounts.regions())?;
    let target = targets.named().first().ok_or_else(|| TargetError::Unknown(arguments.group.clone()))?;
    let account = accounts.find(target.account()).ok_or_else(|| TargetError::Unknown(arguments.account.clone()))?;
    let call: CallId = arguments.call.parse()?;
    let changes = tool.can_change() && !arguments.dry_run;
    Ok(Actions::embedded()?.session_policy(tool, changes, account, target, &call))
}
