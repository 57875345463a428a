//! What the commands of a session do: everything but answering.

use std::fs;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::answer::Here;
use super::ask;
use super::list;
use super::out::Out;
use super::parse::Parsed;
use super::repl::Partner;
use super::session::Session;
use super::show;
use super::slash::{self, Slash};
use crate::api::listing::Tags;
use crate::api::native;
use crate::api::options::to_json;
use crate::api::show::parameters_text;
use crate::client::Client;
use crate::config::Config;
use crate::create::{self, Changes, Source};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::model::is_path;
use crate::name::Name;
use crate::pool::Policy;
use crate::store::Take;

/// Does what a line of the session says.
///
/// # Errors
/// Whatever is wrong with it; the session goes on as it was.
pub fn obey(
    slash: Slash,
    session: &mut Session,
    partner: &mut Partner,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    match slash {
        Slash::List(prefix) => match partner {
            Partner::Here(_) => list::print(&prefix, config, out),
            Partner::There(client, _) => {
                let tags = client.get::<Tags>("/api/tags")?.models;
                let names = tags.iter().map(|tag| &tag.name);
                let names = names.filter(|name| name.starts_with(&prefix));
                out.write(&names.map(|name| format!("{name}\n")).collect::<String>())
            }
        },
        Slash::Load(name) => load(name, session, partner, parsed, config, out),
        Slash::Save(name) => {
            save(&name, session, partner, config)?;
            out.write(&format!("Created new model '{name}'\n"))
        }
        Slash::Clear => {
            session.ask.messages.clear();
            session.attached.clear();
            out.write("Cleared session context\n")
        }
        Slash::Set(set) => match session.set(set)? {
            text if text.is_empty() => Ok(()),
            text => out.write(&(text + "\n")),
        },
        Slash::Show(section) => shown(section, session, partner, out),
        Slash::Help(topic) => out.write(&(slash::help(&topic) + "\n")),
        Slash::File(path) => {
            session.attached.push(ask::attachment(&path)?);
            out.write(&format!("Attached {path} to the next prompt.\n"))
        }
        Slash::Undo => match session.undo() {
            Some(_) => out.write("Forgot the last prompt.\n"),
            None => Err(Error::usage("there is no prompt to forget")),
        },
        Slash::Export(path) => {
            let text = session.exported(&path)?;
            fs::write(&path, text).map_err(|error| Error::io("write", &path, error))?;
            out.write(&format!("Wrote {path}.\n"))
        }
        Slash::Bye | Slash::Retry => Ok(()), // The session's own.
    }
}

/// The names that complete `/load`.
pub fn names(config: &Config) -> Vec<String> {
    let listing = super::store(config).list().unwrap_or_default();
    let entries = listing.entries.iter();
    entries.map(|entry| entry.name.to_string()).collect()
}

fn load(
    name: String,
    session: &mut Session,
    partner: &mut Partner,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    out.write(&format!("Loading model '{name}'\n"))?;
    match partner {
        Partner::Here(here) => **here = Here::open(&name, Policy::Session, parsed, config)?,
        Partner::There(client, _) => _ = told(client, &name)?,
    }
    session.ask.model = name;
    session.ask.messages.clear();
    Ok(())
}

/// Makes a model of the session: the same weights with its system text, options and messages.
fn save(name: &str, session: &Session, partner: &Partner, config: &Config) -> Result<()> {
    let target = Name::parse(name)?;
    let ask = &session.ask;
    let here = match partner {
        Partner::Here(here) => here,
        Partner::There(client, _) => {
            let messages = ask.messages.iter().map(native::Message::from);
            let body = serde_json::json!({
                "model": name,
                "from": ask.model,
                "system": ask.system.as_deref().unwrap_or_default(),
                "parameters": to_json(&ask.options),
                "messages": messages.collect::<Vec<_>>(),
            });
            let mut records = client.post::<Json>("/api/create", &body)?;
            return records.try_for_each(|record| record.map(drop));
        }
    };
    let source = match is_path(&ask.model) {
        true => Source::File(PathBuf::from(&ask.model), Take::Copy),
        false => Source::Model(Name::parse(&ask.model)?),
    };
    let said = |message: &Message| (message.role.clone(), message.content.clone());
    let own = here.model().messages.iter();
    let changes = Changes {
        system: ask.system.clone().unwrap_or_default(),
        options: ask.options.clone(),
        messages: own.chain(&ask.messages).map(said).collect(),
        ..Changes::default()
    };
    create::create(
        &super::store(config),
        &target,
        &source,
        &changes,
        &mut |_| {},
    )
}

fn shown(section: &str, session: &Session, partner: &Partner, out: &mut Out) -> Result<()> {
    let ask = &session.ask;
    let mut text = match partner {
        Partner::Here(here) if section == "info" => return show::table(here.model(), out),
        Partner::Here(here) => show::section_text(here.model(), section)?,
        Partner::There(client, _) => {
            let told = told(client, &ask.model)?;
            match section {
                "info" => json_lines(&told["details"]),
                section => told[section].as_str().unwrap_or_default().to_string(),
            }
        }
    };
    if section == "system" {
        text = ask.system.clone().unwrap_or(text);
    }
    let text = text.trim_end();
    if section == "parameters" {
        return out.write(&parameters(text, &parameters_text(&ask.options)));
    }
    match (text, section) {
        ("", "license") => out.write("No license was specified for this model.\n"),
        ("", "system") => out.write("No system message was specified for this model.\n"),
        ("", "template") => out.write("No prompt template was specified for this model.\n"),
        (text, _) => out.write(&format!("{text}\n")),
    }
}

/// The model's options and those of the session.
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

/// What a server tells of a model.
fn told(client: &Client, name: &str) -> Result<Json> {
    let body = serde_json::json!({ "model": name });
    let answer = client.post::<Json>("/api/show", &body)?.next();
    answer.unwrap_or_else(|| Err(Error::failed("the server answers nothing")))
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
