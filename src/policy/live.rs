//! The policies in force, and how others come into force while the service runs.
//!
//! What the configuration names is read again every few seconds. Policies that differ are checked whole, and take effect
//! once they were read twice the same: whoever writes a file may not be done. Those that are bad change nothing and are
//! complained of, once for each change. A call keeps the policies that it began with for all its decisions: they travel in
//! its [`LookPermit`].

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::load::{Config, LoadError, Sources};
use super::{Denial, LookPermit, Policy};
use crate::error::Chain;
use crate::identity::Caller;
use crate::operation::target::Target;
use crate::operation::{Operation, Tool};

/// The policies in force. They are replaced whole.
#[derive(Debug)]
pub struct Policies {
    config: Config,
    current: ArcSwap<Policy>,
    read: Mutex<Read>,
}

/// What was read of the configuration's policies.
#[derive(Debug)]
struct Read {
    /// What is in force.
    used: String,
    /// What was read last, if it is neither in force nor known to be bad.
    seen: Option<String>,
    /// What was complained of last.
    bad: Option<String>,
}

/// What came of reading the policies again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are those in force.
    Same,
    /// They differ, and take effect if they are the same the next time.
    Changed,
    /// They are in force from now on.
    Replaced,
    /// They cannot be used; those in force stay.
    Bad,
}

impl Read {
    /// Says what is wrong, once for each change.
    fn complain(&mut self, what: String, error: &LoadError) -> Reload {
        if self.bad.as_ref() != Some(&what) {
            tracing::error!(error = %Chain(error), "the policies on disk cannot be used; those in force stay");
        }
        *self = Self { used: std::mem::take(&mut self.used), seen: None, bad: Some(what) };
        Reload::Bad
    }
}

impl Policies {
    /// Loads and checks what the configuration names.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        let sources = Sources::read(config)?;
        let policy = Policy::of(&sources, config)?;
        let read = Read { used: sources.digest(), seen: None, bad: None };
        Ok(Self { config: config.clone(), current: ArcSwap::from_pointee(policy), read: Mutex::new(read) })
    }

    /// The set that decides on calls that begin now.
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Reads the policies again, from disk. Blocks.
    pub fn reload(&self) -> Reload {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = match Sources::read(&self.config) {
            Ok(sources) => sources,
            Err(error) => return read.complain(Chain(&error).to_string(), &error),
        };
        let digest = sources.digest();
        if digest == read.used {
            if read.bad.take().is_some() {
                tracing::info!("the policies on disk are those in force again");
            }
            read.seen = None;
            return Reload::Same;
        }
        if read.bad.as_ref() == Some(&digest) {
            return Reload::Bad;
        }
        if read.seen.as_ref() != Some(&digest) {
            read.seen = Some(digest);
            return Reload::Changed;
        }
        match Policy::of(&sources, &self.config) {
            Ok(policy) => {
                tracing::info!(policies = policy.len(), sha256 = digest, "new policies are in force");
                self.current.store(Arc::new(policy));
                *read = Read { used: digest, seen: None, bad: None };
                Reload::Replaced
            }
            Err(error) => read.complain(digest, &error),
        }
    }

    /// [`Policy::look`] by the policies in force.
    pub fn look(&self, caller: Arc<Caller>, operation: Operation) -> Result<LookPermit, (Denial, Arc<Operation>)> {
        self.current.load().look(caller, operation)
    }

    /// [`Policy::shows`] by the policies in force.
    pub fn shows(&self, caller: &Caller, target: &Target, at: Timestamp) -> bool {
        self.current.load().shows(caller, target, at)
    }

    /// [`Policy::may_call`] by the policies in force.
    pub fn may_call(&self, caller: &Caller, tool: Tool) -> bool {
        self.current.load().may_call(caller, tool)
    }
}

/// [`Policies::reload`] on a thread where it may block.
pub async fn reload_apart(policies: &Arc<Policies>) -> Reload {
    let policies = Arc::clone(policies);
    tokio::task::spawn_blocking(move || policies.reload()).await.unwrap_or_else(|panic| {
        tracing::error!(error = %panic, "the policies could not be read again; those in force stay");
        Reload::Bad
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "@id(\"one\") permit (principal, action, resource);";
    const TWO: &str = "@id(\"two\") permit (principal, action, resource);";

    #[test]
    fn policies_are_replaced_once_they_stand_still_and_never_by_bad_ones() {
        let file = std::env::temp_dir().join(format!("whitelistmcp-{}.cedar", uuid::Uuid::new_v4()));
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write(ONE);
        let policies = Policies::load(&Config { file: Some(file.clone()), ..Config::default() }).expect("sound");
        let ids = || policies.current().ids().into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(policies.reload(), Reload::Same);
        write(TWO);
        assert_eq!((policies.reload(), ids()), (Reload::Changed, vec!["one".to_owned()]), "it may not be whole yet");
        assert_eq!((policies.reload(), ids()), (Reload::Replaced, vec!["two".to_owned()]));
        assert_eq!(policies.reload(), Reload::Same);
        for bad in ["nonsense", "@id(\"a\") permit (principal, action, resource) when { context.nothing };"] {
            write(bad);
            assert_eq!(policies.reload(), Reload::Changed);
            assert_eq!(
                (policies.reload(), policies.reload(), ids()),
                (Reload::Bad, Reload::Bad, vec!["two".to_owned()])
            );
        }
        std::fs::remove_file(&file).expect("removed");
        assert_eq!((policies.reload(), ids()), (Reload::Bad, vec!["two".to_owned()]));
        write(TWO);
        assert_eq!(policies.reload(), Reload::Same, "as before");
        // One that was written in two goes is never in force by half.
        write("@id(\"a\") permit (principal, action, resource);");
        assert_eq!(policies.reload(), Reload::Changed);
        write(
            "@id(\"a\") permit (principal, action, resource); @id(\"b\") @message(\"No.\") forbid (principal, action, resource);",
        );
        assert_eq!((policies.reload(), ids()), (Reload::Changed, vec!["two".to_owned()]));
        assert_eq!((policies.reload(), ids().len()), (Reload::Replaced, 2));
        std::fs::remove_file(&file).expect("removed");
    }
}
