//! `puna show`: prints the details of one model.

use serde_json::{Value as Json, json};

use super::context::Context;
use super::flag::{Flag, Group, HOST, JSON, switch};
use super::out::{Out, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, ONE_MODEL, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::ops::model::{self, Model};
use crate::ops::{list, show};
use crate::system::store::Origin;

pub const COMMAND: Command = Command {
    name: "show",
    summary: "show what a model is and what it can do",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        JSON, VERBOSE, MODELFILE, PARAMETERS, SYSTEM, TEMPLATE, LICENSE, HOST,
    ],
    about: &[
        "Shows a model of the store or a GGUF file: architecture, parameters, context length, quantisation, the origin \
         of its template, its options and its system text. In a pipe each line is a name, a tab and a value; on a \
         terminal the same is shown as a table.",
    ],
    examples: &[
        ("puna show smol", "show a model"),
        (
            "puna show smol | sed -n 's/^context\\t//p'",
            "print only its context length",
        ),
        (
            "puna show smol --modelfile > Modelfile",
            "write its Modelfile",
        ),
        (
            "puna show ./model.gguf --json | jq .model_info",
            "print the header of a file",
        ),
    ],
    run,
    section: Section::Models,
    completes: ONE_MODEL,
    ..PLAIN
};

pub const VERBOSE: Flag = switch(
    "verbose",
    Some('v'),
    "with --json, print the header's arrays too",
)
.in_group(Group::Output);
const MODELFILE: Flag = switch(
    "modelfile",
    None,
    "print only a Modelfile that recreates the model",
);
const PARAMETERS: Flag = switch("parameters", None, "print only its options");
const SYSTEM: Flag = switch("system", None, "print only its system text").in_group(Group::Input);
const TEMPLATE: Flag = switch("template", None, "print only the template in force");
const LICENSE: Flag = switch("license", None, "print only its licences");

/// The flags that print one section, with its name.
const SECTIONS: [(&Flag, &str); 5] = [
    (&MODELFILE, "modelfile"),
    (&PARAMETERS, "parameters"),
    (&SYSTEM, "system"),
    (&TEMPLATE, "template"),
    (&LICENSE, "license"),
];

/// The flags of `show`, read once.
struct ShowArgs {
    /// The only section to print.
    section: Option<&'static str>,
    json: bool,
    verbose: bool,
}

impl ShowArgs {
    fn read(parsed: &Parsed) -> Result<Self> {
        let args = ShowArgs {
            section: parsed.only_one(&SECTIONS)?,
            json: parsed.has(&JSON),
            verbose: parsed.has(&VERBOSE),
        };
        if args.verbose && !args.json {
            return Err(Error::usage("--verbose needs --json"));
        }
        Ok(args)
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let operand = &parsed.operands[0];
    let ShowArgs {
        section,
        json,
        verbose,
    } = ShowArgs::read(parsed)?;
    if let Some(server) = context.model_server(parsed)? {
        let body = json!({ "model": operand, "verbose": verbose });
        let shown: Json = server.ask_soon("/api/show", &body)?;
        return if json {
            out.json(&[shown])
        } else if let Some(section) = section {
            print_section(shown[section].as_str().unwrap_or_default(), out)
        } else {
            print_rows(&their_rows(operand, &shown), out)
        };
    }
    let model = model::open(&context.store(), operand)?;
    if json {
        return out.json(&[show::show(&model, verbose)?]);
    }
    match section {
        Some(section) => print_section(&section_text(&model, section)?, out),
        None => table(&model, out),
    }
}

/// The rows of [`rows`] for a model of a server, from its description.
fn their_rows(name: &str, shown: &Json) -> Vec<Vec<String>> {
    let (details, info) = (&shown["details"], &shown["model_info"]);
    let architecture = info["general.architecture"].as_str().unwrap_or_default();
    let number = |key: &str| info[format!("{architecture}.{key}")].as_u64();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_string();
    let count = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let abilities = shown["capabilities"].as_array().into_iter().flatten();
    let abilities: Vec<&str> = abilities.filter_map(Json::as_str).collect();
    let rows = [
        ("name", name.to_string()),
        ("architecture", architecture.to_string()),
        ("parameters", text(&details["parameter_size"])),
        ("quantization", text(&details["quantization_level"])),
        ("context", count(number("context_length"))),
        ("embedding", count(number("embedding_length"))),
        ("capabilities", abilities.join(",")),
        ("system", text(&shown["system"])),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = rows.map(|(word, value)| vec![word.to_string(), value]);
    let parameters = text(&shown["parameters"]);
    rows.chain(option_rows(&parameters)).collect()
}

/// A row for each line of a text of parameters.
fn option_rows(parameters: &str) -> impl Iterator<Item = Vec<String>> {
    parameters.lines().map(|line| {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        vec![format!("option {name}"), value.trim().to_string()]
    })
}

fn print_section(text: &str, out: &mut Out) -> Result<()> {
    match text.trim_end_matches('\n') {
        "" => Ok(()),
        text => out.write(&format!("{text}\n")),
    }
}

/// Prints the details of a model: as a table on a terminal, else one per line.
///
/// # Errors
/// If the output cannot be written.
pub fn table(model: &Model, out: &mut Out) -> Result<()> {
    print_rows(&rows(model, out.output_is_terminal), out)
}

fn print_rows(rows: &[Vec<String>], out: &mut Out) -> Result<()> {
    if out.output_is_terminal {
        out.table(&["WHAT", "VALUE"], rows)
    } else {
        out.records(rows)
    }
}

/// The text of one of [`SECTIONS`].
///
/// # Errors
/// If the model's file cannot be read again.
pub fn section_text(model: &Model, section: &str) -> Result<String> {
    let shown = show::show(model, false)?;
    Ok(match section {
        "modelfile" => shown.modelfile,
        "parameters" => shown.parameters,
        "system" => shown.system,
        "template" => shown.template,
        _ => shown.license,
    })
}

fn rows(model: &Model, human: bool) -> Vec<Vec<String>> {
    let header = &model.header;
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let size = if human {
        human_bytes(model.size_bytes)
    } else {
        model.size_bytes.to_string()
    };
    let origin = (model.origin == Origin::Ollama).then(|| "Ollama's store, only read".to_string());
    let mut rows = vec![
        (
            "name",
            model
                .name
                .as_ref()
                .map(ToString::to_string)
                .or(Some(model.label.clone())),
        ),
        ("digest", model.digest.map(|digest| digest.to_string())),
        ("origin", origin),
        ("size", Some(size)),
        ("architecture", Some(header.architecture().to_string())),
        (
            "parameters",
            Some(model::human_count(header.parameter_count())),
        ),
        ("quantization", Some(header.file_type().to_string())),
        ("context", number(header.context_length())),
        ("embedding", number(header.arch_integer("embedding_length"))),
        (
            "capabilities",
            Some(list::model_capabilities(model).join(",")),
        ),
        ("template", Some(show::template_origin(model))),
        ("system", model.system.clone()),
    ];
    rows.extend(
        model
            .licenses
            .iter()
            .map(|text| ("license", text.lines().next().map(str::to_string))),
    );
    let mut rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter_map(|(word, value)| Some(vec![word.to_string(), value?]))
        .collect();
    let parameters = crate::format::wire::native::show::parameters_text(&model.options);
    rows.extend(option_rows(&parameters));
    rows
}
