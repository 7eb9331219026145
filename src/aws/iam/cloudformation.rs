//! Templates of CloudFormation, in JSON: one that makes the service's own role, one for each account that it reaches.

use serde_json::{Value, json};

use super::{Document, Documents, Form, Limit, Part};

/// An ARN of the account that the stack is in.
pub(super) fn arn(rest: &str) -> Value {
    json!({"Fn::Sub": format!("arn:${{AWS::Partition}}:{}", rest.replace("{account}", "${AWS::AccountId}"))})
}

pub(super) fn template(documents: &Documents<'_>, part: Part) -> Value {
    let of = |document| documents.document(document, &Form::CloudFormation);
    let role_arn = || json!({"RoleArn": {"Description": "The role", "Value": {"Fn::GetAtt": ["Role", "Arn"]}}});
    match part {
        Part::Base => json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "The role that whitelistmcp itself runs as. It may borrow the target roles, and nothing else.",
            "Parameters": {
                "RoleName": name("whitelistmcp-core"),
                "TargetRoleArns": {
                    "Type": "CommaDelimitedList",
                    "Description": "The ARNs of the roles that it borrows, one for each account",
                },
            },
            "Resources": {"Role": role(of(Document::BaseTrust), "borrow-targets", of(Document::BasePolicy))},
            "Outputs": role_arn(),
        }),
        Part::Target => {
            let mut parameters = json!({
                "RoleName": name("whitelistmcp-target"),
                "BaseRoleArn": {"Type": "String", "Description": "The ARN of the role that whitelistmcp runs as", "AllowedPattern": "^arn:[a-z-]+:iam::[0-9]{12}:role/.+$"},
                "ExternalId": {
                    "Type": "String", "Description": "The external_id of this account in whitelistmcp's configuration",
                    "MinLength": 2, "MaxLength": 1224, "AllowedPattern": "^[A-Za-z0-9+=,.@:/_-]+$",
                },
                "Regions": {"Type": "CommaDelimitedList", "Description": "The Regions in which groups may be changed"},
            });
            if let (Some(parameters), true) = (parameters.as_object_mut(), documents.shape.limit != Limit::Tagged) {
                let groups = json!({"Type": "CommaDelimitedList", "Description": "The ARNs of the security groups that may be changed"});
                parameters.insert("GroupArns".to_owned(), groups);
            }
            json!({
                "AWSTemplateFormatVersion": "2010-09-09",
                "Description": "What whitelistmcp may do in this account at most. Each call gets a session that may do less.",
                "Parameters": parameters,
                "Resources": {"Role": role(of(Document::TargetTrust), "security-groups", of(Document::TargetPolicy))},
                "Outputs": role_arn(),
            })
        }
        Part::KillSwitch => json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "Denies everything to whitelistmcp's roles. Attached to nothing until TargetIds names roots, units or accounts.",
            "Parameters": {
                "RoleArns": {"Type": "CommaDelimitedList", "Description": "The ARNs of whitelistmcp's roles; * stands for any account"},
                "TargetIds": {"Type": "CommaDelimitedList", "Description": "The roots, organizational units or accounts that it binds", "Default": ""},
            },
            "Conditions": {"Attached": {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "TargetIds"}]}, ""]}]}},
            "Resources": {"Policy": {
                "Type": "AWS::Organizations::Policy",
                "Properties": {
                    "Name": "whitelistmcp-kill-switch",
                    "Type": "SERVICE_CONTROL_POLICY",
                    "Description": "Ends whatever whitelistmcp does",
                    "Content": of(Document::KillSwitch),
                    "TargetIds": {"Fn::If": ["Attached", {"Ref": "TargetIds"}, {"Ref": "AWS::NoValue"}]},
                },
            }},
        }),
    }
}

fn name(default: &str) -> Value {
    json!({"Type": "String", "Default": default, "Description": "The role's name", "MinLength": 1, "MaxLength": 64, "AllowedPattern": "^[A-Za-z0-9+=,.@_-]+$"})
}

fn role(trust: Value, policy_name: &str, policy: Value) -> Value {
    json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": {"Ref": "RoleName"},
            // A chained session lasts an hour at most, and each of these a quarter of it.
            "MaxSessionDuration": 3600,
            "AssumeRolePolicyDocument": trust,
            "Policies": [{"PolicyName": policy_name, "PolicyDocument": policy}],
        },
    })
}
