//! What a client has said that it can be asked for, and which lines it wants for its log.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::pb::mcp::v1::question::Kind;
use crate::pb::mcp::v1::{LogLevel, Question};

/// What a client can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Can {
    /// What a form holds.
    pub fill_forms: bool,
    /// That its user opens a URL.
    pub open_urls: bool,
    /// That its model writes something.
    pub sample: bool,
    /// What its roots are.
    pub tell_roots: bool,
}

/// `ClientCapabilities`, as far as they matter here.
#[derive(Default, Deserialize)]
struct Capabilities {
    elicitation: Option<Elicitation>,
    sampling: Option<Value>,
    roots: Option<Value>,
}

#[derive(Deserialize)]
struct Elicitation {
    form: Option<Value>,
    url: Option<Value>,
}

impl Can {
    /// Reads the capabilities that a client declares. One that declares elicitation and no mode means forms
    /// (2025-11-25, "Elicitation").
    pub fn declared(capabilities: Option<&RawValue>) -> Self {
        let read = capabilities.and_then(|raw| serde_json::from_str::<Capabilities>(raw.get()).ok());
        let Capabilities { elicitation, sampling, roots } = read.unwrap_or_default();
        let is_there = |value: &Option<Value>| value.as_ref().is_some_and(Value::is_object);
        let (form, url) = elicitation
            .as_ref()
            .map_or((false, false), |elicitation| (is_there(&elicitation.form), is_there(&elicitation.url)));
        Self {
            fill_forms: elicitation.is_some() && (form || !url),
            open_urls: url,
            sample: is_there(&sampling),
            tell_roots: is_there(&roots),
        }
    }

    /// Reads what the parameters of `initialize` declare.
    pub fn of_initialize(params: Option<&RawValue>) -> Self {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            capabilities: Option<&'a RawValue>,
        }
        let params = params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        Self::declared(params.and_then(|params| params.capabilities))
    }

    /// Whether it can be asked for anything.
    pub fn anything(self) -> bool {
        self != Self::default()
    }

    /// The capabilities that a question needs and the client has not declared.
    pub fn lacks<'a>(self, questions: impl IntoIterator<Item = &'a Question>) -> Option<Value> {
        let mut lacks = serde_json::Map::new();
        for question in questions {
            let (has, name, value) = match &question.kind {
                Some(Kind::Form(_)) => (self.fill_forms, "elicitation", json!({"form": {}})),
                Some(Kind::Visit(_)) => (self.open_urls, "elicitation", json!({"url": {}})),
                Some(Kind::Sampling(_)) => (self.sample, "sampling", json!({})),
                Some(Kind::Roots(_)) => (self.tell_roots, "roots", json!({})),
                None => continue,
            };
            if !has {
                lacks.insert(name.to_owned(), value);
            }
        }
        (!lacks.is_empty()).then(|| lacks.into())
    }
}

/// The level of that name.
pub fn log_level(name: &str) -> Option<LogLevel> {
    LogLevel::from_str_name(&format!("LOG_LEVEL_{}", name.to_ascii_uppercase()))
        .filter(|level| *level != LogLevel::Unspecified && name.bytes().all(|b| b.is_ascii_lowercase()))
}

/// The level's name.
pub fn level_name(level: LogLevel) -> String {
    let level = if level == LogLevel::Unspecified { LogLevel::Info } else { level };
    level.as_str_name().trim_start_matches("LOG_LEVEL_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(capabilities: &str) -> Can {
        Can::declared(Some(&RawValue::from_string(capabilities.to_owned()).expect("JSON")))
    }

    #[test]
    fn elicitation_without_a_mode_means_forms() {
        assert_eq!(can("{}"), Can::default());
        assert_eq!(can(r#"{"elicitation":{}}"#), Can { fill_forms: true, ..Can::default() });
        assert_eq!(can(r#"{"elicitation":{"form":{}}}"#), Can { fill_forms: true, ..Can::default() });
        assert_eq!(can(r#"{"elicitation":{"url":{}}}"#), Can { open_urls: true, ..Can::default() });
        let all = Can { fill_forms: true, open_urls: true, sample: true, tell_roots: true };
        assert_eq!(can(r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{"listChanged":true}}"#), all);
        assert_eq!(can(r#"{"elicitation":7}"#), Can::default());
        assert_eq!(Can::declared(None), Can::default());
    }

    #[test]
    fn levels_have_names() {
        for name in ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"] {
            assert_eq!(log_level(name).map(level_name).as_deref(), Some(name));
        }
        for name in ["", "unspecified", "INFO", "trace"] {
            assert_eq!(log_level(name), None, "{name}");
        }
    }
}
