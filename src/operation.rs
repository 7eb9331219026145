//! One request that is already valid: what is asked, of which security group, in canonical form.
//!
//! An [`Operation`] is made from a protobuf request and nothing else, by checking every field; after that nobody
//! checks again. It says nothing of who asks (`identity`) or whether they may (`policy`), and does no I/O.

pub mod address;
pub mod lease;
pub mod ownership;
pub mod port;
pub mod reach;
pub mod rule;
pub mod target;

use std::net::IpAddr;

use jiff::Timestamp;

use crate::error::Error;
use crate::pb::whitelistmcp::v1 as pb;

use address::{Address, Block};
use lease::Lease;
use port::{Ports, Protocol};
use target::{Target, Targets, is_aws_id};

/// A tool of the service: one RPC of `WhitelistService`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tool {
    /// `whitelist_add`.
    Add,
    /// `whitelist_remove`.
    Remove,
    /// `whitelist_list`.
    List,
    /// `whitelist_check`.
    Check,
}

/// The id of one call: a UUID version 7, so ids sort by time. It stands on the rule, in the session's tags, in the
/// journal and in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallId(String);

/// One valid request.
#[derive(Clone, Debug)]
pub struct Operation {
    call: CallId,
    received: Timestamp,
    asked: String,
    target: Target,
    kind: Kind,
    notes: Vec<String>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Open the group to an address.
    Add(Add),
    /// Close what matches.
    Remove(Remove),
    /// List what stands.
    List(List),
    /// Would this address get in?
    Check(Check),
}

/// A rule to make.
#[derive(Clone, Debug)]
pub struct Add {
    /// What to let in.
    pub block: Block,
    /// On which ports.
    pub ports: Ports,
    /// Why.
    pub reason: String,
    /// For how long.
    pub lease: Lease,
    /// Only say what would change.
    pub dry_run: bool,
}

/// Which rules to remove: those that match every selector that is given. At least one is.
#[derive(Clone, Debug)]
pub struct Remove {
    /// By id.
    pub rule_id: Option<String>,
    /// By exactly this block.
    pub block: Option<Block>,
    /// By exactly these ports.
    pub ports: Option<Ports>,
    /// By protocol.
    pub protocol: Option<Protocol>,
    /// Why.
    pub reason: String,
    /// Only say what would change.
    pub dry_run: bool,
}

/// Which rules to show.
#[derive(Clone, Debug)]
pub struct List {
    /// Only rules that contain this block or lie inside it.
    pub block: Option<Block>,
    /// Only rules that open some of these ports.
    pub ports: Option<Ports>,
    /// Only rules of this protocol, or of all.
    pub protocol: Option<Protocol>,
    /// Only rules of ours made for this holder, by name or id.
    pub holder: Option<String>,
    /// Only rules of ours.
    pub managed_only: bool,
}

/// What to ask about.
#[derive(Clone, Debug)]
pub struct Check {
    /// The addresses.
    pub block: Block,
    /// The ports.
    pub ports: Ports,
}

/// What a request is read against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The groups, accounts and Regions that are configured.
    pub targets: &'a Targets,
    /// The address that the caller calls from, where it is known.
    pub caller: Option<IpAddr>,
    /// The time.
    pub now: Timestamp,
}

/// A request that is wrong in a way that no field's own type knows.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// A field that must be given.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that is too long.
    #[error("`{field}` has {length} characters; {max} are the most")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// A reason that says nothing.
    #[error("`reason` must say why in at least 3 characters")]
    ReasonTooShort,
    /// A text with control characters.
    #[error("`{0}` holds a control or invisible character; write plain text on one line")]
    ControlCharacter(&'static str),
    /// A text that holds what looks like a secret.
    #[error("`{0}` holds what looks like an AWS key or a token; leave it out, and if it was real, rotate it")]
    Credential(&'static str),
    /// Not a rule id.
    #[error("`{0}` is not a security group rule id; it is sgr- and 8 to 17 hexadecimal digits")]
    RuleId(String),
    /// A removal that would match everything.
    #[error("say which rules to remove: give rule_id, address, port or protocol; a removal never means every rule")]
    NoSelector,
    /// An address family that the protocol does not have.
    #[error("{protocol} is for {family} addresses, and {block} is not one")]
    Family {
        /// The protocol.
        protocol: Protocol,
        /// Its address family.
        family: &'static str,
        /// The block.
        block: Block,
    },
}

impl From<OperationError> for Error {
    fn from(error: OperationError) -> Self {
        let (field, reason) = match &error {
            OperationError::Missing(field) => (*field, "FIELD_MISSING"),
            OperationError::TooLong { field, .. } => (*field, "FIELD_TOO_LONG"),
            OperationError::ReasonTooShort => ("reason", "REASON_INVALID"),
            OperationError::ControlCharacter(field) => (*field, "CONTROL_CHARACTER"),
            OperationError::Credential(field) => (*field, "CREDENTIALS_REFUSED"),
            OperationError::RuleId(_) => ("rule_id", "RULE_ID_INVALID"),
            OperationError::NoSelector => ("rule_id", "SELECTOR_MISSING"),
            OperationError::Family { .. } => ("protocol", "PROTOCOL_INVALID"),
        };
        Self::invalid(field, reason, error.to_string())
    }
}

// === impl Tool ===

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 4] = [Self::Add, Self::Remove, Self::List, Self::Check];

    /// The tool's MCP name. The proto says the same, and a test holds them together.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "whitelist_add",
            Self::Remove => "whitelist_remove",
            Self::List => "whitelist_list",
            Self::Check => "whitelist_check",
        }
    }

    /// The RPC's name in `whitelistmcp.v1.WhitelistService`.
    pub fn rpc(self) -> &'static str {
        match self {
            Self::Add => "AddRule",
            Self::Remove => "RemoveRules",
            Self::List => "ListRules",
            Self::Check => "CheckAccess",
        }
    }

    /// Whether the tool changes what stands in AWS, other than in a dry run.
    pub fn can_change(self) -> bool {
        matches!(self, Self::Add | Self::Remove)
    }

    /// The tool of that MCP name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }
}

// === impl CallId ===

impl CallId {
    /// A new id.
    #[expect(clippy::new_without_default, reason = "two calls never share an id, so there is no default one")]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for CallId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::try_parse(text).map(|id| Self(id.to_string()))
    }
}

// === impl Operation ===

impl Operation {
    // In each of these the group is looked up last: were another field refused only where the group is known, the answer
    // would tell which names exist.

    /// Reads a request to open.
    pub fn add(request: pb::AddRuleRequest, call: CallId, context: Context<'_>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let block = context.required_block(&request.address, &mut notes)?;
        let ports = Ports::parse(given("port", &request.port, 32)?, given("protocol", &request.protocol, 8)?)?;
        same_family(block, ports.protocol())?;
        let reason = text("reason", &request.reason)?.ok_or(OperationError::Missing("reason"))?;
        if reason.chars().count() < 3 {
            return Err(OperationError::ReasonTooShort.into());
        }
        let lease =
            Lease::parse(given("duration", &request.duration, 32)?, given("until", &request.until, 40)?, context.now)?;
        if ownership::is_altered(&reason) {
            notes.push("AWS tags do not take every character of the reason: on the rule the others read `_`; the audit trail has it whole.".to_owned());
        }
        let add = Add { block, ports, reason, lease, dry_run: request.dry_run };
        let (asked, target) = context.target(&request.security_group, &request.account, &request.region)?;
        Ok(Self { call, received: context.now, asked, target, kind: Kind::Add(add), notes })
    }

    /// Reads a request to close.
    pub fn remove(request: pb::RemoveRulesRequest, call: CallId, context: Context<'_>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let rule_id = given("rule_id", &request.rule_id, 64)?.map(rule_id).transpose()?;
        let (ports, protocol) = selectors(&request.port, &request.protocol)?;
        let remove = Remove {
            rule_id,
            block: context.block(&request.address, &mut notes)?,
            ports,
            protocol,
            reason: text("reason", &request.reason)?.unwrap_or_default(),
            dry_run: request.dry_run,
        };
        if remove.rule_id.is_none() && remove.block.is_none() && remove.ports.is_none() && remove.protocol.is_none() {
            return Err(OperationError::NoSelector.into());
        }
        let (asked, target) = context.target(&request.security_group, &request.account, &request.region)?;
        Ok(Self { call, received: context.now, asked, target, kind: Kind::Remove(remove), notes })
    }

    /// Reads a request to list.
    pub fn list(request: pb::ListRulesRequest, call: CallId, context: Context<'_>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let (ports, protocol) = selectors(&request.port, &request.protocol)?;
        let list = List {
            block: context.block(&request.address, &mut notes)?,
            ports,
            protocol,
            holder: text("holder", &request.holder)?,
            managed_only: request.managed_only,
        };
        let (asked, target) = context.target(&request.security_group, &request.account, &request.region)?;
        Ok(Self { call, received: context.now, asked, target, kind: Kind::List(list), notes })
    }

    /// Reads a request to check.
    pub fn check(request: pb::CheckAccessRequest, call: CallId, context: Context<'_>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let block = context.required_block(&request.address, &mut notes)?;
        let ports = Ports::parse(given("port", &request.port, 32)?, given("protocol", &request.protocol, 8)?)?;
        same_family(block, ports.protocol())?;
        let (asked, target) = context.target(&request.security_group, &request.account, &request.region)?;
        Ok(Self { call, received: context.now, asked, target, kind: Kind::Check(Check { block, ports }), notes })
    }

    /// The call's id.
    pub fn call(&self) -> &CallId {
        &self.call
    }

    /// When the call came in.
    pub fn received(&self) -> Timestamp {
        self.received
    }

    /// The group as the caller wrote it. An answer to who may not know the group says nothing else of it.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// The group.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What is asked.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What the caller should know of how the request was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tool that is called.
    pub fn tool(&self) -> Tool {
        match self.kind {
            Kind::Add(_) => Tool::Add,
            Kind::Remove(_) => Tool::Remove,
            Kind::List(_) => Tool::List,
            Kind::Check(_) => Tool::Check,
        }
    }

    /// Whether the call may change what stands in AWS: an add or a removal that is no dry run.
    pub fn changes(&self) -> bool {
        match &self.kind {
            Kind::Add(add) => !add.dry_run,
            Kind::Remove(remove) => !remove.dry_run,
            Kind::List(_) | Kind::Check(_) => false,
        }
    }
}

// === impl Context ===

impl Context<'_> {
    fn target(self, group: &str, account: &str, region: &str) -> Result<(String, Target), Error> {
        let group = given("security_group", group, 128)?.ok_or(OperationError::Missing("security_group"))?;
        let (account, region) = (given("account", account, 12)?, given("region", region, 32)?);
        Ok((group.to_owned(), self.targets.resolve(group, account, region)?))
    }

    fn block(self, written: &str, notes: &mut Vec<String>) -> Result<Option<Block>, Error> {
        let Some(written) = given("address", written, 64)? else { return Ok(None) };
        let address: Address = written.parse()?;
        let block = address.resolve(self.caller)?;
        match address {
            Address::Block { canonicalised: true, .. } => {
                notes.push(format!("`{written}` has host bits set; AWS stores it as {block}."))
            }
            Address::Current => notes.push(format!("`current` is {block}, the address this call came from.")),
            Address::Block { .. } => {}
        }
        Ok(Some(block))
    }

    fn required_block(self, written: &str, notes: &mut Vec<String>) -> Result<Block, Error> {
        self.block(written, notes)?.ok_or_else(|| OperationError::Missing("address").into())
    }
}

/// An optional field: proto3 cannot tell an empty string from an absent one, and neither do we. Nothing that could be a
/// secret gets any further, since what follows is repeated in messages, on rules and in the journal.
fn given<'a>(field: &'static str, value: &'a str, max: usize) -> Result<Option<&'a str>, OperationError> {
    let length = value.chars().count();
    if length > max {
        return Err(OperationError::TooLong { field, length, max });
    }
    if value.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(OperationError::ControlCharacter(field));
    }
    if holds_secret(value) {
        return Err(OperationError::Credential(field));
    }
    Ok(Some(value.trim()).filter(|value| !value.is_empty()))
}

/// Free text that stands on rules and in the journal.
fn text(field: &'static str, value: &str) -> Result<Option<String>, OperationError> {
    Ok(given(field, value, 200)?.map(str::to_owned))
}

/// Characters that hide or turn around what is beside them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Whether a text holds what looks like an AWS access key id, an AWS secret access key, or a token.
///
/// Source: IAM's unique identifier prefixes (AKIA is a long-term access key, ASIA a temporary one). A secret key is 40
/// characters of base64, which a commit id in hexadecimal is not taken for.
fn holds_secret(text: &str) -> bool {
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let key_id = ["AKIA", "ASIA"]
        .into_iter()
        .flat_map(|prefix| text.split(prefix).skip(1))
        .any(|rest| rest.chars().take_while(|c| upper(*c)).count() >= 16);
    let secret = |run: &str| {
        let has = |is: fn(&char) -> bool| run.chars().any(|c| is(&c));
        run.len() == 40 && has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit)
    };
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/".contains(c)));
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)));
    let token = words.into_iter().any(|word| word.starts_with("eyJ") && word.matches('.').count() == 2);
    key_id || token || runs.into_iter().any(secret)
}

fn rule_id(text: &str) -> Result<String, OperationError> {
    if is_aws_id(text, "sgr-") { Ok(text.to_owned()) } else { Err(OperationError::RuleId(text.to_owned())) }
}

/// Reads port and protocol where each may be left out.
fn selectors(port: &str, protocol: &str) -> Result<(Option<Ports>, Option<Protocol>), Error> {
    let protocol = given("protocol", protocol, 8)?;
    let parsed = protocol.map(str::parse).transpose()?;
    match given("port", port, 32)? {
        None => Ok((None, parsed)),
        Some(port) => Ports::parse(Some(port), protocol).map(|ports| (Some(ports), parsed)).map_err(Error::from),
    }
}

fn same_family(block: Block, protocol: Protocol) -> Result<(), OperationError> {
    match protocol {
        Protocol::Icmp if block.is_ipv6() => Err(OperationError::Family { protocol, family: "IPv4", block }),
        Protocol::Icmpv6 if !block.is_ipv6() => Err(OperationError::Family { protocol, family: "IPv6", block }),
        _ => Ok(()),
    }
}
