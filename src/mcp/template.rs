//! URIs with variables (RFC 6570, level 1): which URIs one covers, and what the variables then are.

use percent_encoding::percent_decode_str;

/// A URI with variables, or without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

/// Text that is no template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its other half.
    #[error("a `{{` or `}}` stands alone")]
    Brace,
    /// A name that is none.
    #[error("`{{{0}}}` must hold a name of a-z, 0-9 and _: operators are not known here")]
    Name(String),
    /// Nothing between two variables.
    #[error("two variables touch, so nothing could tell them apart")]
    Touching,
    /// A name twice.
    #[error("the variable `{0}` is there twice")]
    Twice(String),
}

impl Template {
    /// A URI without variables, whatever it holds.
    pub fn literal(uri: &str) -> Self {
        Self(vec![Part::Text(uri.to_owned())])
    }

    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Brace)?;
            if before.contains('}') {
                return Err(TemplateError::Brace);
            }
            let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(TemplateError::Name(name.to_owned()));
            }
            let variable = Part::Variable(name.to_owned());
            if parts.contains(&variable) {
                return Err(TemplateError::Twice(name.to_owned()));
            }
            match before {
                "" if parts.last().is_some_and(|part| matches!(part, Part::Variable(_))) => {
                    return Err(TemplateError::Touching);
                }
                "" => {}
                before => parts.push(Part::Text(before.to_owned())),
            }
            parts.push(variable);
            rest = after;
        }
        if rest.contains('}') {
            return Err(TemplateError::Brace);
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The variables' names, in their order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// What the variables are in that URI; nothing if it is another one. A variable is never empty and never holds a `/`
    /// that is not escaped.
    pub fn values(&self, uri: &str) -> Option<Vec<(String, String)>> {
        let (mut values, mut rest) = (Vec::new(), uri);
        for (at, part) in self.0.iter().enumerate() {
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Part::Variable(name) => {
                    // What follows a variable is text or the end: variables do not touch.
                    let end = match self.0.get(at + 1) {
                        Some(Part::Text(next)) => rest.find(next.as_str())?,
                        _ => rest.len(),
                    };
                    let (value, after) = rest.split_at_checked(end)?;
                    let decoded = percent_decode_str(value).decode_utf8().ok()?;
                    if value.is_empty() || value.contains('/') {
                        return None;
                    }
                    values.push((name.clone(), decoded.into_owned()));
                    rest = after;
                }
            }
        }
        rest.is_empty().then_some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(template: &str, uri: &str) -> Option<Vec<(String, String)>> {
        Template::parse(template).expect("a template").values(uri)
    }

    #[test]
    fn variables_are_read_from_uris() {
        let pairs = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(values("test://a/{id}/data", "test://a/7/data"), pairs(&[("id", "7")]));
        assert_eq!(values("test://{a}/{b}", "test://x%2Fy/z%20"), pairs(&[("a", "x/y"), ("b", "z ")]));
        assert_eq!(values("test://plain", "test://plain"), pairs(&[]));
        for uri in
            ["test://a//data", "test://a/7/8/data", "test://a/7/data/", "test://b/7/data", "test://a/%ff/data", ""]
        {
            assert_eq!(values("test://a/{id}/data", uri), None, "{uri}");
        }
        assert_eq!(Template::literal("x://{a}").values("x://{a}"), pairs(&[]));
        assert_eq!(Template::literal("x://{a}").values("x://b"), None);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, error) in [
            ("x://{a", TemplateError::Brace),
            ("x://a}", TemplateError::Brace),
            ("x://}a{b}", TemplateError::Brace),
            ("x://{}", TemplateError::Name(String::new())),
            ("x://{+a}", TemplateError::Name("+a".to_owned())),
            ("x://{a}{b}", TemplateError::Touching),
            ("x://{a}/{a}", TemplateError::Twice("a".to_owned())),
        ] {
            assert_eq!(Template::parse(text), Err(error), "{text}");
        }
    }
}
