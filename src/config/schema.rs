//! The JSON Schema of the configuration, for editors and for programs that write one. It is derived
//! from the types that read the configuration, so it has exactly their keys.
//!
//! It cannot check everything: only [`super::Config::load`] finds two labs with the same id, or a
//! step of the idle policy whose time is shorter than the one above it.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::{Lab, OWN_KEYS, Outline};

/// The schema of the whole file: draft 7, which editors know.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft07().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Outline>();
    schema.insert("title".to_owned(), json!("labs-config.json"));
    schema.into()
}

/// The labs in `labs`.
pub(super) fn labs(generator: &mut SchemaGenerator) -> Schema {
    let lab = generator.subschema_for::<Lab>();
    let description = "The labs. No two may have the same id.";
    json!({"description": description, "type": "array", "items": lab, "minItems": 1})
        .try_into()
        .unwrap_or_default()
}

/// A lab in which nothing is required, without the keys that must be set in each lab.
pub(super) fn defaults(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Lab::json_schema(generator);
    schema.remove("required");
    if let Some(Value::Object(keys)) = schema.get_mut("properties") {
        keys.retain(|key, _| !OWN_KEYS.contains(&key.as_str()));
    }
    let description = "Settings for all labs; a lab's own settings override them.";
    schema.insert("description".to_owned(), json!(description));
    schema
}
