//! The flags of a turn: those that several commands share, with one help text each.

use crate::cli::flag::{Flag, Group, maybe, option, switch};

/// Shared by the commands that generate text.
pub const NUM_CTX: Flag = option(
    "num-ctx",
    None,
    "N",
    "context size in tokens (default: as needed)",
)
.in_group(Group::Limits);

/// Shared by the commands that generate text.
pub const NUM_PREDICT: Flag = option(
    "num-predict",
    Some('n'),
    "N",
    "generate at most N tokens (default: 4096; -1: no limit)",
)
.in_group(Group::Limits);

pub const SYSTEM: Flag = option(
    "system",
    Some('s'),
    "TEXT",
    "system text, instead of the model's own",
)
.in_group(Group::Input);

pub const OPTION: Flag = option(
    "option",
    Some('o'),
    "KEY=VALUE",
    "set an API option, such as top_k=1; repeatable",
)
.in_group(Group::Sampling);

pub const SEED: Flag = option(
    "seed",
    None,
    "N",
    "random seed; the same seed gives the same answer",
)
.in_group(Group::Sampling)
.sets("seed");

pub const TEMPERATURE: Flag = option(
    "temperature",
    None,
    "T",
    "sampling temperature; 0 picks the likeliest token",
)
.in_group(Group::Sampling)
.sets("temperature");

pub const FORMAT: Flag = option(
    "format",
    None,
    "json|@FILE",
    "answer in JSON, or follow the schema in FILE",
)
.in_group(Group::Output)
.one_of(&["json"]);

pub const SCHEMA: Flag = option(
    "schema",
    None,
    "FILE|JSON",
    "answer in JSON on one line that follows the schema",
)
.in_group(Group::Output);

pub const OPEN: Flag = switch(
    "open",
    None,
    "with --schema: allow properties that it does not name",
)
.in_group(Group::Output);

pub const GRAMMAR: Flag = option(
    "grammar",
    None,
    "FILE",
    "answer in text that follows the grammar in FILE",
)
.in_group(Group::Output);

pub const MESSAGES: Flag = option(
    "messages",
    None,
    "FILE",
    "earlier messages, a JSON list as in the API",
)
.in_group(Group::Input);

pub const TOOLS: Flag = option(
    "tools",
    None,
    "FILE",
    "functions that the model may call, as in the API",
)
.in_group(Group::Input);

pub const TOOL_CHOICE: Flag = option(
    "tool-choice",
    None,
    "WHICH",
    "auto, none, required, or the function to call",
)
.in_group(Group::Input)
.one_of(&["auto", "none", "required"]);

pub const THINK: Flag = maybe(
    "think",
    "LEVEL",
    "think first: true, false, low, medium, high or max",
)
.in_group(Group::Sampling)
.one_of(&["true", "false", "low", "medium", "high", "max"]);

pub const RAW: Flag = switch(
    "raw",
    None,
    "use the prompt as is, without the chat template",
)
.in_group(Group::Input);

pub const OVERFLOW: Flag = option(
    "overflow",
    None,
    "PART",
    "for too long a prompt: error, head, tail, middle; run: reduce",
)
.in_group(Group::Input)
.one_of(&["error", "head", "tail", "middle"]);

pub const ATTACH: Flag = option(
    "attach",
    Some('a'),
    "FILE",
    "put a text file before the prompt; repeatable",
)
.in_group(Group::Input);

pub const STOP: Flag = option(
    "stop",
    None,
    "TEXT",
    "stop the answer before this text; repeatable",
)
.in_group(Group::Sampling);

pub const HIDETHINKING: Flag =
    switch("hidethinking", None, "do not print the thinking").in_group(Group::Output);

pub const NOWORDWRAP: Flag = switch(
    "nowordwrap",
    None,
    "on a terminal, do not break lines between words",
)
.in_group(Group::Output);

pub const KEEPALIVE: Flag = option(
    "keepalive",
    None,
    "DURATION",
    "how long a server keeps the model loaded",
)
.in_group(Group::Where);
