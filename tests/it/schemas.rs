//! The schemas that clients are shown and the reading of their arguments say the same, as an independent validator sees it:
//! what a schema admits is taken, what it refuses is refused before any service is asked, and answers keep their own.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use whitelistmcp::annotations::Annotations;
use whitelistmcp::edge::read_arguments;
use whitelistmcp::mcp::catalogue;
use whitelistmcp::pb::DESCRIPTOR_SET;

use crate::support::backend::{self, Stage};

/// How many objects each of the tests looks at.
const CASES: usize = 4000;
/// How many go all the way to a service and back.
const ECHOES: usize = 300;

/// Says of each line whether the object keeps the schema, by a validator that knows nothing of us.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
schemas = [Draft202012Validator(schema) for schema in json.loads(sys.stdin.readline())]
for line in sys.stdin:
    which, value = json.loads(line)
    error = next(schemas[which].iter_errors(value), None)
    print(json.dumps(None if error is None else error.message))
"#;

/// What is wrong with each value by the schema of that number, or nothing.
fn validate(schemas: &[Value], values: &[(usize, Value)]) -> Vec<Option<String>> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/bin/python");
    let mut validator = Command::new(python)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the validator is installed by `make tools-python`");
    let mut lines = format!("{}\n", json!(schemas));
    lines.extend(values.iter().map(|(which, value)| format!("{}\n", json!([which, value]))));
    let mut stdin = validator.stdin.take().expect("a pipe");
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).expect("it reads"));
    let output = validator.wait_with_output().expect("it ends");
    writing.join().expect("written");
    let said: Vec<_> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(said.len(), values.len());
    said
}

/// Values that are often right for one of the kinds, and anything else.
fn any_value() -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "yes",
        "no",
        "ab",
        "tcp",
        "COLOUR_RED",
        "COLOUR_UNSPECIFIED",
        "AQID",
        "12",
        "-12",
        "2026-01-02T03:04:05Z",
        "1.5s",
        "",
        "x",
        "18446744073709551615",
        "99999999999999999999",
        "longer than eight",
    ]);
    let small = prop_oneof![
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(1.0)),
        Just(json!(1.5)),
        Just(json!(3_000_000_000_u32)),
        Just(json!(1e300)),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(Value::Null),
        texts.clone().prop_map(Value::from),
        texts.clone().prop_map(Value::from),
        texts.prop_map(Value::from),
        ".{0,300}".prop_map(Value::from),
    ];
    let inner = (prop::option::of(small.clone()), prop::option::of(small.clone())).prop_map(|(word, number)| {
        let mut inner = serde_json::Map::new();
        inner.extend(word.map(|word| ("word".to_owned(), word)));
        inner.extend(number.map(|number| ("numbers".to_owned(), json!([number]))));
        Value::from(inner)
    });
    let some = prop_oneof![small.clone(), inner.clone()];
    prop_oneof![
        4 => small,
        2 => inner,
        2 => prop::collection::vec(some.clone(), 0..5).prop_map(Value::from),
        1 => prop::collection::btree_map("[a-z]{1,3}", some, 0..3).prop_map(|map| json!(map)),
    ]
}

/// Objects with some of a message's own names, and now and then another.
fn objects(names: &[String], count: usize, seed: u8) -> Vec<Value> {
    let names: Vec<String> = names.iter().cloned().chain(["none".to_owned()]).collect();
    let most = names.len().min(5);
    let objects = prop::collection::btree_map(prop::sample::select(names), any_value(), 0..=most);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| json!(objects.new_tree(&mut runner).expect("a value").current())).collect()
}

/// What each schema says, and what our reading says, of every object.
fn compare(annotations: &Annotations, objects: &[(String, Value)], beyond: impl Fn(&Value, &str) -> bool) -> usize {
    let tools = catalogue::tools(annotations);
    let at = |name: &str| tools.iter().position(|tool| tool["name"] == name).expect("a tool");
    let schemas: Vec<Value> = tools.iter().map(|tool| tool["inputSchema"].clone()).collect();
    let values: Vec<(usize, Value)> = objects.iter().map(|(tool, value)| (at(tool), value.clone())).collect();
    let mut taken = 0;
    for ((tool, value), wrong) in objects.iter().zip(validate(&schemas, &values)) {
        let raw = RawValue::from_string(value.to_string()).expect("JSON");
        match read_arguments(annotations, tool, &raw) {
            Ok(_) => {
                taken += 1;
                assert_eq!(wrong, None, "{tool} takes what its schema refuses: {value}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    wrong.is_some() || beyond(value, &error),
                    "{tool} refuses what its schema admits: {error}: {value}"
                );
            }
        }
    }
    taken
}

fn fields(annotations: &Annotations, tool: &str) -> Vec<String> {
    let spec = annotations.find(tool).expect("a tool");
    let input = spec.method.input();
    let fields = input.fields().filter(|field| !whitelistmcp::annotations::is_aside(field));
    fields.map(|field| field.name().to_owned()).collect()
}

#[test]
fn every_tools_schema_and_its_reading_say_the_same() {
    let annotations = Annotations::read(DESCRIPTOR_SET).expect("annotated");
    let tools: Vec<String> = annotations.tools().iter().map(|tool| tool.annotations.name.clone()).collect();
    let count = CASES / tools.len();
    let objects = tools.iter().zip(1_u8..).flat_map(|(tool, seed)| {
        objects(&fields(&annotations, tool), count, seed)
            .into_iter()
            .map(|object| (tool.clone(), object))
            .collect::<Vec<_>>()
    });
    let objects: Vec<(String, Value)> = objects.collect();
    let taken = compare(&annotations, &objects, |_, _| false);
    assert!(taken > objects.len() / 50, "only {taken} of {} say anything", objects.len());
}

#[test]
fn the_schema_of_every_kind_of_field_and_its_reading_say_the_same() {
    let annotations = Annotations::read(&backend::descriptors()).expect("annotated");
    let objects = objects(&fields(&annotations, "echo"), CASES, 77);
    let objects: Vec<(String, Value)> = objects.into_iter().map(|object| ("echo".to_owned(), object)).collect();
    // What no schema says here: that base64 must be sound, how far 64 bits reach, that two members of a oneof exclude each
    // other, and what a moment and a span may be.
    let beyond = |arguments: &Value, error: &str| {
        let both = arguments.get("left").is_some() && arguments.get("right").is_some();
        both || ["raw", "large", "larger", "when", "how_long"].iter().any(|name| error.contains(&format!("`{name}`")))
    };
    let taken = compare(&annotations, &objects, beyond);
    assert!(taken > objects.len() / 20, "only {taken} of {} say anything", objects.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_the_schema_of_answers() {
    let annotations = Annotations::read(&backend::descriptors()).expect("annotated");
    let stage = Stage::start().await;
    let mut answers = Vec::new();
    for object in objects(&fields(&annotations, "echo"), ECHOES * 10, 5) {
        let raw = RawValue::from_string(object.to_string()).expect("JSON");
        if answers.len() >= ECHOES || read_arguments(&annotations, "echo", &raw).is_err() {
            continue;
        }
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": object}});
        let answer = stage.post(&[], &body).await.json();
        let structured = answer["result"]["structuredContent"].clone();
        assert!(structured.is_object(), "{answer:#}");
        answers.push((object, structured));
    }
    stage.stop().await;
    assert!(answers.len() > ECHOES / 5, "{}", answers.len());
    let tools = catalogue::tools(&annotations);
    let echo = tools.iter().find(|tool| tool["name"] == "echo").expect("a tool");
    let values: Vec<(usize, Value)> = answers.iter().map(|(_, answer)| (0, answer.clone())).collect();
    for ((object, answer), wrong) in answers.iter().zip(validate(&[echo["outputSchema"].clone()], &values)) {
        assert_eq!(wrong, None, "{object} came back as {answer}");
    }
}
