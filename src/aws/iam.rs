//! The IAM documents that an operator sets up, made from what the service really asks for: the proto's annotations
//! ([`Actions`]), the tags of its sessions, the tags of its rules. They allow what the session policies need, and no more.
//!
//! A document is written down once. What differs between installations (accounts, Regions, role names) is filled in by a
//! [`Form`]: values, parameters of CloudFormation, variables of Terraform.
//!
//! Sources: Service Authorization Reference, EC2 and STS; IAM User Guide, "Pass session tags in AWS STS" and "Monitor and
//! control actions taken with assumed roles". IAM sees no address, no port and no time: policy decides on those.

mod cloudformation;
mod terraform;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::MANAGED;
use super::assume::{ALWAYS, BESIDES};
use super::ec2::NOT_MANAGED;
use super::role::RoleArn;
use super::session_policy::{Actions, MAKES, every_tag_key};
use crate::operation::ownership::CALL;

/// A document by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// Who may be the service: the trust policy of its own role.
    BaseTrust,
    /// What the service's own role may do: borrow the target roles.
    BasePolicy,
    /// Who may borrow a target role, and how: its trust policy.
    TargetTrust,
    /// What a target role may do at most; each call has less.
    TargetPolicy,
    /// A service control policy that ends all that the roles may do.
    KillSwitch,
}

impl Document {
    /// Every document.
    pub const ALL: [Self; 5] =
        [Self::BaseTrust, Self::BasePolicy, Self::TargetTrust, Self::TargetPolicy, Self::KillSwitch];

    /// Its name on the command line and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::BaseTrust => "base-trust",
            Self::BasePolicy => "base-policy",
            Self::TargetTrust => "target-trust",
            Self::TargetPolicy => "target-policy",
            Self::KillSwitch => "kill-switch",
        }
    }
}

/// Where the service runs, and so how it comes by its own role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    /// A task of Amazon ECS, on Fargate or elsewhere.
    EcsTasks,
    /// A function of AWS Lambda.
    Lambda,
    /// An EC2 instance.
    Ec2,
    /// A pod, by EKS Pod Identity.
    EksPodIdentity(ServiceAccount),
    /// Somebody with a token of an OpenID provider: a pod by IRSA, a workload at Google or Azure.
    WebIdentity(WebIdentity),
}

/// A Kubernetes service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Whose tokens are believed, and which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebIdentity {
    /// The issuer without its scheme, as IAM writes it in the names of condition keys; `accounts.google.com` is known to
    /// IAM, every other needs an OpenID Connect provider in the account.
    pub issuer: String,
    /// Who the token is about.
    pub subject: String,
    /// What the token is for.
    pub audience: String,
}

/// Google's issuer, which needs no provider in the account.
pub const GOOGLE: &str = "accounts.google.com";

/// Which groups a target role may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Those whose owners gave them the tag.
    Tagged,
    /// Those that are listed.
    Listed,
    /// Both.
    Either,
}

/// What is the same in every installation that a document is printed for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The tag of groups that may be changed.
    pub tag_key: String,
    /// Which groups may be changed.
    pub limit: Limit,
    /// Where the service runs.
    pub platform: Platform,
    /// The kill switch ends sessions that were begun before this; all of them where nothing is said.
    pub before: Option<Timestamp>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { tag_key: MANAGED.to_owned(), limit: Limit::Tagged, platform: Platform::EcsTasks, before: None }
    }
}

/// One installation's own values.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The ARN of the service's own role.
    pub base_role: RoleArn,
    /// The ARNs of all target roles.
    pub target_roles: Vec<String>,
    /// The account that the target documents are for.
    pub account: String,
    /// The partition of that account.
    pub partition: String,
    /// The Regions in which that account may be changed.
    pub regions: Vec<String>,
    /// What that account's target role demands as `sts:ExternalId`.
    pub external_id: Option<String>,
    /// The ARNs of the groups that are listed.
    pub groups: Vec<String>,
}

/// What is written in place of an installation's own values.
#[derive(Clone, Debug)]
pub enum Form {
    /// The values themselves.
    Values(Box<Installation>),
    /// References to the parameters of a CloudFormation template.
    CloudFormation,
    /// References to the variables of a Terraform module.
    Terraform,
}

/// Which of the two roles a template makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The service's own.
    Base,
    /// The one that it borrows.
    Target,
    /// None: the kill switch, in the organization's own account.
    KillSwitch,
}

/// The documents of one shape.
#[derive(Clone, Debug)]
pub struct Documents<'a> {
    actions: &'a Actions,
    shape: Shape,
}

// === impl Form ===

impl Form {
    /// An ARN of the account at hand; `rest` is what follows the partition, with `{account}` where the account stands.
    fn arn(&self, rest: &str) -> Value {
        match self {
            Self::Values(own) => format!("arn:{}:{}", own.partition, rest.replace("{account}", &own.account)).into(),
            Self::CloudFormation => cloudformation::arn(rest),
            Self::Terraform => terraform::arn(rest),
        }
    }

    /// The same, of the service's own account.
    fn base_arn(&self, rest: &str) -> Value {
        match self {
            Self::Values(own) => {
                format!("arn:{}:{}", own.base_partition(), rest.replace("{account}", own.base_account())).into()
            }
            _ => self.arn(rest),
        }
    }

    fn base_account(&self) -> Value {
        match self {
            Self::Values(own) => own.base_account().into(),
            Self::CloudFormation => json!({"Ref": "AWS::AccountId"}),
            Self::Terraform => terraform::expression("local.account"),
        }
    }

    fn base_role(&self) -> Value {
        self.or("BaseRoleArn", "var.base_role_arn", |own| own.base_role.as_str().into())
    }

    fn target_roles(&self) -> Value {
        self.or("TargetRoleArns", "var.target_role_arns", |own| own.target_roles.clone().into())
    }

    fn regions(&self) -> Value {
        self.or("Regions", "var.regions", |own| own.regions.clone().into())
    }

    fn groups(&self) -> Value {
        self.or("GroupArns", "var.group_arns", |own| own.groups.clone().into())
    }

    fn external_id(&self) -> Option<Value> {
        match self {
            Self::Values(own) => own.external_id.clone().map(Value::from),
            _ => Some(self.or("ExternalId", "var.external_id", |_| Value::Null)),
        }
    }

    fn or(&self, parameter: &str, variable: &str, value: impl FnOnce(&Installation) -> Value) -> Value {
        match self {
            Self::Values(own) => value(own),
            Self::CloudFormation => json!({"Ref": parameter}),
            Self::Terraform => terraform::expression(variable),
        }
    }
}

impl Installation {
    fn base_account(&self) -> &str {
        self.base_role.account().as_str()
    }

    fn base_partition(&self) -> &str {
        self.base_role.partition()
    }
}

// === impl Documents ===

impl<'a> Documents<'a> {
    /// Documents of that shape.
    pub fn new(actions: &'a Actions, shape: Shape) -> Self {
        Self { actions, shape }
    }

    /// One document.
    pub fn document(&self, document: Document, form: &Form) -> Value {
        match document {
            Document::BaseTrust => self.base_trust(form),
            Document::BasePolicy => base_policy(form),
            Document::TargetTrust => self.target_trust(form),
            Document::TargetPolicy => self.target_policy(form),
            Document::KillSwitch => self.kill_switch(form),
        }
    }

    /// A CloudFormation template that makes one of the roles.
    pub fn template(&self, part: Part) -> Value {
        cloudformation::template(self, part)
    }

    /// A Terraform module that makes one of the roles.
    pub fn module(&self, part: Part) -> String {
        terraform::module(self, part)
    }

    fn base_trust(&self, form: &Form) -> Value {
        let of_service = |name: &str, actions: Value, condition: Value| {
            let mut statement =
                json!({"Sid": "Run", "Effect": "Allow", "Principal": {"Service": name}, "Action": actions});
            if let (Some(statement), false) = (statement.as_object_mut(), condition.is_null()) {
                statement.insert("Condition".to_owned(), condition);
            }
            policy(vec![statement])
        };
        match &self.shape.platform {
            // Only tasks of the account itself, whoever else's ECS might be asked to act.
            Platform::EcsTasks => of_service(
                "ecs-tasks.amazonaws.com",
                json!("sts:AssumeRole"),
                json!({
                    "StringEquals": {"aws:SourceAccount": form.base_account()},
                    "ArnLike": {"aws:SourceArn": form.base_arn("ecs:*:{account}:*")},
                }),
            ),
            Platform::Lambda => of_service("lambda.amazonaws.com", json!("sts:AssumeRole"), Value::Null),
            Platform::Ec2 => of_service("ec2.amazonaws.com", json!("sts:AssumeRole"), Value::Null),
            Platform::EksPodIdentity(account) => of_service(
                "pods.eks.amazonaws.com",
                json!(["sts:AssumeRole", "sts:TagSession"]),
                json!({"StringEquals": {
                    "aws:RequestTag/kubernetes-namespace": account.namespace,
                    "aws:RequestTag/kubernetes-service-account": account.name,
                }}),
            ),
            Platform::WebIdentity(identity) => {
                let issuer = &identity.issuer;
                let mut equals = Map::new();
                equals.insert(format!("{issuer}:sub"), identity.subject.clone().into());
                let principal = if issuer == GOOGLE {
                    // IAM calls the token's own audience `oaud`, and `aud` what it was issued to: of a service account, itself.
                    equals.insert(format!("{issuer}:oaud"), identity.audience.clone().into());
                    equals.insert(format!("{issuer}:aud"), identity.subject.clone().into());
                    Value::from(issuer.as_str())
                } else {
                    equals.insert(format!("{issuer}:aud"), identity.audience.clone().into());
                    form.base_arn(&format!("iam::{{account}}:oidc-provider/{issuer}"))
                };
                policy(vec![json!({
                    "Sid": "Run", "Effect": "Allow", "Principal": {"Federated": principal},
                    "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": equals},
                })])
            }
        }
    }

    /// One request asks for three things, and each must be allowed: the role, the name of who asks, and the tags. The external
    /// id belongs to the first alone, the source identity to the first two, tags to the first and the last; a condition on a
    /// key that an action does not have would never hold.
    fn target_trust(&self, form: &Form) -> Value {
        let principal = || json!({"AWS": form.base_role()});
        let present = |keys: &[String]| {
            let keys = keys.iter().map(|key| (key.clone(), json!("?*")));
            Value::Object(keys.collect())
        };
        let tags = ALWAYS.map(|key| format!("aws:RequestTag/{key}"));
        let mut name_and_tags = vec!["sts:SourceIdentity".to_owned()];
        name_and_tags.extend(tags.iter().cloned());
        let mut borrow = json!({"StringLike": present(&name_and_tags)});
        if let (Some(borrow), Some(external_id)) = (borrow.as_object_mut(), form.external_id()) {
            borrow.insert("StringEquals".to_owned(), json!({"sts:ExternalId": external_id}));
        }
        let mut keys: Vec<&str> = ALWAYS.into_iter().chain(BESIDES).collect();
        keys.sort_unstable();
        let mut tag = json!({"StringLike": present(&tags)});
        // A pod's own session passes tags on, which count as this request's; so nothing is said of further ones there.
        if let (Some(tag), false) = (tag.as_object_mut(), matches!(self.shape.platform, Platform::EksPodIdentity(_))) {
            tag.insert("ForAllValues:StringEquals".to_owned(), json!({"aws:TagKeys": keys}));
            tag.insert("Null".to_owned(), json!({"sts:TransitiveTagKeys": "true"}));
        }
        let name = json!({"StringLike": present(&["sts:SourceIdentity".to_owned()])});
        policy(vec![
            json!({"Sid": "Borrow", "Effect": "Allow", "Principal": principal(), "Action": "sts:AssumeRole", "Condition": borrow}),
            json!({"Sid": "Name", "Effect": "Allow", "Principal": principal(), "Action": "sts:SetSourceIdentity", "Condition": name}),
            json!({"Sid": "Tag", "Effect": "Allow", "Principal": principal(), "Action": "sts:TagSession", "Condition": tag}),
        ])
    }

    fn target_policy(&self, form: &Form) -> Value {
        let every = self.actions.every();
        let in_region = || json!({"aws:RequestedRegion": form.regions()});
        let any_rule = || form.arn("ec2:*:{account}:security-group-rule/*");
        let ours = || json!({format!("aws:ResourceTag/{CALL}"): "?*"});
        let change: Vec<&String> = every.writes.iter().chain(&every.rule_writes).collect();
        // EC2's Describe actions take no resource.
        let mut statements = vec![json!({
            "Sid": "Look", "Effect": "Allow", "Action": every.reads, "Resource": "*", "Condition": {"StringEquals": in_region()},
        })];
        if self.shape.limit != Limit::Listed {
            let tag = format!("aws:ResourceTag/{}", self.shape.tag_key);
            statements.push(json!({
                "Sid": "Change", "Effect": "Allow", "Action": change, "Resource": form.arn("ec2:*:{account}:security-group/*"),
                "Condition": {
                    "StringEquals": in_region(),
                    "Null": {tag.as_str(): "false"},
                    "StringNotEqualsIgnoreCase": {tag.as_str(): NOT_MANAGED},
                },
            }));
        }
        if self.shape.limit != Limit::Tagged {
            statements.push(json!({
                "Sid": "ChangeListed", "Effect": "Allow", "Action": change, "Resource": form.groups(),
                "Condition": {"StringEquals": in_region()},
            }));
        }
        // A rule is a resource of its own where it is made with tags, and where it is changed in place. It does not carry its
        // group's tags; that the group may be changed is the other half of the same request.
        statements.push(json!({
            "Sid": "MakeRule", "Effect": "Allow", "Action": MAKES.0, "Resource": any_rule(), "Condition": {"StringEquals": in_region()},
        }));
        statements.push(json!({
            "Sid": "ChangeRule", "Effect": "Allow", "Action": every.rule_writes, "Resource": any_rule(),
            "Condition": {"StringEquals": in_region(), "StringLike": ours()},
        }));
        statements.push(json!({
            "Sid": "TagNewRule", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": any_rule(),
            "Condition": {
                "StringEquals": {"aws:RequestedRegion": form.regions(), "ec2:CreateAction": MAKES.1},
                "StringLike": {format!("aws:RequestTag/{CALL}"): "?*"},
            },
        }));
        statements.push(json!({
            "Sid": "TagRule", "Effect": "Allow", "Action": every.tag_writes, "Resource": any_rule(),
            "Condition": {
                "StringEquals": in_region(),
                "StringLike": ours(),
                "ForAllValues:StringLike": {"aws:TagKeys": every_tag_key()},
                // ForAllValues holds for a request without any tags, which would delete them all.
                "Null": {"aws:TagKeys": "false"},
            },
        }));
        policy(statements)
    }

    /// Denies whatever sessions of the roles ask for, and with all of them that new ones are begun. A service control policy
    /// binds the principals of the accounts that it is attached to, the organization's own account excepted.
    fn kill_switch(&self, form: &Form) -> Value {
        let roles = match form {
            Form::Values(own) => {
                let mut roles = own.target_roles.clone();
                roles.push(own.base_role.to_string());
                Value::from(roles)
            }
            Form::CloudFormation => json!({"Ref": "RoleArns"}),
            Form::Terraform => terraform::expression("var.role_arns"),
        };
        let mut condition = json!({"ArnLike": {"aws:PrincipalArn": roles}});
        if let (Some(condition), Some(before)) = (condition.as_object_mut(), self.shape.before) {
            condition.insert("DateLessThan".to_owned(), json!({"aws:TokenIssueTime": before.to_string()}));
        }
        policy(vec![
            json!({"Sid": "KillSwitch", "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}),
        ])
    }
}

/// What every use of a target role consists of; each is asked for separately.
const BORROW: [&str; 3] = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"];

fn base_policy(form: &Form) -> Value {
    policy(vec![json!({"Sid": "Borrow", "Effect": "Allow", "Action": BORROW, "Resource": form.target_roles()})])
}

fn policy(statements: Vec<Value>) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}
