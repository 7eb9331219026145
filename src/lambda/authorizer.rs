//! A REST API's `TOKEN` authorizer: a gate before the function, which knows the token and nothing else of the request. The function
//! verifies again, with the address that the request came from.
//! Source: API Gateway developer guide, "Use API Gateway Lambda authorizers".

use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use crate::identity::Principal;

/// What API Gateway asks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    /// The whole value of the header, as it was sent.
    #[serde(rename = "authorizationToken")]
    pub(super) token: String,
    /// The method that was called: `arn:PARTITION:execute-api:REGION:ACCOUNT:API/STAGE/METHOD/PATH`.
    pub(super) method_arn: String,
}

/// The answer that lets a caller through, to every method of that stage: API Gateway keeps it under the token for a while and asks for no
/// other method anew.
pub(super) fn allow(principal: &Principal, method_arn: &str) -> Result<Value, Failure> {
    let stage = stage_of(method_arn)
        .ok_or_else(|| Failure::new("EventNotTaken", "`methodArn` names no method of an API of API Gateway"))?;
    // Values of a context are strings, numbers and booleans; nothing of the token is among them.
    Ok(json!({
        "principalId": principal.id(),
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [{"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": format!("{stage}/*")}],
        },
        "context": {
            "issuer": principal.issuer(),
            "subject": principal.subject(),
            "kind": principal.kind().as_str(),
            "scope": principal.scopes().iter().collect::<Vec<_>>().join(" "),
        },
    }))
}

/// The ARN up to the stage.
fn stage_of(method_arn: &str) -> Option<String> {
    let ["arn", partition, "execute-api", region, account, method] =
        *method_arn.splitn(6, ':').collect::<Vec<_>>().as_slice()
    else {
        return None;
    };
    let mut parts = method.splitn(4, '/');
    let (api, stage, _verb) = (parts.next()?, parts.next()?, parts.next()?);
    let sound = |part: &str| !part.is_empty() && !part.contains(['*', '?']);
    let whole = [partition, region, account, api].into_iter().all(sound) && !stage.is_empty();
    whole.then(|| format!("arn:{partition}:execute-api:{region}:{account}:{api}/{stage}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_let_into_one_stage_of_one_api() {
        for (arn, stage) in [
            (
                "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/prod/POST/mcp",
                Some("arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/prod"),
            ),
            // As the console tests an authorizer.
            (
                "arn:aws:execute-api:us-west-2:123456789012:ymy8tbxw7b/*/GET/",
                Some("arn:aws:execute-api:us-west-2:123456789012:ymy8tbxw7b/*"),
            ),
            (
                "arn:aws-cn:execute-api:cn-north-1:123456789012:x/s/GET/a/b",
                Some("arn:aws-cn:execute-api:cn-north-1:123456789012:x/s"),
            ),
            ("arn:aws:execute-api:eu-central-1:123456789012:*/prod/POST/mcp", None),
            ("arn:aws:execute-api:*:123456789012:a/prod/POST/mcp", None),
            ("arn:aws:execute-api:eu-central-1:123456789012:a/prod", None),
            ("arn:aws:lambda:eu-central-1:123456789012:function:x", None),
            ("", None),
        ] {
            assert_eq!(stage_of(arn).as_deref(), stage, "{arn}");
        }
    }
}
