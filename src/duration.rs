//! Durations as people write them, and settings that take one within bounds.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer};

/// The bounds of settings, in milliseconds.
pub(crate) const MILLISECOND: u64 = 1;
pub(crate) const SECOND: u64 = 1_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;
/// No bound.
pub(crate) const EVER: u64 = u64::MAX;

/// Reads a duration such as `2h` or `1d 30m`; a day has 24 hours, and months and years have no length of their own.
pub(crate) fn parse(written: &str) -> Option<SignedDuration> {
    let span: Span = written.trim().parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// Bounds in words, as they stand behind "a duration".
pub(crate) fn bounds(least: u64, most: u64) -> String {
    match (least, most) {
        (0, most) => format!("of at most {}", words(most)),
        (least, EVER) => format!("of at least {}", words(least)),
        (least, most) => format!("from {} to {}", words(least), words(most)),
    }
}

/// One that is within bounds: five seconds, or the least.
pub(crate) fn example(least: u64, most: u64) -> String {
    words(if (least..=most).contains(&(5 * SECOND)) { 5 * SECOND } else { least })
}

/// What a setting wants, in words.
fn wanted(least: u64, most: u64) -> String {
    format!("a duration {}, such as {}", bounds(least, most), example(least, most))
}

fn words(bound: u64) -> String {
    format!("{:#}", SignedDuration::from_millis(bound.try_into().unwrap_or(i64::MAX)))
}

fn read(written: &str, least: u64, most: u64) -> Option<Duration> {
    let length = Duration::try_from(parse(written)?).ok()?;
    (length >= Duration::from_millis(least) && length <= Duration::from_millis(most)).then_some(length)
}

/// Reads a setting: a duration of `LEAST` to `MOST` milliseconds.
pub(crate) fn within<'de, D: Deserializer<'de>, T: From<Duration>, const LEAST: u64, const MOST: u64>(
    deserializer: D,
) -> Result<T, D::Error> {
    let written = String::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom(format!("`{written}` is not {}", wanted(LEAST, MOST)));
    read(&written, LEAST, MOST).map(T::from).ok_or_else(wrong)
}

/// Reads a setting: the word `off`, or a duration of `LEAST` to `MOST` milliseconds.
pub(crate) fn within_or_off<'de, D: Deserializer<'de>, const LEAST: u64, const MOST: u64>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let written = String::deserialize(deserializer)?;
    if written == "off" {
        return Ok(None);
    }
    let wrong = || serde::de::Error::custom(format!("`{written}` is neither `off` nor {}", wanted(LEAST, MOST)));
    read(&written, LEAST, MOST).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Settings {
        #[serde(default, deserialize_with = "within::<_, _, SECOND, HOUR>")]
        between: Option<Duration>,
        #[serde(default, deserialize_with = "within::<_, _, 0, MINUTE>")]
        most: Duration,
        #[serde(default, deserialize_with = "within::<_, _, DAY, EVER>")]
        least: Duration,
        #[serde(default, deserialize_with = "within_or_off::<_, SECOND, DAY>")]
        off: Option<Duration>,
    }

    fn settings(text: &str) -> Result<Settings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_within_its_bounds_is_taken() {
        for (text, seconds) in [("1s", 1), ("1h", 3600), ("1m 30s", 90), (" 5s ", 5)] {
            let read = settings(&format!("between = \"{text}\"")).expect("sound");
            assert_eq!(read.between, Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(settings("most = \"0s\"").expect("sound").most, Duration::ZERO);
        assert_eq!(settings("least = \"400d\"").expect("sound").least, Duration::from_secs(400 * 86_400));
        assert_eq!(settings("off = \"off\"").expect("sound").off, None);
        assert_eq!(settings("off = \"24h\"").expect("sound").off, Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn what_is_not_is_told_what_would_be() {
        for (text, told) in [
            ("between = \"999ms\"", "`999ms` is not a duration from 1s to 1h, such as 5s"),
            ("between = \"1h 1ms\"", "`1h 1ms` is not a duration from 1s to 1h, such as 5s"),
            ("between = \"-5s\"", "`-5s` is not a duration from"),
            ("between = \"1 month\"", "`1 month` is not a duration from"),
            ("between = \"5\"", "`5` is not a duration from"),
            ("between = \"\"", "`` is not a duration from"),
            ("between = \"off\"", "`off` is not a duration from"),
            ("between = 5", "expected a string"),
            ("most = \"61s\"", "`61s` is not a duration of at most 1m, such as 5s"),
            ("least = \"23h\"", "`23h` is not a duration of at least 24h, such as 24h"),
            ("off = \"25h\"", "`25h` is neither `off` nor a duration from 1s to 24h, such as 5s"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
