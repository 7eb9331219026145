//! What replicas share, against a real Redis: there, gone, hanging, back.

use std::time::Duration;

use tokio::time::Instant;
use whitelistmcp::shared::{Condition, Config, Script, Shared, SharedError, TIMEOUT};

use crate::support::eventually;
use crate::support::redis::Redis;

fn shared(text: &str) -> Shared {
    let config: Config = toml::from_str(text).expect("sound");
    Shared::new(&config).expect("sound")
}

fn at(redis: &Redis) -> Shared {
    shared(&format!("url = \"{}\"\n", redis.url()))
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn values_are_shared_and_end() {
    let redis = Redis::start().await;
    let (one, other) = (at(&redis), at(&redis));
    assert_eq!(one.value("a").await.expect("asked"), None);
    one.put("a", b"\x00\xff", MINUTE).await.expect("put");
    assert_eq!(other.value("a").await.expect("asked").as_deref(), Some(&b"\x00\xff"[..]));
    other.put("a", b"2", Duration::from_millis(40)).await.expect("put");
    assert_eq!(one.value("a").await.expect("asked").as_deref(), Some(&b"2"[..]));
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(one.value("a").await.expect("asked"), None);
    // The prefix keeps installations apart.
    one.put("a", b"3", MINUTE).await.expect("put");
    assert!(redis.ask("KEYS *").await.contains("whitelistmcp:a"));
    let apart = shared(&format!("url = \"{}\"\nprefix = \"apart:\"", redis.url()));
    assert_eq!(apart.value("a").await.expect("asked"), None);
}

#[tokio::test]
async fn of_many_who_put_first_one_succeeds() {
    let redis = Redis::start().await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let replica = at(&redis);
        for _ in 0..25 {
            let replica = replica.clone();
            tries.spawn(async move { replica.put_new("spent", b"1", MINUTE).await.expect("asked") });
        }
    }
    let won = tries.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let late = at(&redis);
    assert!(!late.put_new("spent", b"1", Duration::from_millis(1)).await.expect("asked"));
    assert!(late.put_new("short", b"1", Duration::from_millis(30)).await.expect("asked"));
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(late.put_new("short", b"1", MINUTE).await.expect("asked"));
}

#[tokio::test]
async fn a_script_runs_as_one_step_even_when_redis_has_forgotten_it() {
    let redis = Redis::start().await;
    let shared = at(&redis);
    let add = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    assert_eq!(shared.script::<i64>(&add, &["n"], &[2]).await.expect("run"), 2);
    redis.ask("SCRIPT FLUSH").await;
    assert_eq!(shared.script::<i64>(&add, &["n"], &[3]).await.expect("run"), 5);
    // A script that fails says so, and the next question is answered soon.
    let wrong = Script::new("return redis.call('LPUSH', KEYS[1], 'x')");
    assert!(matches!(shared.script::<i64>(&wrong, &["n"], &[0]).await, Err(SharedError::Failed(_))));
    eventually("Redis is asked again", async || shared.value("n").await.ok()).await;
}

#[tokio::test]
async fn a_password_and_a_certificate_are_demanded_and_given() {
    let at = crate::support::temporary::Directory::new();
    let authority = crate::support::certificates::Authority::new(at.path());
    authority.issue("redis", &["localhost"]);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let directory = at.path().display().to_string();
    let file = |name: &str| format!("{directory}/{name}");
    let _redis = Redis::with(&[
        "--requirepass",
        "sesame",
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("redis.pem"),
        "--tls-key-file",
        &file("redis.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ])
    .await;
    at.write("password", "sesame\n");
    at.write("wrong", "mustard\n");
    let config = |file: &str| {
        format!(
            "url = \"rediss://localhost:{port}/0\"\nca = \"{directory}/ca.pem\"\npassword_file = \"{directory}/{file}\""
        )
    };
    let good = shared(&config("password"));
    good.connect_soon();
    eventually("the password is taken", async || good.put("a", b"1", MINUTE).await.ok()).await;
    // Its certificate is of a CA that the system does not know.
    let unknown = format!("url = \"rediss://localhost:{port}/0\"\npassword_file = \"{directory}/password\"");
    for text in
        [config("wrong"), unknown, format!("url = \"rediss://127.0.0.1:{port}/0\"\nca = \"{directory}/ca.pem\"")]
    {
        let refused = shared(&text);
        eventually("it is refused", async || {
            matches!(refused.condition(), Condition::Down).then_some(()).or({
                refused.value("a").await.expect_err("no entry");
                None
            })
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_redis_that_is_gone_and_it_is_found_when_it_is_back() {
    let mut redis = Redis::start().await;
    let shared = at(&redis);
    shared.put("a", b"1", MINUTE).await.expect("put");
    assert!(matches!(shared.condition(), Condition::Up));
    redis.end();
    let begun = Instant::now();
    for _ in 0..1000 {
        shared.value("a").await.expect_err("it is gone");
    }
    assert!(begun.elapsed() < 2 * TIMEOUT, "{:?}", begun.elapsed());
    assert!(matches!(shared.condition(), Condition::Down));
    redis.begin().await;
    eventually("Redis is back", async || shared.value("a").await.ok()).await;
    assert!(matches!(shared.condition(), Condition::Up));
}

#[tokio::test]
async fn a_redis_that_hangs_slows_only_those_who_were_waiting() {
    let redis = Redis::start().await;
    let shared = at(&redis);
    shared.put("a", b"1", MINUTE).await.expect("put");
    redis.hang();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let shared = shared.clone();
        waiting.spawn(async move {
            let begun = Instant::now();
            shared.value("a").await.expect_err("it hangs");
            begun.elapsed()
        });
    }
    for waited in waiting.join_all().await {
        assert!(waited < 2 * TIMEOUT, "{waited:?}");
    }
    // For longer than until it is tried again: the trying is not done by callers.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        let begun = Instant::now();
        assert!(matches!(shared.value("a").await, Err(SharedError::Down)));
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redis.go_on();
    let value = eventually("Redis is back", async || shared.value("a").await.ok()).await;
    assert_eq!(value.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn an_idle_connection_that_was_cut_is_made_again_before_anyone_asks() {
    let redis = Redis::start().await;
    let shared = at(&redis);
    shared.put("a", b"1", MINUTE).await.expect("put");
    for _ in 0..5 {
        redis.ask("CLIENT KILL TYPE normal").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(shared.value("a").await.expect("asked").is_some());
    }
}
