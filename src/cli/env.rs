//! `puna env`: the settings that make another program use this server.
//!
//! Each program's own documentation says what it reads (November 2026).

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::context::Context;
use super::flag::{Flag, Group, HOST, QUIET, option, switch};
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::address::Address;
use crate::core::clock;
use crate::core::error::{Error, Result};
use crate::core::name::{self, Name};

pub const COMMAND: Command = Command {
    name: "env",
    summary: "print the settings that make a program use this server",
    operands: "[PROGRAM]",
    arity: (0, 1),
    flags: &[MODEL, WRITE, HOST, QUIET],
    about: &[
        "Prints shell commands that set what PROGRAM reads from its environment, for eval. With --write its \
         configuration file is printed instead, and standard error says where the program looks for it; an existing file \
         is to be merged by hand. Nothing is installed, written or executed. Without PROGRAM the programs are listed, \
         one per line: name, a tab, env if it reads its environment, a tab, and its file.",
        "The address is the one of --host, else the one that puna serve listens on. The key is PUNA_API_KEY, or a word \
         that the server does not look at if it has no keys. 'openai', 'anthropic' and 'ollama' stand for programs that use \
         these libraries. Agents need a model that calls tools and a long context: see PUNA_CONTEXT_LENGTH.",
    ],
    examples: &[
        (
            "eval \"$(puna env claude -m smol)\"",
            "make Claude Code use a model in this shell",
        ),
        (
            "puna env codex -m smol --write",
            "print a configuration file for Codex",
        ),
    ],
    run,
    section: Section::Machine,
    completes: (Completes::Words(&NAMES), Completes::Nothing),
    ..PLAIN
};

const MODEL: Flag = option("model", Some('m'), "MODEL", "the model to use").in_group(Group::Where);
const WRITE: Flag = switch("write", None, "print the program's configuration file");

/// The key that a program sends where the server has none: some refuse an empty one.
const NO_KEY: &str = "puna";

/// The server as the settings name it.
struct Server {
    /// Its address, without a path.
    url: String,
    key: String,
    /// The model; empty if none is named.
    model: String,
}

/// Variables and their values.
type Variables = Vec<(&'static str, String)>;

/// A program.
struct Program {
    name: &'static str,
    /// Where it looks for its configuration.
    file: &'static str,
    /// Variables that it reads, if it can be set up so.
    variables: Option<fn(&Server) -> Variables>,
    /// The content of its file; `None`: its variables, one a line.
    config: Option<fn(&Server) -> String>,
    /// Its settings name a model.
    names_model: bool,
}

const PLAIN_PROGRAM: Program = Program {
    name: "",
    file: ".env",
    variables: None,
    config: None,
    names_model: true,
};

const PROGRAMS: [Program; 13] = [
    Program {
        name: "claude",
        file: "~/.claude/settings.json",
        variables: Some(claude),
        config: Some(|server| {
            let set = claude(server).into_iter();
            pretty(&json!({ "env": set.collect::<std::collections::BTreeMap<_, _>>() }))
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "codex",
        file: "~/.codex/config.toml",
        config: Some(codex),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "opencode",
        file: "~/.config/opencode/opencode.json",
        variables: Some(|server| vec![("OPENCODE_CONFIG_CONTENT", opencode(server).to_string())]),
        config: Some(|server| pretty(&opencode(server))),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "pi",
        file: "~/.pi/agent/models.json",
        config: Some(|server| {
            let provider = json!({
                "baseUrl": server.v1(),
                "api": "openai-completions",
                "apiKey": server.key,
                "models": [{ "id": server.model }],
            });
            pretty(&json!({ "providers": { "puna": provider } }))
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "cline",
        file: "~/.cline/data/settings/providers.json",
        config: Some(|server| {
            let kind = "openai-compatible";
            let settings = json!({
                "provider": kind,
                "apiKey": server.key,
                "model": server.model,
                "baseUrl": server.v1(),
            });
            pretty(&json!({
                "version": 1,
                "lastUsedProvider": kind,
                "modes": {},
                // It reads no entry without its time.
                "providers": { kind: {
                    "settings": settings,
                    "updatedAt": clock::rfc3339(SystemTime::now()),
                    "tokenSource": "manual",
                } },
            }))
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "aider",
        file: "~/.aider.conf.yml",
        variables: Some(|server| {
            let model = format!("ollama_chat/{}", server.model);
            vec![
                ("OLLAMA_API_BASE", server.url.clone()),
                ("AIDER_MODEL", model),
            ]
        }),
        config: Some(|server| {
            let (model, url) = (format!("ollama_chat/{}", server.model), &server.url);
            let base = format!("OLLAMA_API_BASE={url}");
            format!(
                "model: {}\nset-env:\n  - {}\n",
                quoted(&model),
                quoted(&base)
            )
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "continue",
        file: "~/.continue/config.yaml",
        config: Some(|server| {
            let (model, url) = (quoted(&server.model), quoted(&server.url));
            format!(
                "name: puna\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: {model}\n    provider: ollama\n    \
                 model: {model}\n    apiBase: {url}\n"
            )
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "zed",
        file: "~/.config/zed/settings.json",
        config: Some(|server| {
            let model = json!({ "provider": "ollama", "model": server.model });
            pretty(&json!({
                "language_models": { "ollama": { "api_url": server.url } },
                "agent": { "default_model": model },
            }))
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "goose",
        file: "~/.config/goose/config.yaml",
        variables: Some(goose),
        config: Some(|server| {
            let lines = goose(server).into_iter();
            lines
                .map(|(name, value)| format!("{name}: {}\n", quoted(&value)))
                .collect()
        }),
        ..PLAIN_PROGRAM
    },
    Program {
        name: "open-webui",
        variables: Some(|server| vec![("OLLAMA_BASE_URL", server.url.clone())]),
        names_model: false,
        ..PLAIN_PROGRAM
    },
    Program {
        name: "openai",
        variables: Some(|server| {
            vec![
                ("OPENAI_BASE_URL", server.v1()),
                ("OPENAI_API_KEY", server.key.clone()),
            ]
        }),
        names_model: false,
        ..PLAIN_PROGRAM
    },
    Program {
        name: "anthropic",
        variables: Some(|server| {
            vec![
                ("ANTHROPIC_BASE_URL", server.url.clone()),
                ("ANTHROPIC_API_KEY", server.key.clone()),
            ]
        }),
        names_model: false,
        ..PLAIN_PROGRAM
    },
    Program {
        name: "ollama",
        variables: Some(|server| vec![("OLLAMA_HOST", server.url.clone())]),
        names_model: false,
        ..PLAIN_PROGRAM
    },
];

/// The names of all programs, for completion.
const NAMES: [&str; PROGRAMS.len()] = {
    let mut names = [""; PROGRAMS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = PROGRAMS[index].name;
        index += 1;
    }
    names
};

impl Server {
    /// The base of OpenAI's routes.
    fn v1(&self) -> String {
        format!("{}/v1", self.url)
    }
}

fn claude(server: &Server) -> Variables {
    let mut set = vec![
        ("ANTHROPIC_BASE_URL", server.url.clone()),
        ("ANTHROPIC_AUTH_TOKEN", server.key.clone()),
        // A key from elsewhere would be sent in its place.
        ("ANTHROPIC_API_KEY", String::new()),
    ];
    let models = [
        "ANTHROPIC_MODEL",
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    ];
    set.extend(models.map(|name| (name, server.model.clone())));
    set
}

fn codex(server: &Server) -> String {
    let key = match server.key == NO_KEY {
        true => "",
        false => "env_key = \"PUNA_API_KEY\"\n",
    };
    format!(
        "model = {}\nmodel_provider = \"puna\"\n\n[model_providers.puna]\nname = \"puna\"\nbase_url = {}\n\
         wire_api = \"responses\"\n{key}",
        quoted(&server.model),
        quoted(&server.v1())
    )
}

fn opencode(server: &Server) -> Json {
    json!({
        "$schema": "https://opencode.ai/config.json",
        "model": format!("puna/{}", server.model),
        "provider": { "puna": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "puna",
            "options": { "baseURL": server.v1(), "apiKey": server.key },
            "models": { server.model.as_str(): { "name": server.model } },
        } },
    })
}

fn goose(server: &Server) -> Variables {
    vec![
        ("GOOSE_PROVIDER", "ollama".into()),
        ("GOOSE_MODEL", server.model.clone()),
        ("OLLAMA_HOST", server.url.clone()),
    ]
}

/// A text in quotes, as JSON, TOML and YAML write it.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}

/// A value as a shell reads it.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let Some(wanted) = parsed.operands.first() else {
        let row = |program: &Program| {
            let reads = if program.variables.is_some() {
                "env"
            } else {
                ""
            };
            vec![
                program.name.to_string(),
                reads.to_string(),
                program.file.to_string(),
            ]
        };
        return out.records(&PROGRAMS.iter().map(row).collect::<Vec<_>>());
    };
    let program = PROGRAMS.iter().find(|program| program.name == wanted);
    let program = program.ok_or_else(|| {
        let near = name::nearest(wanted, NAMES.iter().copied());
        let hint = near.first().map_or("'puna env' lists them".into(), |near| {
            format!("is it {near}?")
        });
        Error::usage(format!(
            "'{wanted}' is not a program that is known here: {hint}"
        ))
    })?;
    let server = server(program, parsed, context)?;
    let variables = program.variables.map(|of| of(&server));
    if parsed.has(&WRITE) {
        out.note(&format!("for {}", program.file));
        let lines = || {
            let set = variables.iter().flatten();
            set.map(|(name, value)| format!("{name}={value}\n"))
                .collect()
        };
        return out.write(&program.config.map_or_else(lines, |of| of(&server)));
    }
    let variables = variables.ok_or_else(|| {
        Error::usage(format!(
            "{wanted} reads {} and not its environment: see --write",
            program.file
        ))
    })?;
    let line = |(name, value): &(&str, String)| format!("export {name}={}\n", shell(value));
    out.write(&variables.iter().map(line).collect::<String>())
}

/// The server and the model that the settings name.
fn server(program: &Program, parsed: &Parsed, context: &Context) -> Result<Server> {
    let config = &context.config;
    let mut address = match parsed.value(&HOST) {
        Some(host) => Address::parse(host)?,
        None => config.address.clone(),
    };
    // A server listens on these, and no client finds it there.
    if ["0.0.0.0", "::"].contains(&address.host.as_str()) {
        address.host.clear();
    }
    let model = match (parsed.value(&MODEL), program.names_model) {
        (Some(_), false) => {
            let text = format!("{} chooses its model itself: omit --model", program.name);
            return Err(Error::usage(text));
        }
        (None, true) => return Err(Error::usage(format!("{} needs --model", program.name))),
        (model, _) => model.unwrap_or_default().to_string(),
    };
    // At another server it may be there.
    let is_here = !parsed.has(&HOST) && !config.address_named;
    if program.names_model && is_here {
        context.store().find(&Name::parse(&model)?)?;
    }
    Ok(Server {
        url: address.url(""),
        key: config.api_key.clone().unwrap_or_else(|| NO_KEY.into()),
        model,
    })
}
