//! `puna create`: builds a model in the store from a Modelfile.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::flag::{Flag, HOST, QUIET, option, switch};
use super::out::{self, Out, Unit};
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use super::{send, stdin};
use crate::core::error::{Error, Result};
use crate::core::name::Name;
use crate::format::gguf::FILE_TYPE_NAMES;
use crate::format::modelfile::{self, MODELFILE_BYTES_MAX};
use crate::ops::create::{Places, Quantizing, Step, create, parse_recipe};
use crate::ops::model::new_name;
use crate::ops::pool::{Policy, Pool};
use crate::system::client::Client;
use crate::system::store::Take;

pub const COMMAND: Command = Command {
    name: "create",
    summary: "create a model from a Modelfile",
    operands: "NAME",
    arity: (1, 1),
    flags: &[FILE, LINK, QUANTIZE, REQUANTIZE, HOST, QUIET],
    about: &[
        "Creates the model NAME from a Modelfile. FROM names a GGUF file, relative to the Modelfile, a folder, or a \
         model in the store; one shard of a split model stands for all. The file is added to the store as a reflink \
         if the file system supports it, else as a copy; it is never moved.",
        "A folder of safetensors, as models are published, is converted to one GGUF: BF16 if the weights are BF16, \
         else F16. Supported are Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 1 to 3 (the text part), Phi-3, OLMo 2, \
         Command R, BERT and nomic-bert. ADAPTER also accepts a folder with a LoRA from PEFT.",
        "A Modelfile has one instruction per line: FROM, SYSTEM, TEMPLATE, PARAMETER name value, LICENSE, MESSAGE \
         role text; # begins a comment. A value in \" or \"\"\" may span lines. A TEMPLATE replaces the template \
         inside the GGUF. See puna-modelfile(5).",
        "With --quantize llama.cpp converts the weights to a smaller type, from F32, F16 or BF16; from other types \
         only with --requantize, since they lose precision twice. Types that need an importance matrix are refused.",
        "With --host a server creates the model: the files are sent to it, except those that it has already.",
        "Nothing appears under a final name before it is complete: a create that is killed or runs out of space \
         leaves the store unchanged.",
    ],
    examples: &[
        (
            "echo 'FROM ./model.gguf' | puna create smol -f -",
            "add a GGUF file to the store",
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
    run,
    section: Section::Models,
    completes: (Completes::Models, Completes::Nothing),
    ..PLAIN
};

const FILE: Flag = option(
    "file",
    Some('f'),
    "FILE",
    "Modelfile to read, - for stdin (default Modelfile)",
);
const LINK: Flag = switch(
    "link",
    None,
    "hard-link the GGUF, which must not change later",
);
const QUANTIZE: Flag = option(
    "quantize",
    None,
    "TYPE",
    "quantise to this type, such as q4_K_M or q8_0",
)
.one_of(FILE_TYPE_NAMES);
const REQUANTIZE: Flag = switch(
    "requantize",
    None,
    "let --quantize read weights quantised already",
);

/// The flags of `create`, read once.
struct CreateArgs<'a> {
    name: Name,
    /// The Modelfile; `-` is standard input.
    file: &'a str,
    /// Whether weights are copied into the store or linked.
    take: Take,
    /// The type to convert weights to.
    quantize: Option<&'a str>,
    /// Weights that are quantised already may be read.
    requantize: bool,
    /// The server that creates the model, if one is named.
    server: Option<Client>,
}

impl<'a> CreateArgs<'a> {
    fn read(parsed: &'a Parsed, context: &Context) -> Result<Self> {
        let server = context.named_server(parsed)?;
        if server.is_some()
            && let Some(flag) = parsed.first_of(&[&LINK, &REQUANTIZE])
        {
            let text = format!("--{} and --host cannot be used together", flag.long);
            return Err(Error::usage(text));
        }
        if parsed.has(&REQUANTIZE) && !parsed.has(&QUANTIZE) {
            return Err(Error::usage("--requantize needs --quantize"));
        }
        Ok(CreateArgs {
            name: new_name(&parsed.operands[0])?,
            file: parsed.value(&FILE).unwrap_or("Modelfile"),
            take: if parsed.has(&LINK) {
                Take::Link
            } else {
                Take::Copy
            },
            quantize: parsed.value(&QUANTIZE),
            requantize: parsed.has(&REQUANTIZE),
            server,
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let args = CreateArgs::read(parsed, context)?;
    let modelfile = modelfile::parse(&stdin::read_input(args.file, MODELFILE_BYTES_MAX)?)?;
    let folder = folder(args.file)?;
    let places = Places {
        folder: &folder,
        home: config.home.as_deref(),
        take: args.take,
    };
    let progress = out.progress("creating", Unit::Bytes);
    let mut notes = Vec::new();
    let mut report = |step| match step {
        Step::Copied(done, total)
        | Step::Converted(done, total)
        | Step::Quantizing(_, _, done, total) => progress.show(done, total),
        Step::Note(text) => notes.push(text),
        Step::Template(name) => notes.push(format!(
            "the model has no template; using {name}, which its vocabulary suggests"
        )),
        Step::Parsing | Step::Layer(..) | Step::Naming => {}
    };
    let refusal = (!args.requantize).then_some(quantised_already as fn(&str) -> Error);
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    // A server may know fewer types, but no other ones.
    let quantize = args
        .quantize
        .map(|text| Quantizing::parse(text, refusal, &pool));
    let quantize = quantize.transpose()?;
    let (source, mut changes) = parse_recipe(&modelfile, places, &mut report)?;
    if let Some(server) = args.server {
        drop(progress);
        notes.iter().for_each(|text| out.note(text));
        return send::create(&server, &args.name, (&source, &changes), args.quantize, out);
    }
    changes.quantize = quantize;
    create(&context.store(), &args.name, &source, &changes, &mut report)?;
    drop(progress);
    notes.iter().for_each(|text| out.note(text));
    Ok(())
}

fn quantised_already(from: &str) -> Error {
    Error::usage(format!(
        "the weights are quantised already ({from}) and would lose precision twice: start from F16, BF16 or F32, \
         or give --requantize"
    ))
}

/// The folder that relative paths in the Modelfile start from.
fn folder(file: &str) -> Result<PathBuf> {
    let current = std::env::current_dir().map_err(|error| Error::io("read", ".", error))?;
    Ok(match file {
        "-" => current,
        file => current.join(Path::new(file).parent().unwrap_or(Path::new(""))),
    })
}
