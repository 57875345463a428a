//! `puna create`: a Modelfile to a model in the store.

use std::path::{Path, PathBuf};

use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::send;
use super::spec::{Command, Completes, HOST, QUIET, option, switch};
use crate::client::Client;
use crate::config::Config;
use crate::create::{Places, Quantizing, Step, create, of_modelfile};
use crate::error::{Error, Result};
use crate::modelfile::{self, MODELFILE_BYTES_MAX};
use crate::name::Name;
use crate::pool::{Policy, Pool};
use crate::store::Take;

pub const COMMAND: Command = Command {
    name: "create",
    alias: None,
    summary: "make a model of a Modelfile",
    operands: "NAME",
    arity: (1, 1),
    flags: &[
        option(
            "file",
            Some('f'),
            "FILE",
            "the Modelfile; - is standard input (default: Modelfile)",
        ),
        switch(
            "link",
            None,
            "hard-link the GGUF instead of copying it; it must then stay as it is",
        ),
        option(
            "quantize",
            None,
            "TYPE",
            "turn the weights into this type, such as q4_K_M or q8_0",
        ),
        switch(
            "requantize",
            None,
            "with --quantize, take weights that are quantised already",
        ),
        HOST,
        QUIET,
    ],
    about: &[
        "Makes the model NAME of a Modelfile. FROM names a GGUF file, relative to the Modelfile, a folder, or a model \
         that is in the store; one shard of a split model stands for all. The file comes into the store as a reflink \
         where the file system can do that, else as a copy; it is never moved.",
        "A folder of safetensors, as models are published, is turned into one GGUF: F16, or BF16 if the weights are. \
         Known are Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 1 to 3 (the text part), Phi-3, OLMo 2, Command R, BERT \
         and nomic-bert. ADAPTER takes a folder of PEFT's LoRA too.",
        "A Modelfile holds one instruction a line: FROM, SYSTEM, TEMPLATE, PARAMETER name value, LICENSE, MESSAGE \
         role text; # begins a comment. A value in \" or \"\"\" may span lines. A TEMPLATE takes \
         the place of the template inside the GGUF.",
        "With --quantize the weights are turned into a smaller type by llama.cpp, from F32, F16 or BF16; from others \
         only with --requantize, since they lose twice. Types that need an importance matrix are refused.",
        "With --host a server makes the model: the files are sent to it, those that it has already are not.",
        "Nothing stands under a final name before it is whole: a create that is killed or runs out of space leaves \
         the store as it was.",
    ],
    examples: &[
        (
            "echo 'FROM ./model.gguf' | puna create smol -f -",
            "bring a GGUF file into the store",
        ),
        (
            "echo 'FROM ./model-f16.gguf' | puna create small -f - --quantize q4_K_M",
            "quantise a model",
        ),
        (
            "printf 'FROM smol\\nSYSTEM Answer in one word.\\n' | puna create terse -f -",
            "give a model a system text",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let name = Name::parse(&parsed.operands[0])?;
    let server = maker(parsed, config)?;
    let file = parsed.value("file").unwrap_or("Modelfile");
    let modelfile = modelfile::parse(&super::read_input(file, MODELFILE_BYTES_MAX)?)?;
    let folder = folder(file)?;
    let take = if parsed.has("link") {
        Take::Link
    } else {
        Take::Copy
    };
    let places = Places {
        folder: &folder,
        home: config.home.as_deref(),
        take,
    };
    let progress = out.progress("creating", Unit::Bytes);
    let mut notes = Vec::new();
    let mut report = |step| match step {
        Step::Copied(done, total)
        | Step::Converted(done, total)
        | Step::Quantizing(_, _, done, total) => progress.show(done, total),
        Step::Note(text) => notes.push(text),
        Step::Template(name) => notes.push(format!(
            "the model brings no template: {name}, by its vocabulary"
        )),
        Step::Parsing | Step::Layer(..) | Step::Naming => {}
    };
    let (source, mut changes) = of_modelfile(&modelfile, places, &mut report)?;
    if let Some(server) = server {
        drop(progress);
        notes.iter().for_each(|text| out.note(text));
        let quantize = parsed.value("quantize");
        return send::create(&server, &name, (&source, &changes), quantize, out);
    }
    let refusal = (!parsed.has("requantize")).then_some(quantised_already as fn(&str) -> Error);
    let quantize = parsed.value("quantize");
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let quantize = quantize.map(|text| Quantizing::parse(text, refusal, &pool));
    changes.quantize = quantize.transpose()?;
    create(&super::store(config), &name, &source, &changes, &mut report)?;
    drop(progress);
    notes.iter().for_each(|text| out.note(text));
    Ok(())
}

/// The server that shall make it, if one is named.
fn maker(parsed: &Parsed, config: &Config) -> Result<Option<Client>> {
    let server = super::named_server(parsed, config)?;
    let alone = ["link", "requantize"]
        .into_iter()
        .find(|flag| parsed.has(flag));
    match (&server, alone) {
        (Some(_), Some(flag)) => {
            let text = format!("--{flag} and --host exclude each other");
            Err(Error::usage(text))
        }
        _ => Ok(server),
    }
}

fn quantised_already(from: &str) -> Error {
    Error::usage(format!(
        "the weights are quantised already ({from}): only F16, BF16 and F32 lose nothing twice, and \
         --requantize does it all the same"
    ))
}

/// The folder that relative paths start at.
fn folder(file: &str) -> Result<PathBuf> {
    let current = std::env::current_dir().map_err(|error| Error::io("read", ".", error))?;
    Ok(match file {
        "-" => current,
        file => current.join(Path::new(file).parent().unwrap_or(Path::new(""))),
    })
}
