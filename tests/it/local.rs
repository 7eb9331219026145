//! The service for one person without a server: a process over pipes, with a profile of theirs in a home of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws_double::{Asked, AwsDouble, Fault};
use crate::support::desktop::Server;
use crate::support::temporary::Directory;
use crate::support::{ACCOUNT, AwsAccess, GROUP, OTHER_GROUP, REGION, Stack, emulator, error_of, journal};

const ARN: &str = "arn:aws:iam::123456789012:user/whitelistmcp";

/// A person's home, with a profile `development` in it, and a file for Claude Desktop.
pub(crate) struct Home {
    directory: Directory,
    endpoint: String,
}

impl Home {
    pub(crate) fn new(aws: &AwsAccess) -> Self {
        let directory = Directory::new();
        std::fs::create_dir(directory.path().join(".aws")).expect("a directory");
        let home = Self { directory, endpoint: aws.endpoint.clone() };
        home.write(".aws/config", &format!("[profile development]\nregion = {REGION}\n"));
        home.log_in(aws);
        home
    }

    fn log_in(&self, aws: &AwsAccess) {
        let credentials = format!(
            "[development]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            aws.access_key_id, aws.secret_access_key
        );
        self.write(".aws/credentials", &credentials);
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// The entry of the guide: the program, no arguments, a profile. What follows is this test's own: where AWS is, that the
    /// home is kept, and that nobody waits for AWS to settle.
    pub(crate) fn entry(&self) -> Value {
        json!({"command": env!("CARGO_BIN_EXE_whitelistmcp"), "env": {
            "AWS_PROFILE": "development",
            "WHITELISTMCP_AWS__ENDPOINT": self.endpoint,
            "WHITELISTMCP_AUDIT__VOLUME": "persistent",
            "WHITELISTMCP_LEASES__SETTLE": "30ms",
            "AWS_EC2_METADATA_DISABLED": "true",
        }})
    }

    pub(crate) fn desktop(&self, servers: &Value) -> PathBuf {
        self.write("claude_desktop_config.json", &json!({"mcpServers": servers}).to_string())
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, variables: &[(&str, &str)]) -> Server {
        let mut entry = self.entry();
        for (name, value) in variables {
            entry["env"][name] = (*value).into();
        }
        Server::of(&self.desktop(&json!({"whitelistmcp-local": entry})), "whitelistmcp-local", self.path())
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn journal(&self) -> PathBuf {
        self.path().join(".local/state/whitelistmcp/journal")
    }

    /// The entries of the person's own calls.
    fn entries(&self, kind: &str) -> Vec<Value> {
        let own = |entry: &Value| entry["type"] == kind && entry["who"]["kind"] != "own";
        journal(&self.journal()).into_iter().filter(own).collect()
    }
}

/// A double with a group that its owner has opted in.
pub(crate) async fn opted_in() -> AwsDouble {
    let aws = AwsDouble::start().await;
    aws.add_group(ACCOUNT, REGION, "sg-0cccccccccccccccc", "web", &[("whitelistmcp:managed", "web")]);
    aws
}

fn add(group: &str) -> Value {
    json!({"security_group": group, "address": "203.0.113.9", "port": 22, "reason": "local", "duration": "1h"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_s_entry_serves_a_person_with_their_own_profile() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    let mut server = home.start();
    let hello =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let first = server.ask(json!(0), "initialize", hello).await;
    assert_eq!(first["result"]["protocolVersion"], "2025-06-18", "{first:#}");
    let instructions = first["result"]["instructions"].as_str().expect("instructions");
    assert!(
        instructions.contains("No role is configured") && instructions.contains("own credentials"),
        "{instructions}"
    );
    server.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
    let tools = server.ask(json!(1), "tools/list", json!({})).await;
    assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(8), "{tools:#}");

    // Which groups there are is the product's rule: nothing is configured, and one was opted in.
    let targets = server.done("whitelist_targets", json!({})).await;
    let ids: Vec<&Value> =
        targets["groups"].as_array().expect("groups").iter().map(|group| &group["security_group"]).collect();
    assert_eq!(ids, ["sg-0cccccccccccccccc"], "{targets:#}");
    for group in [GROUP, "staging-db"] {
        let refused = error_of(&server.call("whitelist_add", add(group)).await);
        assert_eq!(refused["reason"], "SECURITY_GROUP_UNKNOWN", "{refused:#}");
    }
    // And what may be opened is the policy's.
    let wide = json!({"security_group": "web", "address": "0.0.0.0/0", "port": 443, "reason": "local"});
    let refused = error_of(&server.call("whitelist_add", wide).await);
    assert!(refused.to_string().contains("whole-internet"), "{refused:#}");
    let current = json!({"security_group": "web", "address": "current", "port": 443, "reason": "local"});
    assert_eq!(error_of(&server.call("whitelist_add", current).await)["reason"], "CURRENT_ADDRESS_UNKNOWN");

    let opened = server.done("whitelist_add", add("web")).await;
    assert_eq!(opened["outcome"], "opened", "{opened:#}");
    let listed = server.done("whitelist_list", json!({"security_group": "web"})).await;
    assert_eq!(listed["rules"][0]["leases"][0]["holder"], "alice", "{listed:#}");
    let mine = server.done("whitelist_leases", json!({})).await;
    assert_eq!(mine["rules"][0]["leases"][0]["yours"], true, "{mine:#}");
    let rule = json!({"security_group": "web", "rule_id": opened["rule"]["rule_id"]});
    assert_eq!(server.done("whitelist_remove", rule).await["outcome"], "removed");

    let left = server.end().await;
    assert!(left.status.success() && left.lines.is_empty(), "{}: {:?}", left.stderr, left.lines);
    assert!(left.stderr.contains("no role is configured"), "{}", left.stderr);
    assert!(!left.stderr.contains(&aws.access().secret_access_key), "{}", left.stderr);
    // Nothing was borrowed, and everything was signed by the person's own key.
    let asked = aws.asked();
    assert!(asked.iter().all(|asked| asked.action != "AssumeRole" && asked.key == aws.access().access_key_id));
    // Written down as on a server, and told apart from it.
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&home.journal()), 0o700);
    let begun = home.entries("begin");
    let changes: Vec<&Value> = begun.iter().filter(|entry| entry["changes"] == true).collect();
    assert_eq!(changes.len(), 2, "{begun:#?}");
    for entry in &begun {
        let who = &entry["who"];
        assert_eq!((who["kind"].as_str(), who["name"].as_str()), (Some("person"), Some("alice")), "{entry:#}");
        assert_eq!((who["issuer"].as_str(), who["subject"].as_str()), (Some("aws-profile"), Some(ARN)), "{entry:#}");
        assert_eq!(who["authentication"]["by"], "aws_profile", "{entry:#}");
        assert_eq!((entry["credentials"].as_str(), entry["session_policy_sha256"].as_str()), (Some("own"), None));
    }
    let verified = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["audit", "verify", "--directory"])
        .arg(home.journal())
        .output()
        .expect("it runs");
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_is_not_there_is_named_and_found_once_it_is() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    let mut server = home.start_with(&[("AWS_PROFILE", "nosuch")]);
    let refused = error_of(&server.call("whitelist_targets", json!({})).await);
    assert!(refused.to_string().contains("there is no AWS profile `nosuch`"), "{refused:#}");
    let config = home.path().join(".aws/config");
    let both = std::fs::read_to_string(&config).expect("read") + &format!("[profile nosuch]\nregion = {REGION}\n");
    std::fs::write(&config, both).expect("written");
    let credentials = home.path().join(".aws/credentials");
    let both = std::fs::read_to_string(&credentials).expect("read").replace("[development]", "[nosuch]");
    std::fs::write(&credentials, both).expect("written");
    let found = crate::support::eventually("the profile is found", async || {
        let answer = server.call("whitelist_targets", json!({})).await;
        (answer["isError"] == false).then_some(answer)
    });
    assert_eq!(found.await["structuredContent"]["groups"].as_array().map(Vec::len), Some(1));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_role_is_configured_the_session_is_the_server_s() {
    let aws = AwsDouble::start().await;
    let access = aws.access();
    let home = Home::new(&access);
    let config = format!(
        "[[aws.accounts]]\nid = \"{ACCOUNT}\"\nrole_arn = \"{}\"\nexternal_id = \"{}\"\nregions = [\"{REGION}\"]\n\
         [[targets.groups]]\nname = \"staging-db\"\nid = \"{GROUP}\"\n[leases]\ndiscover = false\n",
        access.role_arn, access.external_id
    );
    home.write(".config/whitelistmcp/config.toml", &config);
    let mut server = home.start();
    let first = server.ask(json!(0), "initialize", json!({})).await;
    assert!(!first.to_string().contains("No role is configured"), "{first:#}");
    assert_eq!(server.done("whitelist_add", add("staging-db")).await["outcome"], "opened");
    let refused = error_of(&server.call("whitelist_add", add(OTHER_GROUP)).await);
    assert_eq!(refused["reason"], "SECURITY_GROUP_UNKNOWN");
    let left = server.end().await;
    assert!(left.status.success() && !left.stderr.contains("no role is configured"), "{}", left.stderr);

    let asked = aws.asked();
    let of = |action: &str| asked.iter().filter(|asked| asked.action == action).collect::<Vec<_>>();
    let opened = of("AuthorizeSecurityGroupIngress");
    assert!(opened.len() == 1 && opened[0].key.starts_with("ASIA"), "signed by the session: {opened:#?}");
    let begun = home.entries("begin");
    let begun = begun.iter().find(|entry| entry["tool"] == "whitelist_add").expect("an entry");
    assert!(begun["credentials"].is_null() && begun["session_policy_sha256"].is_string(), "{begun:#}");
    let id = begun["who"]["id"].as_str().expect("an id");
    let assumed = of("AssumeRole");
    let assumed = assumed.iter().find(|asked| asked.params["RoleSessionName"] == id).expect("a session of alice's");
    assert_eq!(assumed.key, access.access_key_id);
    assert_eq!(assumed.params["SourceIdentity"], id);
    assert_eq!(assumed.params["ExternalId"], access.external_id);
    assert!(assumed.params["Policy"].contains(GROUP) && assumed.params["DurationSeconds"] == "900");
    // A role in another account does; that account without a role is not reached by this profile.
    let elsewhere = "[[aws.accounts]]\nid = \"222222222222\"\nregions = [\"eu-central-1\"]\n";
    home.write(".config/whitelistmcp/config.toml", elsewhere);
    let mut server = home.start();
    let refused = error_of(&server.call("whitelist_targets", json!({})).await);
    assert_eq!(refused["reason"], "LOCAL_START_FAILED", "{refused:#}");
    assert!(
        refused["message"].as_str().is_some_and(|text| text.contains("222222222222 needs a `role_arn`")),
        "{refused:#}"
    );
    drop(server);
    // A server never goes without a role.
    let core = format!("{elsewhere}[core]\nclient_ca = \"x\"\n[core.tls]\ncertificate = \"x\"\nkey = \"x\"\n");
    let path = home.write("server.toml", &core);
    let checked = Command::new(env!("CARGO_BIN_EXE_whitelistmcp")).arg("check").arg("--config").arg(path).output();
    let said = String::from_utf8_lossy(&checked.expect("it runs").stdout).into_owned();
    assert!(said.contains("222222222222 needs a `role_arn`: only `whitelistmcp stdio`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_profile_is_said_and_mended_without_a_restart() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    home.write(".aws/credentials", "");
    let mut server = home.start();
    // It answers all the same: a client gives up one that does not.
    assert!(server.ask(json!(0), "initialize", json!({})).await["result"].is_object());
    let tools = server.ask(json!(1), "tools/list", json!({})).await;
    assert!(tools["result"]["tools"].as_array().is_some_and(|tools| !tools.is_empty()), "{tools:#}");
    let result = server.call("whitelist_targets", json!({})).await;
    let refused = error_of(&result);
    assert_eq!(refused["reason"], "AWS_PROFILE_UNUSABLE", "{refused:#}");
    let text = result["content"][0]["text"].as_str().expect("a sentence");
    assert!(text.contains("AWS profile `development`") && text.contains("aws sso login"), "{text}");
    // AWS does not know them.
    aws.fail("GetCallerIdentity", Fault::Refuse(403, "ExpiredToken"));
    home.log_in(&aws.access());
    let refused = error_of(&server.call("whitelist_targets", json!({})).await);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("ExpiredToken")), "{refused:#}");
    let targets = server.done("whitelist_targets", json!({})).await;
    assert_eq!(targets["groups"][0]["name"], "web", "{targets:#}");
    assert!(server.end().await.status.success());
    // Other keys of the same person are theirs, somebody else's are not: the journal would have the wrong name.
    let mut server = home.start();
    server.done("whitelist_targets", json!({})).await;
    home.log_in(&AwsAccess { access_key_id: "AKIAROTATEDEXAMPLE".to_owned(), ..aws.access() });
    signed_by(&aws, &mut server, "AKIAROTATEDEXAMPLE").await;
    home.log_in(&AwsAccess { access_key_id: "AKIASOMEBODYELSE".to_owned(), ..aws.access() });
    let refused = refused_at_last(&mut server).await;
    assert_eq!(refused["reason"], "AWS_PROFILE_UNUSABLE", "{refused:#}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("user/AKIASOMEBODYELSE")), "{refused:#}");
    let theirs = |asked: &Asked| asked.key == "AKIASOMEBODYELSE" && asked.action != "GetCallerIdentity";
    assert!(!aws.asked().iter().any(theirs), "nothing was done with them");
    assert!(server.end().await.status.success());
    // No Region.
    home.write(".aws/config", "[profile development]\n");
    let mut server = home.start();
    let refused = error_of(&server.call("whitelist_targets", json!({})).await);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("AWS_REGION")), "{refused:#}");
    assert!(server.end().await.status.success());
    // In a container that was meant to be a server there is nobody on stdin.
    let left = home.start().end().await;
    assert!(left.status.success() && left.stderr.contains("MCP_MODE=remote"), "{}", left.stderr);
    // An endpoint of somebody's, a file that is not there, a key that nobody knows: it does not start.
    for (variable, value, part) in [
        ("AWS_ENDPOINT_URL", "https://evil.example", "AWS_ENDPOINT_URL redirects AWS calls"),
        ("WHITELISTMCP_CONFIG", "/nowhere.toml", "/nowhere.toml"),
        ("WHITELISTMCP_AUDIT__DIRECTROY", "x", "WHITELISTMCP_AUDIT__DIRECTROY"),
        ("WHITELISTMCP_POLICY__FILE", "/nowhere.cedar", "/nowhere.cedar"),
    ] {
        let left = home.start_with(&[(variable, value)]).end().await;
        assert!(!left.status.success() && left.lines.is_empty() && left.stderr.contains(part), "{}", left.stderr);
    }
}

/// Asks until AWS is asked with that key.
async fn signed_by(aws: &AwsDouble, server: &mut Server, key: &str) {
    for _ in 0..300 {
        server.done("whitelist_list", json!({"security_group": "web"})).await;
        if aws.asked().iter().any(|asked| asked.key == key && asked.action == "DescribeSecurityGroupRules") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{key} never signed anything");
}

/// Asks until it is refused.
async fn refused_at_last(server: &mut Server) -> Value {
    for _ in 0..300 {
        let result = server.call("whitelist_list", json!({"security_group": "web"})).await;
        if result["isError"] == true {
            return error_of(&result);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("it was never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_eras_and_whatever_is_no_message() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    let mut server = home.start();
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let found = server.ask(json!("d"), "server/discover", json!({"_meta": meta})).await;
    assert_eq!(
        (found["id"].as_str(), found["result"]["resultType"].as_str()),
        (Some("d"), Some("complete")),
        "{found:#}"
    );
    let call = json!({"name": "whitelist_targets", "arguments": {}, "_meta": meta});
    assert_eq!(server.ask(json!(1), "tools/call", call).await["result"]["resultType"], "complete");
    let unknown = server.ask(json!(2), "x/y", json!({"_meta": meta})).await;
    assert_eq!(unknown["error"]["code"], -32601);
    for (line, code) in [
        (b"{not json".to_vec(), -32700),
        (b"\xff\xfe{}".to_vec(), -32700),
        (vec![b'x'; 17 * 1024 * 1024], -32600),
        (vec![b' '; 300_000].into_iter().chain(*b"{}").collect(), -32600),
        (json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}).to_string().into_bytes(), -32600),
        (json!({"jsonrpc": "2.0", "id": 9, "result": {}}).to_string().into_bytes(), -32600),
    ] {
        server.say(&line).await;
        assert_eq!(
            server.hear().await["error"]["code"],
            code,
            "{}",
            String::from_utf8_lossy(&line[..line.len().min(60)])
        );
    }
    server.say("  ").await;
    assert_eq!(server.ask(json!(18446744073709551615_u64), "ping", json!({})).await["id"].as_u64(), Some(u64::MAX));
    // A revision that has batches, and one that has none.
    let batch = json!([{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"jsonrpc": "2.0", "id": 2, "method": "ping"}])
        .to_string();
    server.ask(json!(0), "initialize", json!({"protocolVersion": "2025-03-26"})).await;
    server.say(&batch).await;
    assert_eq!(server.hear().await.as_array().map(Vec::len), Some(2));
    server.ask(json!(0), "initialize", json!({"protocolVersion": "2025-11-25"})).await;
    server.say(&batch).await;
    assert_eq!(server.hear().await["error"]["code"], -32600);
    assert!(server.end().await.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_run_side_by_side_and_what_was_begun_is_finished_and_recorded() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    let mut server = home.start();
    server.done("whitelist_targets", json!({})).await;
    let list = json!({"name": "whitelist_list", "arguments": {"security_group": "web"}});
    let call = |id: &str, params: &Value| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
    };
    // One that is given up is not answered; others overtake one that waits, and its id is taken as long as it does.
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(20)));
    server.say(call("slow", &list)).await;
    server.say(call("slow", &list)).await;
    let twice = server.hear().await;
    assert_eq!((twice["id"].as_str(), twice["error"]["code"].as_i64()), (Some("slow"), Some(-32600)), "{twice:#}");
    assert_eq!(server.ask(json!("p"), "ping", json!({})).await["id"], "p");
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "slow"}});
    server.say(cancelled.to_string()).await;
    let again = server.ask(json!("again"), "tools/call", list).await;
    assert_eq!((again["id"].as_str(), again["result"]["isError"].as_bool()), (Some("again"), Some(false)), "{again:#}");
    // The input ends while a change is on its way.
    aws.fail("AuthorizeSecurityGroupIngress", Fault::Hang(Duration::from_millis(800)));
    server.say(call("add", &json!({"name": "whitelist_add", "arguments": add("web")}))).await;
    let left = server.end().await;
    assert!(left.status.success(), "{}", left.stderr);
    let answer: Value = serde_json::from_str(left.lines.first().expect("an answer")).expect("JSON");
    assert_eq!(
        (answer["id"].as_str(), answer["result"]["isError"].as_bool()),
        (Some("add"), Some(false)),
        "{answer:#}"
    );
    assert_eq!(
        (left.lines.len(), aws.standing().iter().filter(|rule| rule.group == "sg-0cccccccccccccccc").count()),
        (1, 1)
    );
    let entries = journal(&home.journal());
    let begun =
        entries.iter().find(|entry| entry["type"] == "begin" && entry["tool"] == "whitelist_add").expect("begun");
    let ended = entries.iter().find(|entry| entry["type"] == "end" && entry["call"] == begun["call"]).expect("ended");
    assert_eq!((ended["outcome"].as_str(), ended["changed"].as_bool()), (Some("done"), Some(true)), "{ended:#}");
    // A read that AWS does not answer does not hold it.
    let mut server = home.start();
    server.done("whitelist_targets", json!({})).await;
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(120)));
    aws.fail("DescribeSecurityGroupRules", Fault::Hang(Duration::from_secs(120)));
    server.say(call("late", &json!({"name": "whitelist_list", "arguments": {"security_group": "web"}}))).await;
    assert!(server.end().await.status.success());
    // A signal ends it as well, in the middle of a wait for input.
    let server = home.start();
    let id = server.child.id().expect("it runs").to_string();
    crate::support::eventually("a journal", async || (home.entries("open").len() >= 3).then_some(())).await;
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    let left = server.ended().await;
    assert!(left.status.success(), "{}", left.stderr);
    let closed = journal(&home.journal()).iter().filter(|entry| entry["type"] == "closed").count();
    assert_eq!(closed, 3, "each process has closed its chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_at_once_share_a_directory_and_what_has_ended_is_closed_by_the_next_that_runs() {
    let aws = opted_in().await;
    let home = Home::new(&aws.access());
    let add = |last: usize, duration: &str| json!({"security_group": "web", "address": format!("203.0.113.{last}"), "port": 22, "reason": "several", "duration": duration});
    let standing = || aws.standing().iter().filter(|rule| rule.group == "sg-0cccccccccccccccc").count();
    let mut servers: Vec<Server> = (0..4).map(|_| home.start()).collect();
    for (number, server) in servers.iter_mut().enumerate() {
        assert_eq!(server.done("whitelist_add", add(number + 1, "1h")).await["outcome"], "opened");
    }
    // They are the same person, whichever of them was asked.
    let mine = servers[3].done("whitelist_leases", json!({})).await;
    let yours = |rule: &&Value| rule["leases"][0]["yours"] == true;
    assert_eq!(mine["rules"].as_array().map(|rules| rules.iter().filter(yours).count()), Some(4), "{mine:#}");
    assert_eq!(servers[0].done("whitelist_add", add(9, "4s")).await["outcome"], "opened");
    assert_eq!(standing(), 5);
    for server in servers {
        assert!(server.end().await.status.success());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(standing(), 5, "nobody is there to close it");
    let server = home.start();
    crate::support::soon("it is closed", async || (standing() == 4).then_some(())).await;
    assert!(server.end().await.status.success());
    let verified = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
        .args(["audit", "verify", "--directory"])
        .arg(home.journal())
        .output();
    let verified = verified.expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert_eq!(home.entries("open").len(), 5, "each has a chain of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_and_remote_stand_side_by_side_in_one_file() {
    let aws = opted_in().await;
    let stack = Stack::start(&aws).await;
    let home = Home::new(&aws.access());
    let servers = json!({
        "whitelistmcp-local": home.entry(),
        "whitelistmcp-remote": {"command": env!("CARGO_BIN_EXE_whitelistmcp"), "env": {
            "MCP_REMOTE_URL": format!("https://localhost:{}/mcp", stack.edge.port()),
            "MCP_AUTH_TOKEN": stack.token(),
            "WHITELISTMCP_BRIDGE_CA": stack.directory.path().join("ca.pem"),
        }},
    });
    let file = home.desktop(&servers);
    let start = |name: &str| Server::of(&file, name, home.path());
    let (mut local, mut remote) = (start("whitelistmcp-local"), start("whitelistmcp-remote"));
    let address = |address: &str, group: &str| json!({"security_group": group, "address": address, "port": 22, "reason": "side by side"});
    assert_eq!(local.done("whitelist_add", address("203.0.113.1", "web")).await["outcome"], "opened");
    assert_eq!(remote.done("whitelist_add", address("203.0.113.2", "staging-db")).await["outcome"], "opened");
    // Each knows its own person, and neither what is the other's to know.
    let mine = local.done("whitelist_leases", json!({})).await;
    assert_eq!(mine["rules"].as_array().map(Vec::len), Some(1), "{mine:#}");
    assert_eq!(home.entries("begin").iter().filter(|entry| entry["changes"] == true).count(), 1);
    for server in [local, remote] {
        let left = server.end().await;
        assert!(left.status.success() && left.lines.is_empty(), "{}", left.stderr);
    }
    stack.stop().await;
}

#[test]
fn the_official_sdk_is_served_over_stdio_in_each_of_its_modes() {
    let aws = emulator::own_group(emulator::moto(), "local");
    let home = Home::new(&aws);
    let (name, id) = &aws.groups[0];
    let config =
        format!("[[targets.groups]]\nname = \"{name}\"\nid = \"{id}\"\n[leases]\ndiscover = false\nclose = false\n");
    home.write(".config/whitelistmcp/config.toml", &config);
    let mut entry = home.entry();
    entry["env"]["HOME"] = home.path().display().to_string().into();
    entry["env"]["USER"] = "alice".into();
    let file = home.desktop(&json!({"local": entry}));
    for (mode, address) in [("legacy", "203.0.113.1"), ("2026-07-28", "203.0.113.2"), ("auto", "203.0.113.3")] {
        let mut command = Command::new(emulator::tool("python/bin/python"));
        command.arg(emulator::demo("client/mcp_desktop.py")).arg(&file).args(["local", "--mode", mode]);
        let mut client =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let add = json!({"security_group": name, "address": address, "port": 22, "reason": "sdk"});
        let list = json!({"security_group": name});
        let lines = [
            json!({"list": true}),
            json!({"tool": "whitelist_add", "arguments": add}),
            json!({"tool": "whitelist_list", "arguments": list}),
        ];
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::io::Write::write_all(&mut client.stdin.take().expect("stdin"), lines.as_bytes()).expect("written");
        let output = client.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{mode}: {said}");
        let answers = String::from_utf8(output.stdout).expect("text");
        let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(answers.len(), 3, "{mode}: {answers:#?} {said}");
        assert_eq!(answers[0]["tools"].as_array().map(Vec::len), Some(8), "{mode}: {:#}", answers[0]);
        let modern = answers[0]["protocolVersion"] == "2026-07-28";
        assert_eq!(modern, mode != "legacy", "{mode}: {}", answers[0]["protocolVersion"]);
        assert_eq!(answers[1]["structuredContent"]["outcome"], "opened", "{mode}: {:#}", answers[1]);
        assert_eq!(answers[2]["isError"], false, "{mode}: {:#}", answers[2]);
    }
}
