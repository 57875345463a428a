//! Notes on what a model of this machine has no use for.

use super::out::Out;
use crate::core::options::Options;
use crate::core::reference;
use crate::ops::model::Model;

/// Notes a model that is newer than what puna knows, and a context that is longer than it was trained for.
pub fn print(model: &Model, options: &Options, out: &Out) {
    let newer = reference::note(&model.label, &model.config.requires);
    newer.iter().for_each(|text| out.note(text));
    let wanted = options.int("num_ctx");
    let wanted = wanted.and_then(|tokens| u64::try_from(tokens).ok());
    if let (Some(longest), Some(wanted)) = (model.header.context_length(), wanted)
        && wanted > longest
    {
        out.note(&format!(
            "the model reads {longest} tokens at most, not {wanted}"
        ));
    }
}
