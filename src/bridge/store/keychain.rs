//! The system's keychain, by the program that the system has for it: `secret-tool` for the Secret Service of GNOME and KDE,
//! `security` for macOS. Secrets go through pipes, never through arguments. A keychain that is missing is none; one that
//! is locked without anybody there, or slow, has failed, which matters where something must not stay in it.

use std::io::ErrorKind;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::bridge::plain::plain;

/// How long the keychain may take. A person may have to unlock it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Under which name logins stand there.
const SERVICE: &str = "whitelistmcp";

/// A keychain that failed.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// The system has no program for it, or none is behind the program.
    #[error("there is no keychain")]
    Missing,
    /// The program failed.
    #[error("the keychain's program failed: {0}")]
    Failed(String),
    /// It says that it forgot what it still has.
    #[error("the keychain did not forget it")]
    Kept,
}

/// What is kept of a server.
pub(super) async fn load(server: &str) -> Result<Option<Vec<u8>>, KeychainError> {
    let output = if cfg!(target_os = "macos") {
        ask("security", &["find-generic-password", "-s", SERVICE, "-a", server, "-w"], None).await
    } else {
        ask("secret-tool", &["lookup", "service", SERVICE, "server", server], None).await
    }?;
    // `security` has a status of its own for what is not there; `secret-tool` fails without a word.
    let nothing = if cfg!(target_os = "macos") { output.status.code() == Some(44) } else { output.stderr.is_empty() };
    match (output.status.success(), nothing) {
        (true, _) => Ok(Some(output.stdout).filter(|text| !text.is_empty())),
        (false, true) => Ok(None),
        (false, false) => Err(failed(&output)),
    }
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
    kept.is_ok_and(|output| output.status.success())
        && load(server).await.is_ok_and(|kept| kept.is_some_and(|kept| kept.trim_ascii() == text.as_bytes()))
}

/// Forgets a server. What counts is that nothing can be read afterwards, whatever the program says.
pub(super) async fn clear(server: &str) -> Result<(), KeychainError> {
    let cleared = if cfg!(target_os = "macos") {
        ask("security", &["delete-generic-password", "-s", SERVICE, "-a", server], None).await
    } else {
        ask("secret-tool", &["clear", "service", SERVICE, "server", server], None).await
    };
    match cleared {
        Err(KeychainError::Missing) => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    match load(server).await {
        Ok(None) | Err(KeychainError::Missing) => Ok(()),
        Ok(Some(_)) => Err(KeychainError::Kept),
        Err(error) => Err(error),
    }
}

/// Runs the program.
async fn ask(program: &str, words: &[&str], input: Option<String>) -> Result<Output, KeychainError> {
    let wrong = |error: std::io::Error| KeychainError::Failed(error.to_string());
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(KeychainError::Missing),
        spawned => spawned.map_err(wrong)?,
    };
    let pipe = child.stdin.take();
    let answered = async {
        if let Some(mut pipe) = pipe {
            // A program that wants no input may have ended by now; its status tells.
            pipe.write_all(input.unwrap_or_default().as_bytes()).await.unwrap_or_default();
        }
        child.wait_with_output().await.map_err(wrong)
    };
    let late = |_| KeychainError::Failed(format!("it did not answer within {} s", PATIENCE.as_secs()));
    let output = tokio::time::timeout(PATIENCE, answered).await.map_err(late)??;
    match failed(&output) {
        KeychainError::Missing if !output.status.success() => Err(KeychainError::Missing),
        _ => Ok(output),
    }
}

/// Why it failed, in its words.
fn failed(output: &Output) -> KeychainError {
    let said = String::from_utf8_lossy(&output.stderr);
    // The session has a bus, and nothing that keeps secrets on it.
    if said.contains("org.freedesktop.secrets was not provided") {
        return KeychainError::Missing;
    }
    match said.lines().next().map(plain) {
        Some(said) => KeychainError::Failed(said),
        None => KeychainError::Failed(output.status.to_string()),
    }
}
