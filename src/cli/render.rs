//! `puna render`: the exact prompt that a model would see.

use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::encoding::ENCODING;
use super::flag::{Flag, Group, HOST, JSON, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::run::turn_args::{self, Ask, OVERFLOWS};
use super::run::turn_flags::{MESSAGES, OPTION, OVERFLOW, RAW, SYSTEM, THINK, TOOLS};
use super::table::{Command, ONE_MODEL, PLAIN};
use crate::core::error::{Error, Result};
use crate::core::turn::{GivenTemplate, TurnRequest};
use crate::ops::pool::{Policy, Pool};
use crate::ops::turn::{self, Prompter, Request};
use crate::ops::{backend, model};

pub const COMMAND: Command = Command {
    name: "render",
    summary: "print the exact prompt that a model would see",
    operands: "MODEL [PROMPT...]",
    arity: (1, usize::MAX),
    flags: &[
        MESSAGES, TOOLS, SYSTEM, OPTION, THINK, RAW, OVERFLOW, NUM_CTX, TEMPLATE, JINJA, TOKENS,
        ENCODING, JSON, HOST, QUIET,
    ],
    about: &[
        "Prints the prompt that run would send to the model, byte for byte and without an added newline. Notes on \
         standard error say what was changed to suit the template.",
        "The conversation is the one of --messages, if given, followed by the prompt, which is read as by run. With \
         --overflow the prompt is cut as by run: head and tail keep that part of it, middle drops the middle; error \
         refuses a prompt that does not fit (status 4), which is else printed whole. With --tokens the prompt is printed as tokens, with tabs, newlines and backslashes escaped.",
        "With --host a server renders the prompt; --template, --jinja and --tokens are for models of this machine.",
    ],
    examples: &[
        (
            "puna render smol 'Say hello'",
            "print the prompt that the template renders",
        ),
        (
            "puna render smol --messages chat.json --tools tools.json --tokens | wc -l",
            "count the tokens of a conversation",
        ),
    ],
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

const NUM_CTX: Flag = option(
    "num-ctx",
    None,
    "N",
    "context size in tokens, for --overflow",
)
.in_group(Group::Limits);
const TEMPLATE: Flag = option(
    "template",
    None,
    "FILE",
    "use the Go template in FILE, not the model's",
);
const JINJA: Flag = option(
    "jinja",
    None,
    "FILE",
    "use the Jinja template in FILE, not the model's",
);
const TOKENS: Flag = switch(
    "tokens",
    None,
    "print the tokens, one per line: id, a tab, text",
);

/// The flags of `render`, read once.
struct RenderArgs {
    ask: Ask,
    /// The template in place of the model's.
    given: Option<GivenTemplate>,
    /// The prompt is printed as tokens.
    as_tokens: bool,
    json: bool,
    /// A prompt that does not fit is an error.
    must_fit: bool,
}

impl RenderArgs {
    fn read(parsed: &Parsed) -> Result<Self> {
        parsed.only_one(&[(&TEMPLATE, ()), (&JINJA, ()), (&RAW, ())])?;
        let given = match (parsed.value(&TEMPLATE), parsed.value(&JINJA)) {
            (Some(path), _) => Some(GivenTemplate::Go(turn_args::file(path)?)),
            (None, Some(path)) => Some(GivenTemplate::Jinja(turn_args::file(path)?)),
            (None, None) => None,
        };
        Ok(RenderArgs {
            ask: Ask::read(parsed, OVERFLOWS)?,
            given,
            as_tokens: parsed.has(&TOKENS),
            json: parsed.has(&JSON),
            must_fit: parsed.value(&OVERFLOW) == Some("error"),
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let RenderArgs {
        ask,
        given,
        as_tokens,
        json,
        must_fit,
    } = RenderArgs::read(parsed)?;
    if let Some(server) = context.model_server(parsed)? {
        if let Some(flag) = parsed.first_of(&[&TEMPLATE, &JINJA, &TOKENS]) {
            let text = format!("--{} cannot be used with a server", flag.long);
            return Err(Error::usage(text));
        }
        if must_fit {
            let text =
                "--overflow error cannot be used with a server, which renders the whole prompt";
            return Err(Error::usage(text));
        }
        let (prompt, dropped) = backend::rendered(&server, &ask.turn())?;
        out.note_dropped("", dropped);
        return print(&prompt, json, out);
    }
    let model = model::open(&context.store(), &ask.turn.model)?;
    model.must_generate()?;
    let turn = TurnRequest {
        template: given,
        ..ask.turn()
    };
    let request = Request::new(&model, turn, Arc::default(), Instant::now())?;
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let template_choice = request.template_choice(&pool)?;
    if request.turn.template.is_none() {
        // As run does; another template is tried as it is.
        turn::refuse_unsupported(&request, &template_choice)?;
    }
    let options = turn::options_in_force(&model, &request.turn.options);
    let lease = pool.acquire(&model, &options, None, &request.cancel, &mut |_| {})?;
    let prompter = Prompter::new(&request, &template_choice, lease.engine(), &options);
    let prompter = if must_fit {
        prompter
    } else {
        prompter.showing_all()
    };
    let prompt = prompter.prompt(lease.context_tokens)?;
    prompt.notes.iter().for_each(|note| out.note(note));
    out.note_dropped("", prompt.truncated_tokens);
    if as_tokens {
        let pieces = prompter.pieces(&prompt.tokens).into_iter();
        let records: Vec<_> = pieces
            .map(|token| vec![token.id.into(), token.text.into()])
            .collect();
        return out.named(json, &["id", "text"], &records);
    }
    print(&prompt.text, json, out)
}

fn print(prompt: &str, json: bool, out: &mut Out) -> Result<()> {
    if json {
        out.named(true, &["prompt"], &[vec![prompt.into()]])
    } else {
        out.write(prompt)
    }
}
