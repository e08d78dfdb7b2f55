//! Says everything that is wrong with a JSON value, by the schema that the documents show. So the documents cannot
//! promise what the parser refuses.

use serde_json::Value;
use utoipa::ToSchema;

use crate::domains::devices::Device;
use crate::kernel::error::FieldError;
use crate::kernel::ids::DeviceId;

/// Rules beyond types, and the device that a request names.
pub trait Validate {
    /// Adds what is wrong.
    fn validate(&self, _wrong: &mut Vec<FieldError>) {}
    /// The device that the request names, which must be the caller's.
    fn device_id(&self) -> Option<&DeviceId> {
        None
    }
    /// Rules that depend on the device that calls.
    fn validate_for(&self, _device: &Device, _wrong: &mut Vec<FieldError>) {}
}

/// Appends a segment to a JSON pointer (RFC 6901).
pub fn push(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// What of `value` breaks the schema of `T`.
pub fn violations<T: ToSchema>(value: &Value) -> Vec<FieldError> {
    let mut named = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut named);
    let schemas: serde_json::Map<String, Value> =
        named.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or(Value::Null))).collect();
    let mut out = Vec::new();
    if let Some(root) = schemas.get(T::name().as_ref()) {
        Checker { schemas: &schemas, out: &mut out }.check(root, value, String::new(), 0);
    }
    out
}

/// Our schemas are a few levels deep; a value that is deeper has failed before.
const DEPTH_MAX: usize = 32;

struct Checker<'a> {
    schemas: &'a serde_json::Map<String, Value>,
    out: &'a mut Vec<FieldError>,
}

impl Checker<'_> {
    fn wrong(&mut self, pointer: String, detail: impl Into<String>) {
        self.out.push(FieldError { pointer, detail: detail.into() });
    }

    fn check(&mut self, schema: &Value, value: &Value, pointer: String, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
            if let Some(target) = self.schemas.get(name).cloned() {
                self.check(&target, value, pointer, depth + 1);
            }
            return;
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(options) = schema.get(key).and_then(Value::as_array) {
                return self.check_options(options, value, pointer, depth);
            }
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.check(part, value, pointer.clone(), depth + 1);
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            return self.wrong(pointer, format!("must be one of {}", names.join(", ")));
        }
        let kinds = kinds_of(schema);
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind, value)) {
            return self.wrong(pointer, format!("must be of type {}", kinds.join(" or ")));
        }
        match value {
            Value::Object(members) => self.check_object(schema, members, &pointer, depth),
            Value::Array(items) => self.check_array(schema, items, &pointer, depth),
            Value::String(text) => self.check_text(schema, text, pointer),
            Value::Number(number) => self.check_number(schema, number.as_f64().unwrap_or(f64::NAN), pointer),
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn check_options(&mut self, options: &[Value], value: &Value, pointer: String, depth: usize) {
        let mut nearest: Option<Vec<FieldError>> = None;
        for option in options {
            let mut errors = Vec::new();
            Checker { schemas: self.schemas, out: &mut errors }.check(option, value, pointer.clone(), depth + 1);
            if errors.is_empty() {
                return;
            }
            // `null` is one of two options of everything optional: its complaint helps nobody.
            if !kinds_of(option).contains(&"null") {
                nearest.get_or_insert(errors);
            }
        }
        self.out.extend(nearest.unwrap_or_default());
    }

    fn check_object(&mut self, schema: &Value, members: &serde_json::Map<String, Value>, pointer: &str, depth: usize) {
        let at = |name: &str| {
            let mut pointer = pointer.to_owned();
            push(&mut pointer, name);
            pointer
        };
        let known = schema.get("properties").and_then(Value::as_object);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                self.wrong(at(name), "is required");
            }
        }
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        for (name, member) in members {
            match known.and_then(|k| k.get(name)) {
                Some(schema) => self.check(schema, member, at(name), depth + 1),
                None if closed => self.wrong(at(name), "is not a member of this request"),
                None => {}
            }
        }
    }

    fn check_array(&mut self, schema: &Value, items: &[Value], pointer: &str, depth: usize) {
        let count = items.len() as u64;
        let (min, max) = (bound(schema, "minItems"), bound(schema, "maxItems"));
        if min.is_some_and(|m| count < m) || max.is_some_and(|m| count > m) {
            return self.wrong(pointer.to_owned(), format!("must have {} items, not {count}", range_of(min, max)));
        }
        if let Some(each) = schema.get("items") {
            for (i, item) in items.iter().enumerate() {
                self.check(each, item, format!("{pointer}/{i}"), depth + 1);
            }
        }
    }

    fn check_text(&mut self, schema: &Value, text: &str, pointer: String) {
        let length = text.chars().count() as u64;
        let (min, max) = (bound(schema, "minLength"), bound(schema, "maxLength"));
        if min.is_some_and(|m| length < m) || max.is_some_and(|m| length > m) {
            self.wrong(pointer, format!("must have {} characters, not {length}", range_of(min, max)));
        } else if schema.get("pattern").and_then(Value::as_str) == Some(DeviceId::PATTERN) {
            if let Err(e) = text.parse::<DeviceId>() {
                self.wrong(pointer, e.to_string());
            }
        } else if schema.get("format").and_then(Value::as_str) == Some("date-time")
            && let Err(e) = text.parse::<crate::kernel::Timestamp>()
        {
            self.wrong(pointer, e);
        }
    }

    fn check_number(&mut self, schema: &Value, number: f64, pointer: String) {
        let (min, max) = (schema.get("minimum").and_then(Value::as_f64), schema.get("maximum").and_then(Value::as_f64));
        if min.is_some_and(|m| number < m) || max.is_some_and(|m| number > m) {
            let range = match (min, max) {
                (Some(min), Some(max)) => format!("{min} to {max}"),
                (Some(min), None) => format!("{min} or more"),
                (_, max) => format!("{} or less", max.unwrap_or_default()),
            };
            self.wrong(pointer, format!("must be {range}"));
        }
    }
}

/// "3", "1 to 5", "at least 2" or "at most 9", as a person says it.
fn range_of(min: Option<u64>, max: Option<u64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) if min == max => min.to_string(),
        (Some(min), None) => format!("at least {min}"),
        (None | Some(0), Some(max)) => format!("at most {max}"),
        (min, max) => format!("{} to {}", min.unwrap_or(0), max.unwrap_or(u64::MAX)),
    }
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

fn kinds_of(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}
