//! Whatever several holders do in whatever order, a rule stands exactly as long as somebody holds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use whitelistmcp::app;
use whitelistmcp::broker::upkeep::Reconciler;
use whitelistmcp::shutdown::Shutdown;

use crate::support::aws_double::AwsDouble;
use crate::support::temporary::Directory;
use crate::support::{Stack, parse, reconciler_config};

/// How many sequences are tried, and how long each is.
const SEQUENCES: u32 = 24;
const STEPS: usize = 14;
/// How far the time goes on in one step. All steps together stay within what a clock may be off.
const TICK: i64 = 4;
/// Closer to an end than this, in seconds, nothing is said about whether a rule stands.
const MARGIN: i64 = 2;

const HOLDERS: [&str; 3] = ["alice", "bob", "carol"];
const ADDRESSES: usize = 3;

/// One thing that somebody does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add { who: usize, at: usize, seconds: i64 },
    Extend { who: usize, at: usize, seconds: i64 },
    Move { who: usize, from: usize, to: usize },
    Leave { who: usize, at: usize },
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, at) = (0..HOLDERS.len(), 0..ADDRESSES);
    let seconds =
        prop_oneof![proptest::strategy::Just(6_i64), proptest::strategy::Just(15), proptest::strategy::Just(45)];
    let step = prop_oneof![
        4 => (who.clone(), at.clone(), seconds.clone()).prop_map(|(who, at, seconds)| Step::Add { who, at, seconds }),
        2 => (who.clone(), at.clone(), seconds).prop_map(|(who, at, seconds)| Step::Extend { who, at, seconds }),
        2 => (who.clone(), at.clone(), at.clone()).prop_map(|(who, from, to)| Step::Move { who, from, to }),
        2 => (who, at).prop_map(|(who, at)| Step::Leave { who, at }),
        3 => any::<()>().prop_map(|()| Step::Tick),
    ];
    proptest::collection::vec(step, STEPS)
}

/// Who holds which address, and until when, as the answers said.
type Model = BTreeMap<(usize, usize), Timestamp>;

struct World {
    aws: AwsDouble,
    stack: Stack,
    reconciler: Arc<Reconciler>,
    ahead: i64,
    /// The part of the address that is this sequence's own.
    sequence: u32,
}

impl World {
    fn address(&self, at: usize) -> String {
        format!("198.51.{}.{at}", self.sequence)
    }

    #[expect(clippy::disallowed_methods, reason = "the double's time is the machine's, and what the test adds to it")]
    fn now(&self) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_secs(self.ahead)
    }

    async fn call(&self, who: usize, tool: &str, mut arguments: Value) -> Result<Value, String> {
        arguments["security_group"] = "staging-db".into();
        let token = self.stack.issuer.token(HOLDERS[who], "whitelist:write");
        let result = self.stack.call_as(&token, tool, arguments).await;
        if result["isError"] == true {
            let error = crate::support::error_of(&result);
            return Err(error["reason"].as_str().unwrap_or_default().to_owned());
        }
        Ok(result["structuredContent"].clone())
    }

    async fn take(&mut self, step: Step, model: &mut Model) {
        let until = |answer: &Value| answer["items"][0]["until"].as_str().and_then(|until| until.parse().ok());
        match step {
            Step::Add { who, at, seconds } => {
                let add = json!({"address": self.address(at), "port": "22", "reason": "a property", "duration": format!("{seconds}s")});
                let answer = self.call(who, "whitelist_add", add).await.expect("it is permitted");
                model.insert((who, at), until(&answer).expect("an end"));
            }
            Step::Extend { who, at, seconds } => {
                let extend = json!({"address": self.address(at), "duration": format!("{seconds}s")});
                match self.call(who, "whitelist_extend", extend).await {
                    Ok(answer) => drop(model.insert((who, at), until(&answer).expect("an end"))),
                    Err(reason) => {
                        assert_eq!(reason, "NO_LEASE", "{step:?}");
                        assert!(model.get(&(who, at)).is_none_or(|end| !self.lasts(*end)), "{step:?} {model:?}");
                    }
                }
            }
            Step::Move { who, from, to } => {
                let relocate = json!({"from_address": self.address(from), "address": self.address(to)});
                match self.call(who, "whitelist_move", relocate).await {
                    Ok(answer) => {
                        model.remove(&(who, from));
                        model.insert((who, to), until(&answer).expect("an end"));
                    }
                    Err(reason) => {
                        assert_eq!(reason, "NO_LEASE", "{step:?}");
                        assert!(model.get(&(who, from)).is_none_or(|end| !self.lasts(*end)), "{step:?} {model:?}");
                    }
                }
            }
            Step::Leave { who, at } => {
                match self.call(who, "whitelist_remove", json!({"address": self.address(at)})).await {
                    Ok(answer) => assert!(
                        ["removed", "left", "nothing_to_remove"]
                            .contains(&answer["outcome"].as_str().unwrap_or_default()),
                        "{answer:#}"
                    ),
                    // Others hold it, and the caller does not.
                    Err(reason) => assert_eq!(reason, "NOT_HELD", "{step:?}"),
                }
                model.remove(&(who, at));
            }
            Step::Tick => {
                self.ahead += TICK;
                self.aws.clock_offset(self.ahead);
                self.reconciler.round().await;
            }
        }
    }

    fn lasts(&self, end: Timestamp) -> bool {
        end.duration_since(self.now()).as_secs() > MARGIN
    }

    /// A rule stands if somebody holds it, and none stands that nobody has held for a while and a round.
    fn check(&self, model: &Model, step: Step) {
        let standing = self.aws.standing();
        for at in 0..ADDRESSES {
            let source = format!("{}/32", self.address(at));
            let stands = standing.iter().filter(|rule| rule.source == source).count();
            let ends: Vec<i64> = model
                .iter()
                .filter(|((_, held), _)| *held == at)
                .map(|(_, end)| end.duration_since(self.now()).as_secs())
                .collect();
            if ends.iter().any(|left| *left > MARGIN) {
                assert_eq!(stands, 1, "after {step:?}: {source} is held: {model:?}");
            } else if matches!(step, Step::Tick) && ends.iter().all(|left| *left < -MARGIN) {
                assert_eq!(stands, 0, "after {step:?}: nobody holds {source}: {model:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_stands_exactly_as_long_as_somebody_holds_it() {
    let aws = AwsDouble::start().await;
    aws.rule_limit(1000);
    let stack = Stack::start(&aws).await;
    let (directory, shutdown) = (Directory::new(), Shutdown::new());
    let config = parse(&reconciler_config(&directory, &aws.access()));
    let reconciler = app::reconciler(&config, &shutdown).await.expect("it starts");
    let mut world = World { aws, stack, reconciler, ahead: 0, sequence: 0 };
    let mut runner = TestRunner::new(Config::default());
    for sequence in 0..SEQUENCES {
        // Each in addresses of its own, and back at the time that it is.
        (world.sequence, world.ahead) = (sequence, 0);
        world.aws.clock_offset(0);
        let steps = steps().new_tree(&mut runner).expect("a sequence").current();
        let mut model = Model::new();
        for &step in &steps {
            world.take(step, &mut model).await;
            world.check(&model, step);
        }
        assert!(steps.len() == STEPS, "{steps:?}");
    }
    shutdown.begin();
    assert!(shutdown.finished().await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.stack.stop().await;
}
