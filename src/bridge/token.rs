//! The caller's token, as it was given: by value, or by a file that something else keeps fresh.

use std::path::PathBuf;

use crate::identity::bearer::Bearer;

/// Where a token is.
#[derive(Clone)]
pub enum Token {
    /// Here.
    Given(Bearer),
    /// In a file, read for every request.
    File(PathBuf),
}

/// A token that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("the token's file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is given is no token.
    #[error("{0} holds no token: it must be one word of letters, digits and -._~+/=")]
    Malformed(String),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Token(…)"),
            Self::File(path) => f.debug_tuple("Token").field(path).finish(),
        }
    }
}

impl Token {
    /// A token by value; `from` is where it comes from, for whoever must mend it.
    pub fn given(text: &str, from: &str) -> Result<Self, TokenError> {
        parse(text, from).map(Self::Given)
    }

    /// The token now.
    pub(super) fn current(&self) -> Result<Bearer, TokenError> {
        match self {
            Self::Given(bearer) => Ok(bearer.clone()),
            Self::File(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| TokenError::Read { path: path.clone(), source })?;
                parse(&text, &path.display().to_string())
            }
        }
    }
}

fn parse(text: &str, from: &str) -> Result<Bearer, TokenError> {
    let text = text.trim().trim_start_matches("Bearer ");
    Bearer::from_authorization(&format!("Bearer {text}")).ok_or_else(|| TokenError::Malformed(from.to_owned()))
}
