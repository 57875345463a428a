//! The models in the store, as the API lists them.

use super::model::{self, Model};
use super::turn::template_choice::{Choice, Sources};
use crate::core::clock;
use crate::core::error::Result;
use crate::format::manifest::Config;
use crate::format::wire::native::listing::{Details, Tag};
use crate::system::store::{Entry, Store};

/// Every model with its details, newest first, and the entries that could not be read.
///
/// # Errors
/// If the store cannot be read.
pub fn tags(store: &Store) -> Result<(Vec<Tag>, Vec<String>)> {
    let listing = store.list()?;
    let tags = listing
        .entries
        .iter()
        .map(|entry| tag(store, entry))
        .collect();
    Ok((tags, listing.broken))
}

/// One model. Details that are missing in its config or header stay empty, so that one damaged model does
/// not hide the others.
fn tag(store: &Store, entry: &Entry) -> Tag {
    let config = model::config(store, entry).unwrap_or_default();
    let layer = entry.manifest.layer("model");
    let header = layer
        .and_then(|layer| layer.digest().ok())
        .and_then(|digest| store.blob(&digest).ok())
        .and_then(|path| model::header(&path).ok());
    let parent = layer.map(|layer| layer.from.clone()).unwrap_or_default();
    let template = model::template(store, entry).unwrap_or_default();
    let mut details = details(&config, parent);
    if let Some(header) = &header {
        details.context_length = header.context_length().unwrap_or(0);
        details.embedding_length = header.arch_integer("embedding_length").unwrap_or(0);
    }
    Tag {
        name: entry.name.to_string(),
        model: entry.name.to_string(),
        modified_at: clock::rfc3339(entry.modified),
        size: entry.manifest.size_bytes(),
        digest: entry.digest.hex(),
        details,
        capabilities: header
            .map(|header| {
                let given = template.as_ref().is_some_and(|(_, given)| *given);
                let go = template.as_ref().map(|(text, _)| text.as_str());
                capabilities(Sources {
                    header: &header,
                    config: &config,
                    go,
                    given,
                    detected: None, // None of the built-in ones can do more than complete.
                })
            })
            .unwrap_or_default(),
    }
}

/// The details from a config.
pub fn details(config: &Config, parent: String) -> Details {
    Details {
        parent_model: parent,
        format: if config.model_format.is_empty() {
            "gguf".into()
        } else {
            config.model_format.clone()
        },
        family: config.model_family.clone(),
        families: config.model_families.clone(),
        parameter_size: config.model_type.clone(),
        quantization_level: config.file_type.clone(),
        ..Details::default()
    }
}

/// The capabilities of an open model. Its templates are compiled for it once.
pub fn model_capabilities(model: &Model) -> &[String] {
    let find = || capabilities(Sources::from_model(model));
    model.capabilities.get_or_init(find)
}

/// A model's capabilities, by its config, its header and the template in force.
fn capabilities(sources: Sources) -> Vec<String> {
    let mut found = sources.config.capabilities.clone();
    let mut add = |word: &str| {
        if !found.iter().any(|known| known == word) {
            found.push(word.to_string());
        }
    };
    let choice = sources.choose().map_or(Choice::None, |(choice, _)| choice);
    if let Choice::Gguf(..) = choice {
        choice.abilities().into_iter().for_each(&mut add);
    }
    add(if sources.header.is_embedding() {
        "embedding"
    } else {
        "completion"
    });
    if sources.header.arch_integer("vision.block_count").is_some() {
        add("vision");
    }
    if let Choice::Go(_) = choice {
        choice.abilities().into_iter().for_each(&mut add);
    }
    found
}
