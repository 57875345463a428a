//! Special tokens and chat templates: their ids, and which of them are added to every text.

use serde_json::{Map, Value as Json};

use super::Files;
use crate::format::gguf::Writer;

/// Names in the tokenizers' files, and in GGUF's keys.
const NAMES: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("mask", "mask"),
    ("eot", "eot"),
];
/// Tokens with a GGUF key that says whether they are added to every text.
const ADDED: [&str; 3] = ["bos", "eos", "sep"];

/// Special tokens and chat templates.
#[derive(Debug, Default)]
pub struct Specials {
    ids: Vec<(&'static str, u32)>,
    adds: Vec<(&'static str, bool)>,
    lowercase: Option<bool>,
    strips_accents: Option<bool>,
    /// Names and texts; the default template is called `default`.
    templates: Vec<(String, String)>,
}

impl Specials {
    /// Reads what the files say about a vocabulary of this many tokens.
    pub fn read(files: &Files, tokens: usize) -> Self {
        let mut specials = Specials::default();
        let mut settings = files.settings.clone().unwrap_or_default();
        if let Some(json) = &files.tokenizer {
            specials.normalizer(&json["normalizer"]);
            own_names(&mut settings);
            let processor = &json["post_processor"];
            match processor["processors"].as_array() {
                Some(several) => several
                    .iter()
                    .for_each(|one| specials.processor(one, &mut settings)),
                None => specials.processor(processor, &mut settings),
            }
        }
        if files.settings.is_some() {
            specials.settings(files, &settings, tokens);
            specials.templates = templates(files, &settings);
        }
        for (name, _) in NAMES {
            let id = files.config.get(&format!("{name}_token_id"));
            if let Some(id) = id.and_then(Json::as_u64) {
                specials.set_id(name, id, tokens);
            }
        }
        specials
    }

    /// Sets an id, unless it is already set or there is no such token.
    pub fn set_id(&mut self, name: &'static str, id: u64, tokens: usize) {
        let known = self.ids.iter().any(|(known, _)| *known == name);
        if !known && id < tokens as u64 {
            self.ids.push((name, id as u32));
        }
    }

    /// Sets whether this token is added to every text.
    pub fn set_adds(&mut self, name: &'static str, adds: bool) {
        self.adds.retain(|(known, _)| *known != name);
        self.adds.push((name, adds));
    }

    /// Adds the keys to a GGUF.
    pub fn write(&self, writer: &mut Writer) {
        for (name, id) in &self.ids {
            let known = NAMES.iter().find(|(known, _)| known == name);
            let key = known.map_or(*name, |(_, key)| key);
            writer.unsigned(&format!("tokenizer.ggml.{key}_token_id"), *id);
        }
        for (name, adds) in &self.adds {
            writer.bool(&format!("tokenizer.ggml.add_{name}_token"), *adds);
        }
        for (key, value) in [
            ("lowercase", self.lowercase),
            ("strip_accents", self.strips_accents),
        ] {
            if let Some(value) = value {
                writer.bool(&format!("tokenizer.ggml.normalizer.{key}"), value);
            }
        }
        let mut others = Vec::new();
        for (name, text) in &self.templates {
            match name.as_str() {
                "default" => writer.text("tokenizer.chat_template", text),
                name => {
                    others.push(name);
                    writer.text(&format!("tokenizer.chat_template.{name}"), text)
                }
            };
        }
        if !others.is_empty() {
            writer.texts("tokenizer.chat_templates", &others);
        }
    }

    fn normalizer(&mut self, json: &Json) {
        match json["type"].as_str() {
            Some("Lowercase") => self.lowercase = Some(true),
            Some("StripAccents") => self.strips_accents = Some(true),
            Some("BertNormalizer") => {
                self.lowercase = json["lowercase"].as_bool().or(self.lowercase);
                self.strips_accents = json["strip_accents"].as_bool().or(self.strips_accents);
            }
            Some("Sequence") => {
                let steps = json["normalizers"].as_array();
                steps
                    .into_iter()
                    .flatten()
                    .for_each(|step| self.normalizer(step));
            }
            _ => {}
        }
    }

    /// Reads which tokens are put around every text.
    fn processor(&mut self, json: &Json, settings: &mut Map<String, Json>) {
        match json["type"].as_str() {
            Some("RobertaProcessing") => {
                ADDED.iter().for_each(|name| self.set_adds(name, true));
            }
            Some("TemplateProcessing") => self.around(json, settings),
            _ => {}
        }
    }

    fn around(&mut self, json: &Json, settings: &mut Map<String, Json>) {
        let token = |step: &Json| step["SpecialToken"]["id"].as_str().map(str::to_string);
        let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
        let single = list("single");
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = single.first().and_then(token);
            last = single.last().and_then(token);
        }
        if let Some(first) = &first {
            let begins = [content(settings, "bos"), content(settings, "cls")];
            if begins.iter().all(Option::is_none) {
                settings.insert("bos_token".into(), first.as_str().into());
            }
            let known = begins.contains(&Some(first.clone())) || begins[0].is_none();
            self.set_adds("bos", known);
        }
        if let Some(last) = &last {
            let ends = content(settings, "eos");
            if ends.as_ref() != Some(last) {
                // The token that ended a text until now ends a turn.
                if let Some(ends) = ends {
                    settings.insert("eot_token".into(), ends.into());
                }
                settings.insert("eos_token".into(), last.as_str().into());
            }
            self.set_adds("eos", true);
        }
        self.between(&list("pair"), (&first, &last), settings);
    }

    /// Reads which token is put between two texts.
    fn between(
        &mut self,
        pair: &[Json],
        (first, last): (&Option<String>, &Option<String>),
        settings: &Map<String, Json>,
    ) {
        let token = |step: Option<&Json>| {
            let id = step.map(|step| &step["SpecialToken"]["id"]);
            id.and_then(Json::as_str).map(str::to_string)
        };
        let begins = usize::from(first.is_some() && token(pair.first()) == *first);
        let ends = usize::from(last.is_some() && token(pair.last()) == *last);
        let inner = pair.get(begins..pair.len().saturating_sub(ends));
        let Some([one, middle @ .., two]) = inner else {
            return;
        };
        let sequence = |step: &Json| step["Sequence"]["id"].as_str().map(str::to_string);
        if sequence(one).as_deref() != Some("A") || sequence(two).as_deref() != Some("B") {
            return;
        }
        let Some(between) = middle.first() else {
            return;
        };
        let parts = [content(settings, "sep"), content(settings, "eos")];
        let parts_texts = |step: Option<&Json>| {
            let given = token(step);
            given.is_some() && parts.contains(&given)
        };
        let adds = (parts_texts(Some(between)) && last.is_none())
            || (middle.len() == 2 && parts_texts(middle.get(1)));
        self.set_adds("sep", adds);
    }

    /// Reads the part of `tokenizer_config.json` about the tokens that `tokenizer.json` adds.
    fn settings(&mut self, files: &Files, settings: &Map<String, Json>, tokens: usize) {
        let added = files.tokenizer.as_ref().map(|json| &json["added_tokens"]);
        let added = added.and_then(Json::as_array);
        for (name, _) in NAMES {
            let adds = settings.get(&format!("add_{name}_token"));
            if let (Some(adds), true) = (adds.and_then(Json::as_bool), ADDED.contains(name)) {
                self.set_adds(name, adds);
            }
            let Some(text) = content(settings, name) else {
                continue;
            };
            let mut known = added.into_iter().flatten();
            let token = known.find(|token| token["content"] == text.as_str());
            if let Some(id) = token.and_then(|token| token["id"].as_u64()) {
                self.set_id(name, id, tokens);
            }
        }
    }
}

/// A classifier's tokens replace those of a text, if the latter are not named.
fn own_names(settings: &mut Map<String, Json>) {
    for (name, other) in [("bos", "cls"), ("eos", "sep")] {
        if let (None, Some(text)) = (content(settings, name), content(settings, other)) {
            settings.insert(format!("{name}_token"), text.into());
        }
    }
}

/// The text of a special token, either plain or inside an object.
fn content(settings: &Map<String, Json>, name: &str) -> Option<String> {
    let entry = settings.get(&format!("{name}_token"))?;
    let text = entry.as_str().or_else(|| entry["content"].as_str())?;
    (!text.is_empty()).then(|| text.to_string())
}

/// The chat templates; one without a name is the default.
fn templates(files: &Files, settings: &Map<String, Json>) -> Vec<(String, String)> {
    let given = settings
        .get("chat_template")
        .filter(|given| !given.is_null());
    match given.or(files.template.as_ref()) {
        Some(Json::String(text)) => vec![("default".into(), text.clone())],
        Some(Json::Array(list)) => list
            .iter()
            .filter_map(|entry| {
                let name = entry["name"].as_str()?.to_string();
                Some((name, entry["template"].as_str()?.to_string()))
            })
            .collect(),
        _ => Vec::new(),
    }
}
