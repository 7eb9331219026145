//! The binary as an operator meets it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::temporary::Directory;
use crate::support::{GROUP, emulator};

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"));
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("AWS_") || name.starts_with("WHITELISTMCP_") || name.starts_with("OTEL_"))
    {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).output().expect("it runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A sound configuration for both services, with certificates.
fn configured(directory: &Directory) -> String {
    let at = directory.path().display().to_string();
    let made = run(&["certs", "--directory", &at], &[]);
    assert!(made.status.success(), "{}", text(&made));
    let example =
        std::fs::read_to_string(emulator::checkout().join("examples/whitelistmcp.toml")).expect("the example");
    let config = example
        .replace("/etc/whitelistmcp/certs", &at)
        .replace("/var/lib/whitelistmcp/journal", &format!("{at}/journal"));
    directory.write("whitelistmcp.toml", &config);
    config
}

fn check(directory: &Directory, environment: &[(&str, &str)]) -> (bool, String) {
    let path = directory.path().join("whitelistmcp.toml").display().to_string();
    let output = run(&["check", "--config", &path], environment);
    (output.status.success(), text(&output))
}

#[test]
fn the_example_is_sound() {
    let directory = Directory::new();
    configured(&directory);
    let (ok, said) = check(&directory, &[]);
    assert!(ok, "{said}");
    assert!(said.contains("The configuration is sound."), "{said}");
}

#[test]
fn what_is_wrong_is_said_in_a_table() {
    let directory = Directory::new();
    let config = configured(&directory);
    for (from, to, part) in [
        ("listen = \"0.0.0.0:8080\"", "listne = \"0.0.0.0:8080\"", "unknown field `listne`"),
        ("listen = \"0.0.0.0:8080\"", "listen = \"0.0.0.0\"", "edge.listen"),
        ("edge.pem", "missing.pem", "missing.pem"),
        ("edge.key", "core.key", "cannot be used together"),
        ("role = \"edge\"", "role = \"edge\"\nscopes = [\"whitelist:read\"]", "is nobody by itself"),
        ("scopes = [\"whitelist:write\"]", "scopes = [\"whitelist:wirte\"]", "whitelist:wirte"),
        ("issuer = \"https://", "issuer = \"http://", "must be an https URL"),
        ("tokens = \"jwt\"", "tokens = \"opaque\"", "need `introspection`"),
        ("audience = \"https://whitelist.example.com/mcp\"", "audience = \"\"", "audience must name"),
        (
            "role_arn = \"arn:aws:iam::111111111111:role/whitelistmcp-target\"",
            "role_arn = \"arn:aws:iam::222222222222:role/whitelistmcp-target\"",
            "is not the ARN of a role in account",
        ),
        ("id = \"sg-0123456789abcdef0\"", "id = \"sg-1\"", "not a security group id"),
        ("public_url = \"https://", "public_url = \"http://", "must be https"),
        ("# plaintext = true", "plaintext = true", "has both `tls` and `plaintext`"),
        ("# trusted_proxies = [\"10.0.0.0/8\"]", "trusted_proxies = [\"0.0.0.0/0\"]", "which is too wide"),
        ("# trusted_proxies = [\"10.0.0.0/8\"]", "trusted_proxies = [\"128.0.0.0/1\"]", "which is too wide"),
        ("call_timeout = 30", "call_timeout = 300", "at most 60 seconds"),
        ("changes_per_hour = 60", "changes_per_hour = 0", "`[limits] changes_per_hour` must be from 1"),
        ("# [redis]\n", "[redis]\nurl = \"redis://redis.internal\"\n", "must be rediss://"),
        (
            "# allowed_origins = [\"https://app.example.com\"]",
            "allowed_origins = [\"*\"]",
            "would let any web page call",
        ),
    ] {
        assert!(config.contains(from), "the example lacks {from}");
        directory.write("whitelistmcp.toml", &config.replacen(from, to, 1));
        let (ok, said) = check(&directory, &[]);
        assert!(!ok && said.contains(part), "{to}: {said}");
    }
    directory.write("whitelistmcp.toml", &config);
    let policy = directory
        .write("policy.cedar", "@id(\"x\") permit (principal, action, resource) when { resource.colour == \"red\" };")
        .display()
        .to_string();
    let (ok, said) = check(&directory, &[("WHITELISTMCP_POLICY__FILE", &policy)]);
    assert!(!ok && said.contains("colour"), "{said}");
    let (ok, said) = check(&directory, &[("WHITELISTMCP_EDGE__LISTNE", "0.0.0.0:1")]);
    assert!(!ok && said.contains("WHITELISTMCP_EDGE__LISTNE"), "{said}");
}

#[test]
fn a_cache_that_could_not_be_kept_or_sealed_is_wrong() {
    let directory = Directory::new();
    let config = configured(&directory);
    let at = directory.path().display().to_string();
    directory.write("cache.key", &"0123456789abcdef".repeat(4));
    let (redis, key) = ("[redis]\nurl = \"redis://127.0.0.1:9\"\n", format!("key_file = \"{at}/cache.key\"\n"));
    let missing = format!("key_file = \"{at}/missing.key\"\n");
    for (cache, rest, part) in [
        (format!("kept_in = \"redis\"\n{key}"), "", "needs `[redis]`"),
        ("kept_in = \"redis\"\n".to_owned(), redis, "needs a `key_file`"),
        (format!("kept_in = \"redis\"\n{missing}"), redis, "missing.key cannot be read"),
        (format!("kept_in = \"process\"\n{key}"), "", "take it out"),
    ] {
        directory.write("whitelistmcp.toml", &format!("{config}\n[aws.cache]\n{cache}{rest}"));
        let (ok, said) = check(&directory, &[]);
        let told = |line: &str| line.starts_with("WRONG  aws.cache ") && line.contains(part);
        assert!(!ok && said.lines().any(told), "{cache}: {said}");
    }
    directory.write("whitelistmcp.toml", &format!("{config}\n[aws.cache]\nkept_in = \"redis\"\n{key}{redis}"));
    let (ok, said) = check(&directory, &[]);
    assert!(ok, "{said}");
}

#[test]
fn a_journal_that_could_not_be_kept_is_wrong() {
    let directory = Directory::new();
    let config = configured(&directory);
    let at = directory.path().display().to_string();
    directory.write("bad-key.pem", "this is no key");
    for (from, to, part) in [
        (format!("\"{at}/journal\""), "\"/etc/hostname\"".to_owned(), "/etc/hostname is not a directory"),
        (
            "[audit]\n".to_owned(),
            format!("[audit]\nsigning_key = \"{at}/missing.pem\"\n"),
            "missing.pem cannot be read",
        ),
        ("[audit]\n".to_owned(), format!("[audit]\nsigning_key = \"{at}/bad-key.pem\"\n"), "must hold an Ed25519 key"),
    ] {
        assert!(config.contains(&from), "the example lacks {from}");
        directory.write("whitelistmcp.toml", &config.replacen(&from, &to, 1));
        let (ok, said) = check(&directory, &[]);
        let told = |line: &str| line.starts_with("WRONG  audit ") && line.contains(part);
        assert!(!ok && said.lines().any(told), "{to}: {said}");
        assert!(!said.contains("/etc/hostname is not there yet"), "{said}");
    }
}

#[test]
fn a_redirected_aws_is_refused_by_name() {
    let directory = Directory::new();
    configured(&directory);
    let path = directory.path().join("whitelistmcp.toml").display().to_string();
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_EC2"] {
        let output = run(
            &["core", "--config", &path],
            &[(name, "https://evil.example"), ("WHITELISTMCP_CORE__LISTEN", "127.0.0.1:0")],
        );
        assert!(!output.status.success() && text(&output).contains(name), "{}", text(&output));
    }
    let profile =
        directory.write("aws-config", "[default]\nendpoint_url = https://evil.example\n").display().to_string();
    let output = run(
        &["core", "--config", &path],
        &[("AWS_CONFIG_FILE", &profile), ("WHITELISTMCP_CORE__LISTEN", "127.0.0.1:0")],
    );
    assert!(!output.status.success() && text(&output).contains("endpoint_url of the AWS profile"), "{}", text(&output));
}

#[test]
fn the_session_policy_is_printed_and_its_digest_is_of_it() {
    let call = "01930000-0000-7000-8000-000000000000";
    let arguments = [
        "iam",
        "session-policy",
        "--tool",
        "whitelist_add",
        "--account",
        "123456789012",
        "--region",
        "eu-central-1",
        "--group",
        GROUP,
        "--call",
        call,
    ];
    let printed = run(&arguments, &[]);
    let policy = String::from_utf8(printed.stdout).expect("UTF-8");
    let parsed: Value = serde_json::from_str(policy.trim()).expect("JSON");
    assert_eq!(
        parsed["Statement"][1]["Resource"][0],
        format!("arn:aws:ec2:eu-central-1:123456789012:security-group/{GROUP}")
    );
    let digest = run(&[&arguments[..], &["--digest"]].concat(), &[]);
    assert_eq!(
        String::from_utf8(digest.stdout).expect("UTF-8").trim(),
        whitelistmcp::digest::sha256_hex(policy.trim())
    );
    let wrong = run(
        &[
            "iam",
            "session-policy",
            "--tool",
            "whitelist_ad",
            "--account",
            "1",
            "--region",
            "x",
            "--group",
            "y",
            "--call",
            "z",
        ],
        &[],
    );
    assert!(!wrong.status.success() && text(&wrong).contains("the tools are whitelist_add"), "{}", text(&wrong));
}

#[test]
fn certificates_are_never_overwritten() {
    let directory = Directory::new();
    let at = directory.path().display().to_string();
    assert!(run(&["certs", "--directory", &at], &[]).status.success());
    let again = run(&["certs", "--directory", &at], &[]);
    assert!(!again.status.success() && text(&again).contains("ca.pem"), "{}", text(&again));
    let wrong = run(&["certs", "--directory", &at, "../x=y"], &[]);
    assert!(!wrong.status.success() && text(&wrong).contains("NAME=SAN"), "{}", text(&wrong));
}

#[test]
fn a_busy_port_fails_at_start() {
    let directory = Directory::new();
    configured(&directory);
    let path = directory.path().join("whitelistmcp.toml").display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = run(&["core", "--config", &path], &[("WHITELISTMCP_CORE__LISTEN", &address)]);
    assert!(
        !output.status.success() && text(&output).contains(&format!("{address} cannot be bound")),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_round_from_a_cron_job() {
    use crate::support::aws_double::AwsDouble;
    let aws = AwsDouble::start().await;
    let stack = crate::support::Stack::start(&aws).await;
    for (address, duration) in [("203.0.113.7", "1s"), ("203.0.113.8", "1h")] {
        let add = serde_json::json!({"security_group": "staging-db", "address": address, "port": "22", "reason": "a test", "duration": duration});
        stack.done("whitelist_add", add).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let directory = Directory::new();
    let config = directory.write("reconcile.toml", &crate::support::reconciler_config(&directory, &aws.access()));
    let round = || {
        let config = config.clone();
        tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
                .args(["reconcile", "--once", "--config"])
                .arg(config)
                .output()
        })
    };
    let output = round().await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("2 of ours stood, 1 closed, 0 left to others, 0 overdue"),
        "{said}"
    );
    assert_eq!(aws.standing().len(), 1);
    // What cannot be closed is a failure that a scheduler notices.
    aws.clock_offset(7200);
    aws.bucket("RevokeSecurityGroupIngress", 0, 0.0);
    let output = round().await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("1 overdue"), "{said}");
    stack.stop().await;
}

#[test]
fn a_key_is_made_with_the_entry_that_lets_it_in() {
    let new = ["key", "new", "--owner", "ops", "--scopes", "whitelist:read,whitelist:write", "--days", "30"];
    let made = run(&[&new[..], &["--network", "203.0.113.0/24", "--network", "198.51.100.7"]].concat(), &[]);
    assert!(made.status.success(), "{}", text(&made));
    let said = text(&made);
    let key = said.lines().find(|line| line.starts_with("wlk_")).expect("a key");
    let entry = said.find("[[keys]]").and_then(|start| said.get(start..)).expect("an entry");
    assert!(!entry.contains(key.rsplit('_').next().expect("a secret")), "{said}");
    let directory = Directory::new();
    let config = configured(&directory);
    let file = directory.write("keys.toml", entry);
    directory.write("whitelistmcp.toml", &(config + &format!("\n[api_keys]\nfile = \"{}\"\n", file.display())));
    let (ok, said) = check(&directory, &[]);
    assert!(ok && said.contains("1 keys"), "{said}");
    directory.write("keys.toml", &entry.replace("203.0.113.0/24", "0.0.0.0/0"));
    let (ok, said) = check(&directory, &[]);
    assert!(!ok && said.contains("networks"), "{said}");
    for (arguments, part) in
        [(&["--network", "everywhere"][..], "networks"), (&["--network", "0.0.0.0/0"], "networks"), (&[], "--network")]
    {
        let refused = run(&[&new[..], arguments].concat(), &[]);
        assert!(!refused.status.success() && text(&refused).contains(part), "{}", text(&refused));
    }
}
