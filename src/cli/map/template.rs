//! The template of `map`: a prompt in which `{}` is the record, `{name}` one of its fields, `{{` and
//! `}}` are braces.
//!
//! Pure.

use serde_json::Value as Json;

use crate::core::error::{Error, Result};

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Whole,
    Field(String),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// `Usage` for an unmatched brace.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = vec![Part::Text(String::new())];
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            add(&mut parts, before);
            if let Some(behind) = from.strip_prefix("{{") {
                add(&mut parts, "{");
                rest = behind;
            } else if let Some(behind) = from.strip_prefix("}}") {
                add(&mut parts, "}");
                rest = behind;
            } else if let Some((name, behind)) =
                from[1..].split_once('}').filter(|_| from.starts_with('{'))
            {
                parts.push(match name.trim() {
                    "" => Part::Whole,
                    name => Part::Field(name.to_string()),
                });
                rest = behind;
            } else {
                let text = "unmatched brace in the prompt: write {{ and }} for braces";
                return Err(Error::usage(text));
            }
        }
        add(&mut parts, rest);
        Ok(Template(parts))
    }

    /// True if a prompt has a part of its record.
    pub fn has_place(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// The names of the fields in it.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The prompt for the record `whole`; `fields` returns the value of a field.
    ///
    /// # Errors
    /// `Usage` for a field that the record does not have.
    pub fn fill(&self, whole: &str, fields: &dyn Fn(&str) -> Option<String>) -> Result<String> {
        let mut prompt = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => prompt += text,
                Part::Whole => prompt += whole,
                Part::Field(name) => {
                    let value = fields(name);
                    prompt += &value
                        .ok_or_else(|| Error::usage(format!("the record has no field '{name}'")))?;
                }
            }
        }
        Ok(prompt)
    }
}

fn add(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_string())),
    }
}

/// A field of a JSON object as text: strings unquoted, all else as JSON.
pub fn field(object: &Json, name: &str) -> Option<String> {
    match object.get(name)? {
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> Result<String> {
        let object = serde_json::json!({ "title": "T", "n": 7 });
        Template::parse(template)?.fill("LINE", &|name| field(&object, name))
    }

    #[test]
    fn records_and_fields_stand_where_braces_say() {
        for (template, prompt) in [
            ("Classify: {}", "Classify: LINE"),
            ("{title} has {n}", "T has 7"),
            ("{{{}}}", "{LINE}"),
            ("plain", "plain"),
            ("{ title }", "T"),
        ] {
            assert_eq!(filled(template).unwrap(), prompt, "{template}");
        }
        for template in ["{", "}", "a { b", "{none}"] {
            assert!(filled(template).is_err(), "{template}");
        }
    }
}
