//! `puna show`: everything about one model.

use super::out::{Out, human_bytes};
use super::parse::Parsed;
use super::spec::{Command, Completes, JSON, switch};
use crate::config::Config;
use crate::dialect::Sources;
use crate::error::{Error, Result};
use crate::list;
use crate::model::{self, Model};
use crate::show;
use crate::store::Origin;

pub const COMMAND: Command = Command {
    name: "show",
    alias: None,
    summary: "show what a model is and what it can do",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        JSON,
        switch(
            "verbose",
            Some('v'),
            "with --json: the arrays of the header too",
        ),
        switch(
            "modelfile",
            None,
            "print only a Modelfile that makes this model",
        ),
        switch("parameters", None, "print only its options"),
        switch("system", None, "print only its system text"),
        switch("template", None, "print only the template in force"),
        switch("license", None, "print only its licences"),
    ],
    about: &[
        "Shows a model of the store or a GGUF file: architecture, parameters, context length, quantisation, which \
         template makes its prompts, its options and its system text. In a pipe each line holds a word, a tab and a \
         value; on a terminal the same is shown as a table.",
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
            "look into a file's header",
        ),
    ],
    completes: Completes::Models,
    run,
};

const SECTIONS: [&str; 5] = ["modelfile", "parameters", "system", "template", "license"];

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let model = model::open(&super::store(config), &parsed.operands[0])?;
    let wanted: Vec<&str> = SECTIONS
        .into_iter()
        .filter(|section| parsed.has(section))
        .collect();
    if wanted.len() > 1 {
        return Err(Error::usage(format!(
            "--{} and --{} exclude each other",
            wanted[0], wanted[1]
        )));
    }
    if parsed.has("json") {
        return out.json(&[show::show(&model, parsed.has("verbose"))?]);
    }
    if let Some(section) = wanted.first() {
        let text = section_text(&model, section)?;
        return if text.is_empty() {
            Ok(())
        } else {
            out.write(&(text.trim_end_matches('\n').to_string() + "\n"))
        };
    }
    table(&model, out)
}

/// Prints what a model is: for people on a terminal, else a line a fact.
///
/// # Errors
/// If the output cannot be written.
pub fn table(model: &Model, out: &mut Out) -> Result<()> {
    let rows = rows(model, out.output_is_terminal);
    match out.output_is_terminal {
        true => out.table(&["WHAT", "VALUE"], &rows),
        false => out.records(&rows),
    }
}

/// The text of one of the sections that have a flag.
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
            Some(list::capabilities(Sources::of(model)).join(",")),
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
    let parameters = crate::api::show::parameters_text(&model.options);
    rows.extend(parameters.lines().map(|line| {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        vec![format!("option {name}"), value.trim().to_string()]
    }));
    rows
}
