//! Strict JSON: no duplicate keys, and only objects where objects are expected. With duplicate
//! keys, one would silently win, and a reader of the file may see the other.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A document without duplicate keys.
#[derive(Debug)]
pub struct Unambiguous(pub Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build).map(Unambiguous)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                let shown: String = key.chars().take(80).collect();
                let message = format!("duplicate key \"{}\"", shown.escape_debug());
                return Err(Error::custom(message));
            }
            let Unambiguous(value) = map.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

/// A value that is only read from an object. By default serde also accepts a list with the values
/// in the order of the fields.
#[derive(Debug, Clone)]
pub struct Object<T>(pub T);

impl<T: JsonSchema> JsonSchema for Object<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Object)
    }
}

/// For a field: the same.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(Take(PhantomData))
}

/// Reads objects and nothing else.
pub fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(it)| it).collect())
}

struct Take<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Take<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str(text).map(|Unambiguous(value)| value)
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error_with_its_place() {
        for (text, place) in [
            (r#"{"a": 1, "a": 1}"#, "line 1 column 12"),
            ("{\"x\": [{\"a\": 1,\n \"a\": 2}]}", "line 2 column 4"),
            (r#"{"a": {"b": 1}, "\u0061": 2}"#, "line 1 column 24"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert_eq!(error, format!("duplicate key \"a\" at {place}"));
        }
        assert!(read(r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let error = read(&"[".repeat(100_000)).unwrap_err();
        assert!(error.to_string().contains("recursion limit"), "{error}");
    }

    proptest! {
        #[test]
        fn anything_else_is_read_as_ever(text in r#"[\[\]{},:"a0-9eE.+\- \\tfu]{0,40}"#) {
            let ours = read(&text);
            match serde_json::from_str::<Value>(&text) {
                Ok(theirs) => if let Ok(ours) = ours { prop_assert_eq!(ours, theirs) },
                Err(_) => prop_assert!(ours.is_err()),
            }
        }

        #[test]
        fn whatever_is_written_is_read_back(value in json()) {
            prop_assert_eq!(read(&value.to_string()).unwrap(), value);
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
