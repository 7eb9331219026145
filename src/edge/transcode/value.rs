//! JSON values that travel as `google.protobuf.Struct` and `google.protobuf.Value`.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Number};

/// The largest whole number of which a double knows all before it.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value as JSON. A double without a fraction is written as a whole number, as it was before it became a double.
pub(in crate::edge) fn to_serde(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StructValue(value)) => object(value),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(to_serde).collect(),
    }
}

/// An object as JSON.
pub(in crate::edge) fn object(value: Struct) -> serde_json::Value {
    serde_json::Value::Object(value.fields.into_iter().map(|(name, value)| (name, to_serde(value))).collect())
}

/// A number as JSON; null if it is none.
pub(in crate::edge) fn number(value: f64) -> serde_json::Value {
    #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is not too large")]
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Number::from(value as i64).into();
    }
    Number::from_f64(value).map_or(serde_json::Value::Null, Into::into)
}

/// JSON as an object that can travel.
pub(in crate::edge) fn to_struct(object: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

fn to_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(to_value).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(to_struct(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_back_as_it_went() {
        let json = serde_json::json!({
            "a": [1, -7, 2.5, 9_007_199_254_740_992_i64, true, null, "x"], "b": {"c": {}}, "d": 0,
        });
        let serde_json::Value::Object(map) = json.clone() else { panic!("an object") };
        assert_eq!(object(to_struct(map)), json);
        assert_eq!(number(f64::NAN), serde_json::Value::Null);
        assert_eq!(number(1e300).to_string(), "1e+300");
    }
}
