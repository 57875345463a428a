//! The actions of a session's commands, except answering a prompt.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::commands::{self, ReplCommand, Set};
use super::session::Session;
use crate::cli::out::Out;
use crate::cli::run::args::RunArgs;
use crate::cli::run::{answer, turn_args};
use crate::cli::{context, list, show};
use crate::core::error::{Class, Error, Result};
use crate::core::message::Message;
use crate::core::name::Name;
use crate::format::wire::native;
use crate::format::wire::native::show::parameters_text;
use crate::format::wire::options::to_json;
use crate::ops::backend::Backend;
use crate::ops::create::{self, Changes, Source};
use crate::ops::model::is_path;
use crate::ops::pool::Policy;
use crate::system::config::Config;
use crate::system::store::Take;

/// Executes a command of the session.
///
/// # Errors
/// Any error of the command; the session can continue.
pub fn execute(
    command: ReplCommand,
    session: &mut Session,
    backend: &mut Backend,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    match command {
        ReplCommand::List(prefix) => match backend {
            Backend::Local(_) => list::print(&prefix, config, out),
            Backend::Remote(client) => list::print_theirs(&prefix, client, out),
        },
        ReplCommand::Load(name) => load(name, session, backend, args, config, out),
        ReplCommand::Save(name) => {
            if !session.saved.contains(&name) && exists(&name, backend, config)? {
                let text =
                    format!("{name} exists: choose another name, or /bye and 'puna rm {name}'");
                return Err(Error::usage(text));
            }
            save(&name, session, backend, config)?;
            session.saved.push(name.clone());
            out.write(&format!("Created new model '{name}'\n"))
        }
        ReplCommand::Clear => {
            session.ask.messages.clear();
            note_kept(session, out);
            out.write(match std::mem::take(&mut session.attached).is_empty() {
                true => "Cleared session context\n",
                false => "Cleared session context and attached files\n",
            })
        }
        ReplCommand::Set(Set::Think(think)) if think.is_on() && !can_think(session, backend)? => {
            let model = &session.ask.turn.model;
            Err(Error::usage(format!("{model} does not support thinking")))
        }
        ReplCommand::Set(set) => match session.set(set)? {
            text if text.is_empty() => Ok(()),
            text => out.write(&(text + "\n")),
        },
        ReplCommand::Show(section) => shown(section, session, backend, out),
        ReplCommand::Help(topic) => out.write(&(commands::help(&topic) + "\n")),
        ReplCommand::File(path) => {
            session
                .attached
                .push(turn_args::attachment(&path, session.ask.encoding)?);
            out.write(&format!("Attached {path} to the next prompt.\n"))
        }
        ReplCommand::Undo => match session.undo() {
            Some(_) => {
                note_kept(session, out);
                out.write("Dropped the last prompt.\n")
            }
            None => Err(Error::usage("no prompt to drop")),
        },
        ReplCommand::Export(path) => {
            let text = session.exported(&path)?;
            // Nothing that the user has is overwritten.
            let file = fs::File::create_new(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| Error::io("write", &path, error))?;
            out.write(&format!("Wrote {path}.\n"))
        }
        ReplCommand::Bye | ReplCommand::Retry => Ok(()), // The loop in mod.rs executes these two.
    }
}

/// Notes that a transcript has what is dropped here.
fn note_kept(session: &Session, out: &Out) {
    if session.keeps_all {
        out.note("the transcript keeps what was dropped");
    }
}

/// The model names that complete `/load`; empty if the store cannot be read.
pub fn names(config: &Config) -> Vec<String> {
    let listing = context::store(config).list().unwrap_or_default();
    let entries = listing.entries.iter();
    entries.map(|entry| entry.name.to_string()).collect()
}

fn load(
    name: String,
    session: &mut Session,
    backend: &mut Backend,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    out.write(&format!("Loading model '{name}'\n"))?;
    match backend {
        Backend::Local(local) => {
            let other = answer::open(&name, Policy::Session, args.log, config)?;
            other.model().must_generate()?;
            **local = other;
        }
        Backend::Remote(client) => {
            client.details(&name)?;
            if client.only_embeds(&name)? {
                return Err(Error::usage(format!(
                    "{name} is an embedding model, which generates no text: use 'puna embed'"
                )));
            }
        }
    }
    session.ask.turn.model = name;
    Ok(())
}

/// True if there is a model of this name.
fn exists(name: &str, backend: &Backend, config: &Config) -> Result<bool> {
    match backend {
        Backend::Local(_) => Ok(context::store(config).find(&Name::parse(name)?).is_ok()),
        Backend::Remote(client) => match client.details(name) {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::NoModel => Ok(false),
            Err(error) => Err(error),
        },
    }
}

/// True if the model of the session can think.
fn can_think(session: &Session, backend: &Backend) -> Result<bool> {
    Ok(match backend {
        Backend::Local(local) => {
            let choice = local.pool().template_choice(local.model())?;
            choice.can("thinking")
        }
        Backend::Remote(client) => {
            let shown = client.details(&session.ask.turn.model)?;
            let known = shown["capabilities"].as_array();
            // A server without such a list decides by itself.
            known.is_none_or(|known| known.iter().any(|word| word == "thinking"))
        }
    })
}

/// Saves the session as a model: the same weights with its system text, options and messages.
fn save(name: &str, session: &Session, backend: &Backend, config: &Config) -> Result<()> {
    let target = Name::parse(name)?;
    let ask = &session.ask;
    let local = match backend {
        Backend::Local(local) => local,
        Backend::Remote(client) => {
            let messages = ask.messages.iter().map(native::Message::from);
            let body = serde_json::json!({
                "model": name,
                "from": ask.turn.model,
                "system": ask.system.as_deref().unwrap_or_default(),
                "parameters": to_json(&ask.turn.options),
                "messages": messages.collect::<Vec<_>>(),
            });
            let mut records = client.follow::<Json>("/api/create", &body)?;
            return records.try_for_each(|record| record.map(drop));
        }
    };
    let source = if is_path(&ask.turn.model) {
        Source::File(PathBuf::from(&ask.turn.model), Take::Copy)
    } else {
        Source::Model(Name::parse(&ask.turn.model)?)
    };
    let wire_message = |message: &Message| (message.role.clone(), message.content.clone());
    let own = local.model().messages.iter();
    let changes = Changes {
        system: ask.system.clone().unwrap_or_default(),
        options: ask.turn.options.clone(),
        messages: own.chain(&ask.messages).map(wire_message).collect(),
        ..Changes::default()
    };
    create::create(
        &context::store(config),
        &target,
        &source,
        &changes,
        &mut |_| {},
    )
}

fn shown(section: &str, session: &Session, backend: &Backend, out: &mut Out) -> Result<()> {
    let ask = &session.ask;
    let mut text = match backend {
        Backend::Local(local) if section == "info" => return show::table(local.model(), out),
        Backend::Local(local) => show::section_text(local.model(), section)?,
        Backend::Remote(client) => {
            let shown = client.details(&ask.turn.model)?;
            match section {
                "info" => json_lines(&shown["details"]),
                section => shown[section].as_str().unwrap_or_default().to_string(),
            }
        }
    };
    if section == "system" {
        text = ask.system.clone().unwrap_or(text);
    }
    let text = text.trim_end();
    if section == "parameters" {
        return out.write(&parameters(text, &parameters_text(&ask.turn.options)));
    }
    match (text, section) {
        ("", "license") => out.write("No license was specified for this model.\n"),
        ("", "system") => out.write("No system message was specified for this model.\n"),
        ("", "template") => out.write("No prompt template was specified for this model.\n"),
        (text, _) => out.write(&format!("{text}\n")),
    }
}

/// The text of `/show parameters`: the model's options and those of the session.
fn parameters(model: &str, session: &str) -> String {
    let indented =
        |text: &str| -> String { text.lines().map(|line| format!("  {line}\n")).collect() };
    let mut text = "Model defined parameters:\n".to_string();
    text += &match model {
        "" => "  No additional parameters were specified for this model.\n".to_string(),
        model => indented(model),
    };
    if !session.is_empty() {
        text += &format!("\nUser defined parameters:\n{}", indented(session));
    }
    text
}

fn json_lines(value: &Json) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let text = |value: &Json| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_string)
    };
    pairs
        .map(|(key, value)| format!("  {key:<20}{}\n", text(value)))
        .collect()
}
