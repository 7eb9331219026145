//! The token that goes with a request: one that was given to the bridge, or one of a login that it keeps, renews, and begins
//! by itself when the server wants one and there is none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;
use url::Url;

use super::login::challenge::Challenge;
use super::login::{LoginError, Logins, Reach};
use super::store::Login;
use super::token::{Token, TokenError};
use crate::error::Chain;
use crate::identity::bearer::Bearer;

/// Where tokens come from.
pub(super) enum Access {
    /// Whoever started the bridge has given one.
    Given(Token),
    /// A login.
    Own(Own),
}

/// A token that cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum AccessError {
    #[error(transparent)]
    Token(Arc<TokenError>),
    #[error(transparent)]
    Login(Arc<LoginError>),
    /// The token that was given is not good, or not enough.
    #[error("the token that the bridge was given was refused")]
    Given,
}

impl From<LoginError> for AccessError {
    fn from(error: LoginError) -> Self {
        Self::Login(Arc::new(error))
    }
}

/// A token that a request goes out with.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) bearer: Bearer,
}

type Outcome = Result<Held, AccessError>;

/// The token of a login.
pub(super) struct Own(Arc<Inner>);

struct Inner {
    logins: Logins,
    reach: Reach,
    known: tokio::sync::Mutex<Known>,
    /// What renews the token ahead of its end.
    renewing: Mutex<Renewing>,
    /// What is on its way to another token, for everybody who wants one meanwhile.
    running: Mutex<Option<Shared<BoxFuture<'static, Outcome>>>>,
}

/// How long a token that could not be renewed ahead of its end is left alone.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// A token's renewal ahead of its end, which nobody waits for while the token is good.
#[derive(Default)]
struct Renewing {
    running: Option<Shared<BoxFuture<'static, ()>>>,
    /// After a failure: from when on it is tried again.
    again: Option<Instant>,
}

/// What is known of the login.
#[derive(Default)]
enum Known {
    /// Nobody has looked yet.
    #[default]
    Unread,
    /// There is none.
    Nothing,
    /// The one that was read or obtained last.
    Login(Box<Login>),
}

impl Access {
    pub(super) fn own(logins: Logins, reach: Reach) -> Self {
        Self::Own(Own(Arc::new(Inner {
            logins,
            reach,
            known: tokio::sync::Mutex::default(),
            renewing: Mutex::default(),
            running: Mutex::default(),
        })))
    }

    /// The token to send now, if there is one.
    pub(super) async fn current(&self) -> Result<Option<Held>, AccessError> {
        match self {
            Self::Given(token) => {
                token.current().map(|bearer| Some(Held { bearer })).map_err(|error| AccessError::Token(Arc::new(error)))
            }
            Self::Own(own) => own.0.current().await,
        }
    }

    /// Another token than the one that was refused. What it takes goes on if whoever asked gives up waiting.
    pub(super) async fn another(&self, refused: Option<&Held>, challenge: Challenge) -> Outcome {
        let own = match self {
            Self::Own(own) => own,
            // A file may hold another one by now.
            Self::Given(_) => {
                let now = self.current().await?;
                let other =
                    now.filter(|now| refused.is_some_and(|refused| refused.bearer.expose() != now.bearer.expose()));
                return other.ok_or(AccessError::Given);
            }
        };
        let running = {
            let mut running = own.0.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.as_ref().filter(|running| running.peek().is_none()) {
                Some(running) => running.clone(),
                None => {
                    let (inner, refused) = (Arc::clone(&own.0), refused.cloned());
                    let task = tokio::spawn(async move { inner.another(refused, challenge).await });
                    // A task that was ended, or that failed, has logged nobody in.
                    let outcome = async move { task.await.unwrap_or_else(|_| Err(LoginError::Nobody.into())) };
                    running.insert(outcome.boxed().shared()).clone()
                }
            }
        };
        running.await
    }

    /// The page that somebody has to log in at, if a login waits for it.
    pub(super) fn waiting(&self) -> Option<Url> {
        match self {
            Self::Given(_) => None,
            Self::Own(own) => {
                let running = own.0.running.lock().unwrap_or_else(PoisonError::into_inner);
                // A page of somebody who has gone is waited at by nobody.
                let waits = running.as_ref().is_some_and(|running| running.peek().is_none());
                waits.then(|| own.0.logins.waiting()).flatten()
            }
        }
    }
}

impl Inner {
    async fn current(self: &Arc<Self>) -> Result<Option<Held>, AccessError> {
        let Some(login) = self.known().await? else { return Ok(None) };
        if self.logins.is_ending(&login)
            && let Some(renewing) = self.renew(&login)
            && self.logins.has_ended(&login)
        {
            renewing.await;
            // The server decides whether the old one is still good, and if not there is more that can be done.
            return self.known().await?.map(|login| of(&login)).transpose();
        }
        Ok(Some(of(&login)?))
    }

    /// The login, read if nobody has done so.
    async fn known(&self) -> Result<Option<Login>, AccessError> {
        let mut known = self.known.lock().await;
        if matches!(*known, Known::Unread) {
            *known = self.logins.kept().await?.map_or(Known::Nothing, |login| Known::Login(Box::new(login)));
        }
        match &*known {
            Known::Login(login) => Ok(Some((**login).clone())),
            Known::Unread | Known::Nothing => Ok(None),
        }
    }

    /// Has the token renewed by one for all, unless that failed a moment ago.
    fn renew(self: &Arc<Self>, old: &Login) -> Option<Shared<BoxFuture<'static, ()>>> {
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = renewing.running.as_ref().filter(|running| running.peek().is_none()) {
            return Some(running.clone());
        }
        if renewing.again.is_some_and(|again| again > Instant::now()) {
            return None;
        }
        let (inner, old) = (Arc::clone(self), old.clone());
        let task = tokio::spawn(async move {
            match inner.logins.renewed(&old).await {
                Ok(new) => {
                    let mut known = inner.known.lock().await;
                    // Somebody may have come by another one meanwhile.
                    if let Known::Login(login) = &mut *known
                        && login.access_token == old.access_token
                    {
                        **login = new;
                    }
                }
                Err(error) => {
                    tracing::info!(error = %Chain(&error), "the token could not be renewed ahead of its end");
                    let mut renewing = inner.renewing.lock().unwrap_or_else(PoisonError::into_inner);
                    renewing.again = Some(Instant::now() + RENEW_AGAIN);
                }
            }
        });
        // A task that was ended has renewed nothing.
        Some(renewing.running.insert(task.map(drop).boxed().shared()).clone())
    }

    async fn another(&self, refused: Option<Held>, challenge: Challenge) -> Outcome {
        let refused = refused.as_ref().map(|held| held.bearer.expose());
        if let Known::Login(login) = &*self.known.lock().await
            && Some(login.access_token.as_str()) != refused
        {
            return of(login);
        }
        let login = self.logins.obtain(refused, &challenge, self.reach).await?;
        let new = of(&login)?;
        *self.known.lock().await = Known::Login(Box::new(login));
        Ok(new)
    }
}

fn of(login: &Login) -> Outcome {
    let bearer = Bearer::from_authorization(&format!("Bearer {}", login.access_token));
    bearer.map(|bearer| Held { bearer }).ok_or_else(|| LoginError::Grant(super::login::GrantError::Token).into())
}
