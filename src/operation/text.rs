//! Text that callers write: bounded, without what hides, and without what looks like a secret.

use super::OperationError;

/// An optional field: proto3 cannot tell an empty string from an absent one, and neither do we. Nothing that could be a
/// secret gets any further, since what follows is repeated in messages, on rules and in the journal.
pub(super) fn given<'a>(field: &'static str, value: &'a str, max: usize) -> Result<Option<&'a str>, OperationError> {
    let length = value.chars().count();
    if length > max {
        return Err(OperationError::TooLong { field, length, max });
    }
    if value.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(OperationError::ControlCharacter(field));
    }
    if holds_secret(value) {
        return Err(OperationError::Credential(field));
    }
    Ok(Some(value.trim()).filter(|value| !value.is_empty()))
}

/// Free text that stands on rules and in the journal.
pub(super) fn text(field: &'static str, value: &str) -> Result<Option<String>, OperationError> {
    Ok(given(field, value, 200)?.map(str::to_owned))
}

/// A reason that must be given.
pub(super) fn reason(value: &str) -> Result<String, OperationError> {
    let reason = text("reason", value)?.ok_or(OperationError::Missing("reason"))?;
    if reason.chars().count() < 3 { Err(OperationError::ReasonTooShort) } else { Ok(reason) }
}

/// One value and a list of more of them, as one list without repetition.
pub(super) fn one_or_more<'a>(
    fields: (&'static str, &'static str),
    one: &'a str,
    more: &'a [String],
    longest: usize,
    most: usize,
) -> Result<Vec<&'a str>, OperationError> {
    let (single, list) = fields;
    let first = given(single, one, longest)?;
    if first.is_some() && !more.is_empty() {
        return Err(OperationError::OneOrMany(single, list));
    }
    if more.len() > most {
        return Err(OperationError::TooMany { field: list, given: more.len(), most });
    }
    let mut all: Vec<&str> = first.into_iter().collect();
    for value in more {
        let value = given(list, value, longest)?.ok_or(OperationError::EmptyEntry(list))?;
        if !all.contains(&value) {
            all.push(value);
        }
    }
    Ok(all)
}

/// Characters that hide or turn around what is beside them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Whether a text holds what looks like an AWS access key id, an AWS secret access key, or a token.
///
/// Source: IAM's unique identifier prefixes (AKIA is a long-term access key, ASIA a temporary one). A secret key is 40
/// characters of base64, which a commit id in hexadecimal is not taken for.
fn holds_secret(text: &str) -> bool {
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let key_id = ["AKIA", "ASIA"]
        .into_iter()
        .flat_map(|prefix| text.split(prefix).skip(1))
        .any(|rest| rest.chars().take_while(|c| upper(*c)).count() >= 16);
    let secret = |run: &str| {
        let has = |is: fn(&char) -> bool| run.chars().any(|c| is(&c));
        run.len() == 40 && has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit)
    };
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/".contains(c)));
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)));
    let token = words.into_iter().any(|word| word.starts_with("eyJ") && word.matches('.').count() == 2);
    key_id || token || runs.into_iter().any(secret)
}
