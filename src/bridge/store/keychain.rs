//! The system's keychain, by the program that the system has for it: `secret-tool` for the Secret Service of GNOME and KDE,
//! `security` for macOS. Secrets go through pipes, never through arguments. A keychain that is missing, locked without
//! anybody there, or slow, is none.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long the keychain may take. A person may have to unlock it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Under which name logins stand there.
const SERVICE: &str = "whitelistmcp";

/// What is kept of a server.
pub(super) async fn load(server: &str) -> Option<Vec<u8>> {
    let found = if cfg!(target_os = "macos") {
        ask("security", &["find-generic-password", "-s", SERVICE, "-a", server, "-w"], None).await
    } else {
        ask("secret-tool", &["lookup", "service", SERVICE, "server", server], None).await
    };
    found.filter(|text| !text.is_empty())
}

/// Keeps that of a server; whether it is kept.
pub(super) async fn save(server: &str, text: &str) -> bool {
    let kept = if cfg!(target_os = "macos") {
        // What is said on stdin is no argument that others see. In hexadecimal it needs no quotes.
        let hexadecimal: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let order = format!("add-generic-password -U -s {SERVICE} -a \"{server}\" -X {hexadecimal}\n");
        ask("security", &["-i"], Some(order)).await
    } else {
        let label = format!("--label={SERVICE}: {server}");
        ask("secret-tool", &["store", &label, "service", SERVICE, "server", server], Some(text.to_owned())).await
    };
    // Some keychains say that they kept what they cut off.
    kept.is_some() && load(server).await.is_some_and(|kept| kept.trim_ascii() == text.as_bytes())
}

/// Forgets a server.
pub(super) async fn clear(server: &str) {
    if cfg!(target_os = "macos") {
        ask("security", &["delete-generic-password", "-s", SERVICE, "-a", server], None).await;
    } else {
        ask("secret-tool", &["clear", "service", SERVICE, "server", server], None).await;
    }
}

/// Runs the program; what it says, if it succeeds.
async fn ask(program: &str, words: &[&str], input: Option<String>) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut pipe = child.stdin.take()?;
    let answered = async {
        pipe.write_all(input.unwrap_or_default().as_bytes()).await.ok()?;
        drop(pipe);
        let output = child.wait_with_output().await.ok()?;
        output.status.success().then_some(output.stdout)
    };
    tokio::time::timeout(PATIENCE, answered).await.ok().flatten()
}
