//! The page itself: HTML without a script, in which everything that somebody has written is text.

use std::fmt::Write;
use std::sync::LazyLock;

use ::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use ::http::{HeaderValue, StatusCode};
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::pb::mcp::v1 as pb;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// What the page may do: show itself in this style and send its form home. It runs nothing, loads nothing, and stands in
/// nobody's frame, so that nobody can be made to click on it unawares.
static CONTENT_POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
});

/// A request as one person sees it.
pub(super) struct Shown<'a> {
    pub(super) approval: &'a pb::Approval,
    /// Who looks.
    pub(super) who: &'a str,
    /// What the form carries, where it is theirs to decide.
    pub(super) form: Option<&'a str>,
}

/// A request, with the form to decide on it where there is one.
pub(super) fn request(shown: &Shown<'_>, action: &str) -> Response {
    let approval = shown.approval;
    let mut body = String::from("<dl>");
    for detail in &approval.details {
        // Writing to a string cannot fail; here and below.
        let _: std::fmt::Result = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(&detail.name), escape(&detail.value));
    }
    body.push_str("</dl>");
    let _: std::fmt::Result = write!(
        body,
        "<p class=\"state\" id=\"state\">{}</p><p>You are logged in as {}.</p>",
        escape(&state(approval)),
        escape(shown.who)
    );
    match shown.form {
        Some(sealed) => {
            let _: std::fmt::Result = write!(
                body,
                "<form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"sealed\" value=\"{}\"><label for=\"note\">A note for {} and the audit trail (optional)</label><input id=\"note\" name=\"note\" maxlength=\"200\" autocomplete=\"off\"><button name=\"verdict\" value=\"approve\">Approve</button><button name=\"verdict\" value=\"decline\">Decline</button></form>",
                escape(action),
                escape(sealed),
                escape(&approval.requester)
            );
        }
        None if approval.state() == pb::ApprovalState::Waiting => {
            body.push_str("<p>It is not yours to decide. Send the link to somebody who may.</p>");
        }
        None => {}
    }
    whole(StatusCode::OK, &approval.title, &body)
}

/// A sentence instead of a request.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    whole(status, "Approval", &format!("<p id=\"message\">{}</p>", escape(text)))
}

/// What became of a request, in words.
fn state(approval: &pb::Approval) -> String {
    let by = &approval.decided_by;
    let note = if approval.note.is_empty() { String::new() } else { format!(", saying: {}", approval.note) };
    match approval.state() {
        pb::ApprovalState::Approved => format!(
            "{by} has approved this{note}. It is done when {} asks for it once more, until {}.",
            approval.requester, approval.expires
        ),
        pb::ApprovalState::Declined => format!("{by} has declined this{note}. Nothing was changed."),
        pb::ApprovalState::Used => format!("{by} has approved this{note}, and it was done."),
        pb::ApprovalState::Waiting | pb::ApprovalState::Unspecified => {
            let whose = match approval.from() {
                pb::ApprovalFrom::Requester => format!("the word of {}", approval.requester),
                pb::ApprovalFrom::Another | pb::ApprovalFrom::Unspecified => {
                    format!("the word of somebody other than {}", approval.requester)
                }
            };
            format!("This waits for {whose}, until {}.", approval.expires)
        }
    }
}

/// A message as a sentence of its own.
pub(super) fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let end = if message.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

fn whole(status: StatusCode, title: &str, body: &str) -> Response {
    // The body last: what is filled in is not searched again.
    let page = PAGE.replace("{{title}}", &escape(title)).replace("{{style}}", STYLE);
    let (before, after) = page.split_once("{{body}}").unwrap_or((&page, ""));
    let mut response = Response::new(Body::from([before, body, after].concat()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    harden(&mut response);
    response
}

/// The headers that keep a page to itself.
pub(super) fn harden(response: &mut Response) {
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        // Not `no-referrer`: with that a browser sends no origin with the form either.
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Text as HTML has it, in content and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '{' => escaped.push_str("&#123;"),
            // Letters that turn the line around or are not seen would make one thing look like another.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                escaped.push('\u{fffd}');
            }
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_writes_is_text() {
        assert_eq!(
            escape("<b a=\"x\" b='y'>&{{style}}"),
            "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;&#123;&#123;style}}"
        );
        assert_eq!(escape("a\u{202e}b\u{7}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
        assert_eq!(sentence("you may not"), "You may not.");
        assert_eq!(sentence(""), ".");
    }

    #[test]
    fn the_style_is_the_one_that_the_policy_names() {
        let page = PAGE.replace("{{style}}", STYLE);
        let style = page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).expect("a style").0;
        assert!(CONTENT_POLICY.contains(&STANDARD.encode(Sha256::digest(style))));
    }
}
