//! `puna render`: the exact prompt that a model would see.

use super::ask::{self, Ask, MESSAGES, OPTION, OVERFLOW, RAW, SYSTEM, THINK, TOOLS};
use super::out::{self, Out};
use super::parse::Parsed;
use super::spec::{Command, Completes, JSON, QUIET, option, switch};
use crate::chat::{self, Prompter, Request};
use crate::config::Config;
use crate::dialect::Given;
use crate::error::{Error, Result};
use crate::model;
use crate::pool::{Policy, Pool};

pub const COMMAND: Command = Command {
    name: "render",
    alias: None,
    summary: "print the exact prompt that a model would see",
    operands: "MODEL [PROMPT...]",
    arity: (1, usize::MAX),
    flags: &[
        MESSAGES,
        TOOLS,
        SYSTEM,
        OPTION,
        THINK,
        RAW,
        OVERFLOW,
        option("num-ctx", None, "N", "tokens of context, for --overflow"),
        option(
            "template",
            None,
            "FILE",
            "use the Go template in FILE instead of the model's",
        ),
        option(
            "jinja",
            None,
            "FILE",
            "use the Jinja template in FILE instead of the model's",
        ),
        switch(
            "tokens",
            None,
            "print the tokens: id, a tab, and the text, one a line",
        ),
        JSON,
        QUIET,
    ],
    about: &[
        "Prints the prompt that run would hand to the model, byte for byte and without a newline of its own. What was \
         changed to suit the template is told on standard error.",
        "The conversation is the one in --messages, if there is one, and then the prompt, which is taken as by run. \
         With --tokens the prompt is shown as the model reads it, with tabs, newlines and backslashes escaped.",
    ],
    examples: &[
        (
            "puna render smol 'Say hello'",
            "see what the template makes of a prompt",
        ),
        (
            "puna render smol --messages chat.json --tools tools.json --tokens | wc -l",
            "count the tokens of a conversation",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let ask = Ask::of(parsed)?;
    let given = match (parsed.value("template"), parsed.value("jinja")) {
        (Some(_), Some(_)) => {
            return Err(Error::usage("--template and --jinja exclude each other"));
        }
        (Some(path), None) => Some(Given::Go(ask::file(path)?)),
        (None, Some(path)) => Some(Given::Jinja(ask::file(path)?)),
        (None, None) => None,
    };
    let model = model::open(&super::store(config), &ask.model)?;
    let request = Request {
        template: given,
        ..ask.request(&model)
    };
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let dialect = request.dialect(&pool)?;
    let options = chat::options_in_force(&model, &request.options);
    let lease = pool.acquire(&model, &options, None, &request.cancel, &mut |_| {})?;
    let prompter = Prompter::new(&request, &dialect, lease.engine(), &options);
    let prompt = prompter.prompt(lease.context_tokens)?;
    prompt.notes.iter().for_each(|note| out.note(note));
    out.note_dropped("", prompt.truncated_tokens);
    let json = parsed.has("json");
    if parsed.has("tokens") {
        let pieces = prompter.pieces(&prompt.tokens).into_iter();
        let records: Vec<_> = pieces
            .map(|token| vec![token.id.into(), token.text.into()])
            .collect();
        return out.named(json, &["id", "text"], &records);
    }
    match json {
        true => out.named(true, &["prompt"], &[vec![prompt.text.into()]]),
        false => out.write(&prompt.text),
    }
}
