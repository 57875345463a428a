//! The flags of a turn: those that several commands share, with one help text each.

use crate::cli::flag::{Flag, maybe, option, switch};

/// Shared by the commands that generate text.
pub const NUM_CTX: Flag = option(
    "num-ctx",
    None,
    "N",
    "context size in tokens (default: as needed)",
);

/// Shared by the commands that generate text.
pub const NUM_PREDICT: Flag = option("num-predict", Some('n'), "N", "generate at most N tokens");

pub const SYSTEM: Flag = option(
    "system",
    Some('s'),
    "TEXT",
    "system text, instead of the model's own",
);

pub const OPTION: Flag = option(
    "option",
    Some('o'),
    "KEY=VALUE",
    "set an API option, such as top_k=1; repeatable",
);

pub const SEED: Flag = option(
    "seed",
    None,
    "N",
    "random seed; the same seed gives the same answer",
);

pub const TEMPERATURE: Flag = option(
    "temperature",
    None,
    "T",
    "sampling temperature; 0 picks the likeliest token",
);

pub const FORMAT: Flag = option(
    "format",
    None,
    "json|@FILE",
    "answer in JSON, or follow the schema in FILE",
);

pub const SCHEMA: Flag = option(
    "schema",
    None,
    "FILE",
    "answer in JSON that follows the schema in FILE",
);

pub const GRAMMAR: Flag = option(
    "grammar",
    None,
    "FILE",
    "answer in text that follows the grammar in FILE",
);

pub const MESSAGES: Flag = option(
    "messages",
    None,
    "FILE",
    "earlier messages, a JSON list as in the API",
);

pub const TOOLS: Flag = option(
    "tools",
    None,
    "FILE",
    "functions that the model may call, as in the API",
);

pub const TOOL_CHOICE: Flag = option(
    "tool-choice",
    None,
    "WHICH",
    "auto, none, required, or the function to call",
);

pub const THINK: Flag = maybe(
    "think",
    "LEVEL",
    "think first: true, false, low, medium, high or max",
);

pub const RAW: Flag = switch(
    "raw",
    None,
    "use the prompt as is, without the chat template",
);

pub const OVERFLOW: Flag = option(
    "overflow",
    None,
    "PART",
    "for too long a prompt: error, head, tail or middle",
);

pub const ATTACH: Flag = option(
    "attach",
    Some('a'),
    "FILE",
    "put a text file before the prompt; repeatable",
);

pub const STOP: Flag = option(
    "stop",
    None,
    "TEXT",
    "stop the answer before this text; repeatable",
);

pub const HIDETHINKING: Flag = switch("hidethinking", None, "do not print the thinking");

pub const NOWORDWRAP: Flag = switch(
    "nowordwrap",
    None,
    "in a session, do not break lines between words",
);

pub const KEEPALIVE: Flag = option(
    "keepalive",
    None,
    "DURATION",
    "how long a server keeps the model loaded",
);
