//! JSON whose objects name each key once: a second value would silently replace the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

/// Reads JSON that a user wrote.
///
/// # Errors
/// As `serde_json`, and for an object with a key twice; with line and column.
pub fn parse(text: &str) -> serde_json::Result<Json> {
    serde_json::from_str::<Unique>(text).map(|unique| unique.0)
}

struct Unique(Json);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Unique)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Json, A::Error> {
        let mut values = Map::new();
        while let Some(key) = pairs.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format_args!("'{key}' stands twice")));
            }
            let Unique(value) = pairs.next_value()?;
            values.insert(key, value);
        }
        Ok(Json::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unique_is_read_as_ever() {
        let text =
            r#"{"a": [null, true, -1, 18446744073709551615, 0.1, 1e3, "x\n"], "b": {"a": 1}}"#;
        let plain: Json = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text).unwrap(), plain);
    }

    #[test]
    fn a_key_that_stands_twice_is_named_with_its_place() {
        let error = parse("{\"a\": 1,\n \"b\": {\"c\": 1, \"c\": 2}}").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("'c' stands twice at line 2"), "{text}");
    }
}
