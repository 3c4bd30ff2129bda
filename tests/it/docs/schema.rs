//! A checker for the part of JSON Schema that `docs/reference/json.schema.json` uses.
//!
//! An unknown keyword ends the test, so the schema never says more than this module checks.

use serde_json::{Map, Value};

/// Returns the reasons why a value does not fit the schema; empty if it fits.
pub(super) fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Checker { root: schema }.check(schema, value, "", &mut found);
    found
}

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let keywords = schema.as_object().expect("a schema is an object");
        for (keyword, says) in keywords {
            let problem = match keyword.as_str() {
                "$schema" | "$id" | "title" | "description" | "$defs" => None,
                "$ref" => {
                    let target = says.as_str().and_then(|name| name.strip_prefix('#'));
                    let target = target.and_then(|name| self.root.pointer(name));
                    self.check(target.expect("a definition"), value, at, found);
                    None
                }
                "type" => (!has_type(says, value)).then(|| format!("is no {says}")),
                "const" => (value != says).then(|| format!("is not {says}")),
                "enum" => {
                    let values = says.as_array().expect("values");
                    (!values.contains(value)).then(|| format!("is none of {says}"))
                }
                "pattern" => (!is_hex(says, value)).then(|| format!("does not match {says}")),
                "anyOf" => self.any_of(says, value),
                "required" => missing(says, value),
                "properties" => {
                    self.properties(says, keywords, value, at, found);
                    None
                }
                "additionalProperties" => {
                    assert_eq!(*says, Value::Bool(false));
                    assert!(keywords.contains_key("properties"));
                    None
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(says, item, &format!("{at}/{index}"), found);
                    }
                    None
                }
                other => panic!("the keyword {other} is not checked here"),
            };
            found.extend(problem.map(|problem| format!("{at}: {value} {problem}")));
        }
    }

    /// The schema whose `const` fields fit best gives the reason.
    fn any_of(&self, schemas: &Value, value: &Value) -> Option<String> {
        let schemas = schemas.as_array().expect("schemas");
        let problems = schemas.iter().map(|schema| {
            let mut problems = Vec::new();
            self.check(schema, value, "", &mut problems);
            problems
        });
        let nearest = problems.min_by_key(Vec::len).expect("at least one");
        (!nearest.is_empty()).then(|| format!("fits nothing; nearest: {nearest:?}"))
    }

    fn properties(
        &self,
        schemas: &Value,
        keywords: &Map<String, Value>,
        value: &Value,
        at: &str,
        found: &mut Vec<String>,
    ) {
        let schemas = schemas.as_object().expect("properties");
        for (name, field) in value.as_object().into_iter().flatten() {
            match schemas.get(name) {
                Some(schema) => self.check(schema, field, &format!("{at}/{name}"), found),
                None if keywords.contains_key("additionalProperties") => {
                    found.push(format!("{at}: there is no field {name}"));
                }
                None => {}
            }
        }
    }
}

fn missing(names: &Value, value: &Value) -> Option<String> {
    let names = names.as_array().expect("names").iter();
    let mut names = names.map(|name| name.as_str().expect("a name"));
    let missing = names.find(|name| value.get(name).is_none())?;
    Some(format!("has no field {missing}"))
}

fn has_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("there is no type {other}"),
    };
    match types {
        Value::String(name) => is(name),
        types => types
            .as_array()
            .expect("types")
            .iter()
            .any(|name| is(name.as_str().expect("a type"))),
    }
}

/// Checks the only pattern: an id or hash.
fn is_hex(pattern: &Value, value: &Value) -> bool {
    assert_eq!(pattern, "^[0-9a-f]{64}$");
    value.as_str().is_none_or(|text| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.len() == 64 && text.bytes().all(is_digit)
    })
}

#[test]
fn what_does_not_fit_is_found() {
    let schema = serde_json::json!({
        "anyOf": [
            {"$ref": "#/$defs/a"},
            {"type": "object", "properties": {"type": {"const": "b"}}, "required": ["type"]},
        ],
        "$defs": {"a": {
            "type": "object",
            "required": ["type", "n"],
            "additionalProperties": false,
            "properties": {
                "type": {"const": "a"},
                "n": {"type": ["integer", "null"]},
                "l": {"type": "array", "items": {"enum": ["x", "y"]}},
                "h": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            },
        }},
    });
    let fits =
        |text: &str| problems(&schema, &serde_json::from_str(text).expect("JSON")).is_empty();
    for text in [
        r#"{"type": "a", "n": 1}"#,
        r#"{"type": "a", "n": null, "l": ["x", "y"]}"#,
        r#"{"type": "b", "more": 1}"#,
    ] {
        assert!(fits(text), "{text}");
    }
    for text in [
        "[]",
        r#"{"type": "a"}"#,
        r#"{"type": "c", "n": 1}"#,
        r#"{"type": "a", "n": 1.5}"#,
        r#"{"type": "a", "n": 1, "l": ["z"]}"#,
        r#"{"type": "a", "n": 1, "h": "0f"}"#,
        r#"{"type": "a", "n": 1, "o": 1}"#,
    ] {
        assert!(!fits(text), "{text}");
    }
}
