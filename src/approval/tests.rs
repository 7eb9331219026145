use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::identity::peer::PeerId;
use crate::identity::scope::Scopes;

fn approvals() -> Approvals {
    let config = Config { wait: Duration::from_secs(60), login_client: None, key_file: None };
    Approvals::new(&config, None, Clock::system()).expect("sound")
}

/// Two principals that differ.
fn people() -> (Principal, Principal) {
    (Principal::own("alice"), Principal::service(&PeerId::in_process(), Scopes::default()))
}

fn change() -> Change {
    Change {
        tool: "whitelist_add",
        target: Target { account: String::new(), region: String::new(), group: String::new() },
        title: "a change".to_owned(),
        details: Vec::new(),
        call: "call".to_owned(),
        policies: vec!["four-eyes".to_owned()],
    }
}

async fn ask(approvals: &Approvals, binding: &Binding) -> Result<Granted, Request> {
    approvals.word(binding, WhoseWord::Another, change).await.expect("reachable")
}

#[tokio::test]
async fn a_word_is_for_one_binding_and_one_use() {
    let (approvals, (alice, bob)) = (approvals(), people());
    let binding = Binding::new(&alice, "these arguments", "this difference");
    let request = ask(&approvals, &binding).await.expect_err("it waits");
    assert_eq!(ask(&approvals, &binding).await.expect_err("still").id(), request.id(), "asked again, it is the same");
    let decided = approvals.decide(request.clone(), &bob, true, "fine").await.expect("decided");
    assert_eq!(decided.state(), State::Approved);
    // Another person, another argument, another difference: each a request of its own.
    for other in [
        Binding::new(&bob, "these arguments", "this difference"),
        Binding::new(&alice, "other arguments", "this difference"),
        Binding::new(&alice, "these arguments", "another difference"),
        Binding::new(&alice, "these argumentsthis", " difference"),
    ] {
        assert_ne!(ask(&approvals, &other).await.expect_err("another").id(), request.id());
    }
    let granted = ask(&approvals, &binding).await.expect("approved");
    assert_eq!((granted.by().name.as_str(), granted.note()), (bob.name(), "fine"));
    let next = ask(&approvals, &binding).await.expect_err("spent");
    assert_ne!(next.id(), request.id());
    assert_eq!(approvals.find(request.id()).await.expect("reachable").expect("known").state(), State::Used);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_spend_it_once() {
    for _ in 0..20 {
        let (approvals, (alice, bob)) = (approvals(), people());
        let binding = Binding::new(&alice, "arguments", "difference");
        let request = ask(&approvals, &binding).await.expect_err("it waits");
        approvals.decide(request, &bob, true, "").await.expect("decided");
        let tries: Vec<_> = (0..16)
            .map(|_| {
                let (approvals, binding) = (approvals.clone(), binding.clone());
                tokio::spawn(async move { ask(&approvals, &binding).await.is_ok() })
            })
            .collect();
        let granted = futures_util::future::join_all(tries).await;
        assert_eq!(granted.into_iter().filter(|granted| matches!(granted, Ok(true))).count(), 1);
    }
}

#[tokio::test]
async fn a_spending_that_is_lost_leaves_the_word_spent() {
    let (approvals, (alice, bob)) = (approvals(), people());
    let binding = Binding::new(&alice, "arguments", "difference");
    let request = ask(&approvals, &binding).await.expect_err("it waits");
    approvals.decide(request.clone(), &bob, true, "").await.expect("decided");
    ask(&approvals, &binding).await.expect("approved");
    approvals.store.put(&at("spent", request.id()), b"", Duration::ZERO).await.expect("over at once");
    assert!(ask(&approvals, &binding).await.is_err());
}

#[test]
fn nobody_is_another_person_by_a_key_of_their_own() {
    let (alice, _) = people();
    let key = |owner: &str| Person {
        owner: Some(owner.to_owned()),
        subject: "k1".to_owned(),
        issuer: "api-key".to_owned(),
        ..Person::of(&alice)
    };
    assert!(key(alice.name()).is_behind(&alice) && key(alice.id()).is_behind(&alice) && key("ALICE").is_behind(&alice));
    assert!(!key("bob").is_behind(&alice));
}

#[tokio::test]
async fn who_asked_does_not_approve_and_a_decision_stands() {
    let (approvals, (alice, bob)) = (approvals(), people());
    let binding = Binding::new(&alice, "arguments", "difference");
    let request = ask(&approvals, &binding).await.expect_err("it waits");
    let own = approvals.decide(request.clone(), &alice, true, "").await;
    assert!(matches!(own, Err(ApprovalError::OwnRequest)), "{own:?}");
    approvals.decide(request.clone(), &bob, false, "no").await.expect("decided");
    let twice = approvals.decide(request, &bob, true, "").await;
    assert!(matches!(twice, Err(ApprovalError::Decided { approved: false, .. })), "{twice:?}");
    assert_eq!(ask(&approvals, &binding).await.expect_err("declined").state(), State::Declined);
    // Its own word is not another's.
    let own = Binding::new(&alice, "own", "difference");
    let request = approvals.word(&own, WhoseWord::Requester, change).await.expect("reachable").expect_err("waits");
    let other = approvals.decide(request.clone(), &bob, true, "").await;
    assert!(matches!(other, Err(ApprovalError::NotRequester)), "{other:?}");
    approvals.decide(request, &alice, true, "").await.expect("decided");
    assert!(ask(&approvals, &own).await.is_err(), "policy wants more by now than was given");
}

#[tokio::test]
async fn what_is_over_or_forged_counts_for_nothing() {
    let start: Timestamp = "2027-01-01T00:00:00Z".parse().expect("a time");
    let passed = Arc::new(AtomicI64::new(0));
    let hands = Arc::clone(&passed);
    let clock = Clock::from_fn(move || start + jiff::SignedDuration::from_secs(passed.load(Ordering::Relaxed)));
    let config = Config { wait: Duration::from_secs(60), login_client: None, key_file: None };
    let approvals = Approvals::new(&config, None, clock).expect("sound");
    let (alice, bob) = people();
    let binding = Binding::new(&alice, "arguments", "difference");
    let request = ask(&approvals, &binding).await.expect_err("it waits");
    // Somebody who can write where requests are kept, and has no key.
    let forged = Decision::new(Person::of(&bob), true, "", request.made());
    let key = at("decision", request.id());
    let sealed = Seal::random().expect("a key").close(&context("decision", request.id()), &forged.to_json());
    approvals.store.put(&key, &sealed, Duration::from_secs(60)).await.expect("kept");
    assert!(approvals.find(request.id()).await.expect("reachable").is_none());
    let next = ask(&approvals, &binding).await.expect_err("a new one");
    // A decision on one request is none on another.
    let decided = approvals.decide(next.clone(), &bob, true, "").await.expect("decided");
    let sealed = approvals.store.value(&at("decision", decided.id())).await.expect("kept").expect("there");
    let other = ask(&approvals, &Binding::new(&alice, "other", "x")).await.expect_err("it waits");
    approvals.store.put(&at("decision", other.id()), &sealed, Duration::from_secs(60)).await.expect("kept");
    assert!(ask(&approvals, &Binding::new(&alice, "other", "x")).await.is_err());
    hands.store(61, Ordering::Relaxed);
    assert!(approvals.find(next.id()).await.expect("reachable").is_none(), "its time is up");
    assert!(ask(&approvals, &binding).await.is_err());
}

#[tokio::test]
async fn nobody_fills_the_store() {
    let (approvals, (alice, bob)) = (approvals(), people());
    for n in 0..WAITING_MOST {
        ask(&approvals, &Binding::new(&alice, &n.to_string(), "")).await.expect_err("it waits");
    }
    let one_more = approvals.word(&Binding::new(&alice, "one more", ""), WhoseWord::Another, change).await;
    assert!(matches!(one_more, Err(ApprovalError::TooMany)), "{one_more:?}");
    ask(&approvals, &Binding::new(&bob, "", "")).await.expect_err("others still can");
}
