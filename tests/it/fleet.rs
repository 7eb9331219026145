//! Three replicas, five hundred leases, and a kill -9 again and again: every door closes on time, none closes early.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tonic::transport::Channel;
use whitelistmcp::pb::whitelistmcp::v1 as pb;
use whitelistmcp::pb::whitelistmcp::v1::whitelist_service_client::WhitelistServiceClient;

use crate::support::aws_double::{AwsDouble, What};
use crate::support::certificates::Authority;
use crate::support::temporary::Directory;
use crate::support::tls::channel;
use crate::support::{ACCOUNT, AwsAccess, REGION, journal, replica_config};

const REPLICAS: usize = 3;
const LEASES: usize = 500;
const GROUPS: usize = 12;
const HOLDERS: [&str; 3] = ["ci-runner", "deployer", "nightly"];
/// The latest that a rule may stand past its end.
const LATE: i64 = 60;

/// A core in a process of its own, that can be killed and started again.
struct Replica {
    config: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Replica {
    fn start(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .args(["core", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(child.expect("the core starts"));
    }

    /// SIGKILL: nothing is finished, nothing is flushed.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("gone");
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

fn client(directory: &Directory, port: u16, holder: &str) -> WhitelistServiceClient<Channel> {
    WhitelistServiceClient::new(channel(directory.path(), holder, port))
}

/// A number that differs each time.
fn random(below: usize) -> usize {
    usize::try_from(uuid::Uuid::new_v4().as_u128() % below as u128).expect("it fits")
}

/// What a holder was told that they hold: the rule, and until when.
type Promises = Arc<Mutex<BTreeMap<(String, usize), Timestamp>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_leases_end_on_time_whatever_is_killed() {
    let aws = AwsDouble::start().await;
    aws.read_delay(Duration::from_millis(150));
    let group = |n: usize| format!("sg-0000000000000{n:04}");
    for n in 0..GROUPS {
        aws.add_group(ACCOUNT, REGION, &group(n), &format!("group-{n}"), &[]);
    }
    let access = AwsAccess { groups: (0..GROUPS).map(|n| (format!("group-{n}"), group(n))).collect(), ..aws.access() };
    let directory = Directory::new();
    let authority = Authority::new(directory.path());
    authority.issue("core", &["localhost"]);
    for holder in HOLDERS {
        authority.issue(holder, &[&format!("spiffe://test.example/{holder}")]);
    }
    let mut replicas: Vec<Replica> = Vec::new();
    for n in 0..REPLICAS {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let config = replica_config(&directory, &access, port, &format!("journal-{n}"), &HOLDERS);
        directory.write(&format!("core-{n}.toml"), &config);
        let config = directory.path().join(format!("core-{n}.toml"));
        let mut replica = Replica { config, port, process: None };
        replica.start();
        replicas.push(replica);
    }
    let ports: Vec<u16> = replicas.iter().map(|replica| replica.port).collect();

    // Somebody is killed about every second and a half, and comes back.
    let (over, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let reaper = tokio::spawn({
        let (over, kills) = (Arc::clone(&over), Arc::clone(&kills));
        async move {
            while !over.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(500 + random(1500) as u64)).await;
                let victim = &mut replicas[random(REPLICAS)];
                victim.kill();
                kills.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(random(800) as u64)).await;
                victim.start();
            }
            replicas
        }
    });

    // Each address is asked for by one to three holders, each until an end of their own.
    let promises: Promises = Promises::default();
    let next = Arc::new(AtomicUsize::new(0));
    let directory = Arc::new(directory);
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (promises, next, directory, ports) =
                (Arc::clone(&promises), Arc::clone(&next), Arc::clone(&directory), ports.clone());
            tokio::spawn(async move {
                let mut clients = BTreeMap::new();
                for port in &ports {
                    for holder in HOLDERS {
                        clients.insert((*port, holder), client(&directory, *port, holder));
                    }
                }
                loop {
                    let lease = next.fetch_add(1, Ordering::Relaxed);
                    if lease >= LEASES {
                        return;
                    }
                    let holder = HOLDERS[lease % HOLDERS.len()];
                    // Neighbours share an address: whoever comes second joins.
                    let rule = lease / 2;
                    let request = pb::AddRuleRequest {
                        security_group: format!("group-{}", rule % GROUPS),
                        address: format!("198.51.{}.{}", rule / 250, rule % 250),
                        port: "22".to_owned(),
                        reason: "a lease of the fleet".to_owned(),
                        duration: format!("{}s", 3 + random(30)),
                        idempotency_key: format!("lease-{lease}"),
                        ..Default::default()
                    };
                    // A replica that is dead is no reason to give up: the key makes sure that nothing is done twice.
                    for _ in 0..60 {
                        let client = clients.get_mut(&(ports[random(REPLICAS)], holder)).expect("a client");
                        let answer = tokio::time::timeout(Duration::from_secs(20), client.add_rule(request.clone()));
                        if let Ok(Ok(answer)) = answer.await {
                            let until = answer.into_inner().until.parse().expect("an end");
                            promises.lock().expect("not poisoned").insert((holder.to_owned(), rule), until);
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a worker");
    }
    let promised = promises.lock().expect("not poisoned").clone();
    assert!(promised.len() >= LEASES * 9 / 10, "most were carried out: {}", promised.len());

    // Until the last has ended, and as long again as is allowed; the killing goes on.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(33 + LATE.unsigned_abs());
    while !aws.standing().is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    over.store(true, Ordering::Relaxed);
    let replicas = reaper.await.expect("the reaper");
    let standing = aws.standing();
    assert!(standing.is_empty(), "{} doors stay open: {:#?}", standing.len(), standing.first());

    // None closed later than that, none early, no holder lost.
    let history = aws.history();
    let address = |rule: usize| format!("198.51.{}.{}/32", rule / 250, rule % 250);
    for ((holder, rule), until) in &promised {
        let closings =
            history.iter().filter(|change| change.what == What::Revoked && change.rule.source == address(*rule));
        for closing in closings {
            let own = closing.rule.tags.iter().filter(|(key, value)| {
                key.starts_with("whitelistmcp:holder:") && value.contains(&format!(" test.example/{holder}"))
            });
            for (_, lease) in own {
                let end: Timestamp = lease.split(' ').next().expect("an end").parse().expect("a time");
                assert!(closing.time >= end, "{holder} lost {rule}, promised until {until}: {closing:?}");
            }
        }
        let last = history
            .iter()
            .rfind(|change| change.what == What::Revoked && change.rule.source == address(*rule))
            .expect("it closed in the end");
        assert!(last.time >= *until, "{holder} was promised {rule} until {until}: {last:?}");
    }
    for closing in history.iter().filter(|change| change.what == What::Revoked) {
        let ends = closing.rule.tags.iter().filter(|(key, _)| key.starts_with("whitelistmcp:holder:"));
        let end: Timestamp = ends
            .map(|(_, lease)| lease.split(' ').next().expect("an end").parse().expect("a time"))
            .max()
            .expect("a lease");
        let late = closing.time.duration_since(end).as_secs();
        assert!(late <= LATE, "{late} s late: {closing:?}");
        assert!(closing.by.starts_with("reconciler-"), "{closing:?}");
    }

    // Every closing has its entry, begun before AWS was touched.
    let begun: BTreeSet<String> = (0..REPLICAS)
        .flat_map(|n| journal(&directory.path().join(format!("journal-{n}"))))
        .filter(|entry| entry["type"] == "begin" && entry["tool"] == "close")
        .flat_map(|entry| entry["arguments"]["rule_ids"].as_array().cloned().unwrap_or_default())
        .map(|id| id.as_str().unwrap_or_default().to_owned())
        .collect();
    for closing in history.iter().filter(|change| change.what == What::Revoked) {
        assert!(begun.contains(&closing.rule.id), "no entry for {closing:?}");
    }
    let kills = kills.load(Ordering::Relaxed);
    assert!(kills >= 10, "{kills} kills");
    drop(replicas);
}
