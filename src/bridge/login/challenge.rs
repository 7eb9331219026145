//! What a server says when it wants a token, or another one: `WWW-Authenticate` (RFC 9110, 11.6.1; RFC 6750; RFC 9728).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The `Bearer` challenge of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::bridge) struct Challenge {
    /// Where the metadata of the protected resource is.
    pub(in crate::bridge) resource_metadata: Option<String>,
    /// What the operation needs.
    pub(in crate::bridge) scope: Option<String>,
    /// Why the token was not enough.
    pub(in crate::bridge) error: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge among an answer's headers; empty if there is none.
    pub(in crate::bridge) fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        values.find_map(of_bearer).unwrap_or_default()
    }

    /// Whether a token with more scopes is what is asked for.
    pub(in crate::bridge) fn is_insufficient_scope(&self) -> bool {
        self.error.as_deref() == Some("insufficient_scope")
    }
}

/// Reads the challenges of one header's value.
fn of_bearer(value: &str) -> Option<Challenge> {
    let (mut found, mut rest) = (None::<Challenge>, value);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let (name, after) = split_token(rest);
        if name.is_empty() {
            return found;
        }
        let behind = after.trim_start_matches([' ', '\t']);
        let Some(value) = behind.strip_prefix('=').filter(|value| !value.starts_with('=')) else {
            // A scheme begins. Another one than ours ends what we read.
            if found.is_some() {
                return found;
            }
            found = name.eq_ignore_ascii_case("bearer").then(Challenge::default);
            rest = after;
            continue;
        };
        let (value, after) = read_value(value.trim_start_matches([' ', '\t']));
        rest = after;
        let Some(challenge) = &mut found else { continue };
        match name.to_ascii_lowercase().as_str() {
            "resource_metadata" => challenge.resource_metadata = Some(value),
            "scope" => challenge.scope = Some(value).filter(|scope| !scope.trim().is_empty()),
            "error" => challenge.error = Some(value),
            _ => {}
        }
    }
}

/// A token (RFC 9110, 5.6.2), and what is behind it. `~` and `/` are in it for a scheme's `token68`.
fn split_token(text: &str) -> (&str, &str) {
    let letter = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    let end = text.find(|c| !letter(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A value, quoted or not, and what is behind it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let (mut value, mut letters) = (String::new(), quoted.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    (value, letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&'static str]) -> Challenge {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_static(value));
        }
        Challenge::read(&headers)
    }

    #[test]
    fn challenges_are_read_however_they_are_written() {
        let whole = Challenge {
            resource_metadata: Some("https://x.example/.well-known/oauth-protected-resource/mcp".to_owned()),
            scope: Some("a b".to_owned()),
            error: Some("insufficient_scope".to_owned()),
        };
        for values in [
            &[
                "Bearer scope=\"a b\", resource_metadata=\"https://x.example/.well-known/oauth-protected-resource/mcp\", error=\"insufficient_scope\"",
            ][..],
            &[
                "bearer  error = insufficient_scope ,scope=\"a\\ b\",Resource_Metadata=\"https://x.example/.well-known/oauth-protected-resource/mcp\"",
            ],
            &[
                "Basic realm=\"scope=\\\"no\\\", Bearer\", Bearer error=insufficient_scope, error_description=\"a, b=c\", scope=\"a b\", resource_metadata=\"https://x.example/.well-known/oauth-protected-resource/mcp\", Digest scope=no",
            ],
            &[
                "Negotiate YII=",
                "Bearer realm=x, scope=\"a b\", error=\"insufficient_scope\", resource_metadata=https://x.example/.well-known/oauth-protected-resource/mcp",
            ],
        ] {
            assert_eq!(read(values), whole, "{values:?}");
            assert!(read(values).is_insufficient_scope());
        }
        for values in [
            &[][..],
            &["Bearer"],
            &["Basic scope=a"],
            &[""],
            &["\"\""],
            &["Bearer scope=\"\""],
            &["Bearer realm=\"never closed"],
        ] {
            assert_eq!(read(values), Challenge::default(), "{values:?}");
        }
    }
}
