//! Ending, reading again, and being one of several: processes under load, with the signals that an operator sends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::balancer::Balancer;
use crate::support::processes::Processes;
use crate::support::redis::Redis;
use crate::support::{Ground, Options, eventually, send};

fn call(tool: &str, arguments: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        .to_string()
}

fn add(n: usize) -> Value {
    json!({"security_group": "staging-db", "address": format!("198.51.{}.{}", n / 250, n % 250), "port": "22", "reason": "under load", "duration": "1h"})
}

/// Everything that was promised is true, and nothing was begun that did not end.
fn assert_kept(journal: &[Value], promised: &BTreeSet<String>) {
    let of = |kind: &str| -> BTreeSet<String> {
        let entries = journal.iter().filter(|entry| entry["type"] == kind);
        entries.map(|entry| entry["call"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(of("begin"), of("end"), "everything that was begun has ended");
    let done: BTreeSet<String> = journal
        .iter()
        .filter(|entry| entry["type"] == "end" && entry["outcome"] == "done")
        .map(|entry| entry["call"].as_str().unwrap_or_default().to_owned())
        .collect();
    let broken: Vec<&String> = promised.difference(&done).collect();
    assert!(broken.is_empty(), "promised and not recorded: {broken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_under_load_loses_nothing() {
    let aws = AwsDouble::start().await;
    aws.rule_limit(100_000);
    let service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    // Some of what is under way by then takes a while.
    for _ in 0..10 {
        aws.fail("AuthorizeSecurityGroupIngress", Fault::Hang(Duration::from_millis(1500)));
    }
    let (service, next) = (Arc::new(tokio::sync::Mutex::new(service)), Arc::new(AtomicUsize::new(0)));
    let (http, edge, token, grpc) = {
        let service = service.lock().await;
        (service.http.clone(), service.edge_port, service.token(), service.grpc("ci-runner"))
    };
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..12)
        .map(|worker| {
            let (next, over, http, token, mut grpc) =
                (Arc::clone(&next), Arc::clone(&over), http.clone(), token.clone(), grpc.clone());
            tokio::spawn(async move {
                let (mut promised, mut refused) = (BTreeSet::new(), 0);
                while !over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let done = if worker % 2 == 0 {
                        let uri = format!("https://localhost:{edge}/mcp");
                        let answer = send(
                            &http,
                            http::Method::POST,
                            uri,
                            Some(&token),
                            &[],
                            call("whitelist_add", &add(n)).into(),
                        )
                        .await;
                        answer.ok().map(|answer| {
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let result = &answer.json()["result"];
                            (result["isError"] == false)
                                .then(|| result["structuredContent"]["call_id"].as_str().expect("an id").to_owned())
                        })
                    } else {
                        let request = pb::AddRuleRequest {
                            security_group: "staging-db".to_owned(),
                            address: format!("198.51.{}.{}", n / 250, n % 250),
                            port: "22".to_owned(),
                            reason: "under load".to_owned(),
                            duration: "1h".to_owned(),
                            ..Default::default()
                        };
                        grpc.add_rule(request).await.ok().map(|answer| Some(answer.into_inner().call_id))
                    };
                    match done {
                        Some(Some(call)) => drop(promised.insert(call)),
                        Some(None) | None => {
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
                (promised, refused)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut service = service.lock().await;
    let begun = Instant::now();
    service.edge.signal("TERM");
    let status = service.edge.end_within(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {}", service.edge.log());
    service.core.signal("TERM");
    let status = service.core.end_within(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {}", service.core.log());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    over.store(true, Ordering::Relaxed);
    let (mut promised, mut refused) = (BTreeSet::new(), 0);
    for worker in workers {
        let (calls, failed) = worker.await.expect("a worker");
        promised.extend(calls);
        refused += failed;
    }
    assert!(promised.len() > 20 && refused > 0, "{} promised, {refused} refused", promised.len());
    assert_kept(&service.journal(), &promised);
    let closed = service.journal().iter().filter(|entry| entry["type"] == "closed").count();
    assert_eq!(closed, 1, "the journal was closed in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once_and_the_next_start_finds_what_was_cut_off() {
    let aws = AwsDouble::start().await;
    let mut service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    aws.fail("AuthorizeSecurityGroupIngress", Fault::ActThenHang(Duration::from_secs(20)));
    let mut grpc = service.grpc("ci-runner");
    let asked = tokio::spawn(async move {
        let request = pb::AddRuleRequest {
            security_group: "staging-db".to_owned(),
            address: "203.0.113.7".to_owned(),
            port: "22".to_owned(),
            reason: "cut off".to_owned(),
            ..Default::default()
        };
        grpc.add_rule(request).await
    });
    eventually("AWS has acted", async || (!aws.history().is_empty()).then_some(())).await;
    service.core.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(service.core.ended().is_none(), "it waits for what runs");
    let begun = Instant::now();
    service.core.signal("TERM");
    let status = service.core.end_within(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(143), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(asked.await.expect("no panic").is_err());
    service.core.begin();
    service.listen().await;
    eventually("it is accounted for", async || {
        let entries = service.journal();
        entries.iter().any(|entry| entry["recovered_by"].is_string() && entry["outcome"] == "done").then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lame_duck_says_that_it_is_not_ready_and_serves_on() {
    let aws = AwsDouble::start().await;
    let options = Options { shutdown: "lame_duck = \"2s\"\n", ..Options::default() };
    let mut service = Processes::start(&aws.access(), &options, &[]).await;
    eventually("it is ready", async || (service.get("/readyz").await.expect("an answer").status == 200).then_some(()))
        .await;
    service.edge.signal("TERM");
    eventually("it says so", async || (service.get("/readyz").await.expect("an answer").status == 503).then_some(()))
        .await;
    assert_eq!(service.call("whitelist_add", add(1)).await["isError"], false);
    assert_eq!(service.get("/livez").await.expect("an answer").status, 200);
    let status = service.edge.end_within(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    service.core.signal("TERM");
    service.core.end_within(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_reads_again_and_ends_nobody() {
    let aws = AwsDouble::start().await;
    let shipped = include_str!("../../src/policy/default.cedar");
    let options = Options { policy: Some(shipped), policy_extra: "reload = \"1h\"\n", ..Options::default() };
    let mut service = Processes::start(&aws.access(), &options, &[]).await;
    assert_eq!(service.call("whitelist_list", json!({"security_group": "staging-db"})).await["isError"], false);
    let policy = service.path().join("policy.cedar");
    std::fs::write(&policy, "this is no policy").expect("written");
    service.core.signal("HUP");
    service.edge.signal("HUP");
    eventually("the bad one is told of", async || service.core.log().contains("\"level\":\"ERROR\"").then_some(()))
        .await;
    assert_eq!(
        service.call("whitelist_list", json!({"security_group": "staging-db"})).await["isError"],
        false,
        "the old ones stay"
    );
    std::fs::write(&policy, "@id(\"nobody\")\n@message(\"nobody may\")\nforbid (principal, action, resource);")
        .expect("written");
    // Far sooner than it would by itself.
    eventually("the new ones are in force", async || {
        service.core.signal("HUP");
        tokio::time::sleep(Duration::from_millis(100)).await;
        (service.call("whitelist_list", json!({"security_group": "staging-db"})).await["isError"] == true).then_some(())
    })
    .await;
    assert!(service.core.log().contains("everything that can be read again is read again"));
    assert!(service.edge.ended().is_none() && service.core.ended().is_none());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_told_by_name_to_those_who_may_know() {
    let aws = AwsDouble::start().await;
    let leases = "settle = \"30ms\"\ninterval = \"1s\"\ndiscover = false\n";
    let options = Options { leases: Some(leases), ..Options::default() };
    let mut service = Processes::start(&aws.access(), &options, &[]).await;
    let token = service.token();
    let uri = format!("https://localhost:{}/readyz", service.edge_port);
    let http = service.http.clone();
    let asked = async |token: Option<&str>| {
        send(&http, http::Method::GET, uri.clone(), token, &[], Vec::new()).await.expect("an answer")
    };
    let stranger =
        eventually("it is ready", async || Some(asked(None).await).filter(|answer| answer.status == 200)).await;
    assert_eq!(stranger.body.as_slice(), b"ready".as_slice());
    let made_up = asked(Some("made-up")).await;
    assert_eq!((made_up.status, made_up.body.as_slice()), (200, b"ready".as_slice()), "a probe is not refused");
    let known = asked(Some(&token)).await.json();
    assert_eq!(known["parts"]["core"]["status"], "up", "{known:#}");
    assert_eq!(known["parts"]["certificates"]["status"], "up");
    assert_eq!(known["parts"]["keys"]["status"], "up");

    // The core tells its parts to peers with a certificate.
    let mut health = tonic_health::pb::health_client::HealthClient::new(crate::support::tls::channel(
        service.path(),
        "reader",
        service.core_port,
    ));
    let mut part = async |name: &str| {
        let request = tonic_health::pb::HealthCheckRequest { service: name.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status())
    };
    use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
    for name in ["", "whitelistmcp.v1.WhitelistService", "journal", "reconciler", "aws", "keys", "certificates"] {
        eventually(&format!("{name:?} is served"), async || part(name).await.ok().filter(|status| *status == Serving))
            .await;
    }
    aws.down(true);
    eventually("AWS is away", async || Some(part("aws").await.expect("known")).filter(|status| *status == NotServing))
        .await;
    assert_eq!(part("").await.ok(), Some(Serving), "and callers are told so by a core that serves");
    aws.down(false);

    // Without its core an edge is no use.
    service.core.kill();
    let mut last = None;
    for _ in 0..150 {
        let answer = asked(None).await;
        last = Some((answer.status, answer.body));
        if last == Some((503, b"not ready".to_vec())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last, Some((503, b"not ready".to_vec())), "and a stranger is told no more");
    let known = asked(Some(&token)).await.json();
    assert_eq!(known["parts"]["core"]["status"], "down", "{known:#}");
    service.core.begin();
    service.listen().await;
    eventually("it is well again", async || (asked(None).await.status == 200).then_some(())).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_without_its_journal_is_still_heard_through_the_edge() {
    let aws = AwsDouble::start().await;
    let mut service = Processes::start(&aws.access(), &Options::default(), &[]).await;
    let ready = async || service.get("/readyz").await.expect("an answer").status == 200;
    eventually("it is ready", async || ready().await.then_some(())).await;
    assert_eq!(service.call("whitelist_add", add(1)).await["isError"], false);
    let journal = service.path().join("journal");
    std::fs::rename(&journal, service.path().join("gone")).expect("it moves");
    let refused = service.call("whitelist_add", add(2)).await;
    assert!(refused.to_string().contains("AUDIT_UNAVAILABLE"), "{refused:#}");

    let uri = format!("https://localhost:{}/readyz", service.edge_port);
    // The core says it every few seconds, and the edge asks every few.
    let known = eventually("it is told that the core is not ready", async || {
        let answer = send(&service.http, http::Method::GET, uri.clone(), Some(&service.token()), &[], Vec::new()).await;
        let known = answer.expect("an answer").json();
        (known["parts"]["core.ready"]["status"] == "down").then_some(known)
    })
    .await;
    assert_eq!((known["status"].as_str(), known["parts"]["core"]["status"].as_str()), (Some("ready"), Some("up")));
    assert!(ready().await, "a balancer leaves it in");
    let listed = service.call("whitelist_list", json!({"security_group": "staging-db"})).await;
    assert_eq!(listed["isError"], false, "{listed:#}");
    std::fs::rename(service.path().join("gone"), &journal).expect("it moves");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_behind_a_balancer_serve_on_when_one_is_killed() {
    let aws = AwsDouble::start().await;
    aws.rule_limit(100_000);
    let redis = Redis::start().await;
    let options = || Options { redis: Some(redis.url()), ..Options::default() };
    let mut replicas = Vec::new();
    // One company, one CA, one issuer: what differs is the process, its port and its journal.
    let first = Processes::start(&aws.access(), &options(), &[]).await;
    let (authority, issuer) = (first.path().to_owned(), first.ground.issuer.url.clone());
    replicas.push(first);
    for _ in 0..2 {
        let ground = Ground::new(&options()).await;
        for file in ["ca.pem", "core.pem", "core.key", "edge.pem", "edge.key", "ci-runner.pem", "ci-runner.key"] {
            std::fs::copy(authority.join(file), ground.directory.path().join(file)).expect("copied");
        }
        let options = Options { issuer_url: Some(issuer.clone()), ..options() };
        replicas.push(Processes::on(ground, &aws.access(), &options, &[]).await);
    }
    let edges = Balancer::start(replicas.iter().map(|replica| replica.edge_port).collect()).await;
    let cores = Balancer::start(replicas.iter().map(|replica| replica.core_port).collect()).await;
    let token = replicas[0].token();
    let (next, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let (next, lost, token, authority) = (Arc::clone(&next), Arc::clone(&lost), token.clone(), authority.clone());
            let (edges, cores) = (edges.address.port(), cores.address.port());
            tokio::spawn(async move {
                let mut promised = BTreeSet::new();
                let new = || whitelistmcp::http_client::HttpClient::new(
                    whitelistmcp::tls::public_client(Some(&authority.join("ca.pem"))).expect("the CA loads"),
                );
                let mut client = new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 240 {
                        return promised;
                    }
                    let mut arguments = add(n);
                    arguments["idempotency_key"] = format!("key-{n}").into();
                    // Whoever is told nothing asks again, with the key.
                    for attempt in 0.. {
                        assert!(attempt < 60, "{n} is never served");
                        let done = if worker % 2 == 0 {
                            let uri = format!("https://localhost:{edges}/mcp");
                            let body = call("whitelist_add", &arguments).into_bytes();
                            let answer = send(&client, http::Method::POST, uri, Some(&token), &[], body).await;
                            answer.is_ok_and(|answer| answer.status == 200 && answer.json()["result"]["isError"] == false)
                        } else {
                            let mut grpc = whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient::new(
                                crate::support::tls::channel(&authority, "ci-runner", cores),
                            );
                            let request = pb::AddRuleRequest {
                                security_group: "staging-db".to_owned(),
                                address: arguments["address"].as_str().expect("text").to_owned(),
                                port: "22".to_owned(),
                                reason: "under load".to_owned(),
                                duration: "1h".to_owned(),
                                idempotency_key: format!("key-{n}"),
                                ..Default::default()
                            };
                            grpc.add_rule(request).await.is_ok()
                        };
                        if done {
                            promised.insert(format!("198.51.{}.{}/32", n / 250, n % 250));
                            break;
                        }
                        lost.fetch_add(1, Ordering::Relaxed);
                        client = new();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            })
        })
        .collect();
    while next.load(Ordering::Relaxed) < 80 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    replicas[1].edge.kill();
    replicas[1].core.kill();
    let mut promised = BTreeSet::new();
    for worker in workers {
        promised.extend(worker.await.expect("a worker"));
    }
    assert_eq!(promised.len(), 240);
    let standing: BTreeSet<String> = aws.standing().into_iter().map(|rule| rule.source).collect();
    assert!(promised.is_subset(&standing), "{:?}", promised.difference(&standing));
    let served = |replica: &Processes| replica.journal().iter().filter(|entry| entry["type"] == "begin").count();
    assert!(replicas.iter().all(|replica| served(replica) > 10), "each had its share");
    for (n, mut replica) in replicas.into_iter().enumerate() {
        if n != 1 {
            replica.stop().await;
        }
    }
}
