use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::pb::DESCRIPTOR_SET;
use crate::pb::whitelistmcp::v1::{AddRuleRequest, ListRulesResponse, Rule};

fn annotations() -> Annotations {
    Annotations::read(DESCRIPTOR_SET).expect("annotated")
}

fn read(text: &str) -> Result<AddRuleRequest, String> {
    let annotations = annotations();
    let tool = annotations.find("whitelist_add").expect("a tool");
    let raw = RawValue::from_string(text.to_owned()).expect("JSON");
    let bytes = to_message(&tool.method.input(), Some(&raw), &annotations).map_err(|error| error.to_string())?;
    Ok(AddRuleRequest::decode(bytes).expect("a message"))
}

#[test]
fn what_fits_arrives_as_it_was_sent() {
    let request =
        read(r#"{"security_group":"db","address":"203.0.113.7","port":5432,"reason":"tést \"x\"","dry_run":true}"#)
            .expect("fits");
    assert_eq!((request.port.as_str(), request.reason.as_str(), request.dry_run), ("5432", "tést \"x\"", true));
}

#[test]
fn a_whole_number_may_be_written_with_a_point() {
    for (written, read_as) in [("22", "22"), ("22.0", "22"), ("1e3", "1000"), ("-0.0", "0")] {
        let text = format!(r#"{{"security_group":"db","address":"a","reason":"because","port":{written}}}"#);
        assert_eq!(read(&text).map(|request| request.port).as_deref(), Ok(read_as), "{written}");
    }
}

#[test]
fn looseness_of_protojson_is_refused() {
    for (text, part) in [
        (r#"{"securityGroup":"db","address":"a","reason":"because"}"#, "did you mean `security_group`"),
        (r#"{"security_group":"db","security_group":"x","address":"a","reason":"because"}"#, "no name is given twice"),
        (
            r#"{"security_group":"db","security_gr\u006fup":"x","address":"a","reason":"because"}"#,
            "no name is given twice",
        ),
        (r#"{"security_group":"db","address":"a","reason":"because","port":""}"#, "at least 1"),
        (r#"{"security_group":null,"address":"a","reason":"because"}"#, "must be a string"),
        (r#"{"security_group":5,"address":"a","reason":"because"}"#, "must be a string"),
        (r#"{"security_group":"db","address":"a","reason":"because","dry_run":1}"#, "true or false"),
        (r#"{"security_group":"db","address":"a","reason":"because","port":1.5}"#, "a whole number"),
        (r#"{"security_group":"db","address":"a","reason":"because","port":1e300}"#, "a whole number"),
        (
            r#"{"security_group":"db","address":"a","reason":"because","port":"22","10":"x"}"#,
            "there is no argument `10`",
        ),
        (r#"[]"#, "must be a JSON object"),
        (r#"null"#, "must be a JSON object"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn an_answer_keeps_every_field_and_its_sentence_comes_first() {
    let annotations = annotations();
    let spec = annotations.find("whitelist_list").expect("a tool");
    let answer = ListRulesResponse {
        summary: "Two.".to_owned(),
        rules: vec![Rule { from_port: -1, ..Rule::default() }],
        ..Default::default()
    };
    let said = to_json(&spec.method.output(), &spec.exchange, answer.encode_to_vec().into(), &annotations);
    let Said { summary, content, structured } = said.expect("it decodes");
    let json = structured.expect("more than content");
    assert_eq!((summary.as_deref(), content.len()), (Some("Two."), 0));
    assert_eq!(
        (&json["rules"][0]["from_port"], &json["rules"][0]["managed"], &json["total"]),
        (&json!(-1), &json!(false), &json!(0))
    );
}

#[test]
fn header_values_may_be_encoded() {
    assert_eq!(decode_header("plain").as_deref(), Some("plain"));
    assert_eq!(decode_header("=?base64?w6k=?=").as_deref(), Some("é"));
    assert_eq!(decode_header("=?base64?!?="), None);
    assert_eq!(decode_header("=?base64?/w==?="), None);
}

/// Any JSON, nested a little.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,80}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(".{0,12}", inner, 0..4).prop_map(|map| json!(map))
        ]
    })
}

/// An object with the tool's own names, some of them missing, and any values.
fn any_arguments() -> impl Strategy<Value = Json> {
    let names = prop::sample::select(vec![
        "security_group",
        "address",
        "port",
        "protocol",
        "reason",
        "duration",
        "until",
        "account",
        "region",
        "dry_run",
        "other",
    ]);
    prop::collection::btree_map(names, any_json(), 0..11).prop_map(|map| json!(map))
}

proptest! {
    /// Whatever comes, the answer is a message or a refusal; and a message holds what the schema's limits say.
    #[test]
    fn whatever_is_admitted_keeps_the_limits(arguments in any_arguments()) {
        if let Ok(request) = read(&arguments.to_string()) {
            prop_assert!(arguments.get("other").is_none());
            prop_assert!(request.security_group.chars().count() <= 128);
            prop_assert!(request.address.chars().count() <= 64);
            prop_assert!((3..=200).contains(&request.reason.chars().count()));
            prop_assert!(["", "tcp", "udp", "icmp", "icmpv6"].contains(&request.protocol.as_str()));
        }
    }

    /// Whatever keeps the schema is admitted, and arrives unchanged.
    #[test]
    fn whatever_keeps_the_schema_is_admitted(group in ".{1,128}", address in ".{1,64}", reason in ".{3,200}", port in any::<u16>(), dry_run: bool) {
        let arguments = json!({"security_group": group, "address": address, "reason": reason, "port": port, "dry_run": dry_run});
        let request = read(&arguments.to_string());
        prop_assert_eq!(request, Ok(AddRuleRequest { security_group: group, address, reason, port: port.to_string(), dry_run, ..Default::default() }));
    }

    /// The envelope never panics, and what it takes for a request has an id that can be echoed.
    #[test]
    fn any_bytes_are_a_message_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..200), json in any_json()) {
        for body in [bytes, json.to_string().into_bytes()] {
            if let Ok(crate::mcp::envelope::Message::Request(request)) = crate::mcp::envelope::parse(&body) {
                prop_assert!(serde_json::from_str::<Json>(request.id.get()).is_ok());
            }
        }
    }
}
