//! `puna config`: the settings in force and where each came from.

use super::context::Context;
use super::flag::JSON;
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::core::name;
use crate::ops::prefix_cache;
use crate::system::config::{Config, Setting};
use crate::system::machine;

pub const COMMAND: Command = Command {
    name: "config",
    summary: "print the settings in force and where each came from",
    operands: "[KEY]",
    arity: (0, 1),
    flags: &[JSON],
    about: &[
        "Prints each setting: its key, a tab, its value, a tab, and its origin, which is an environment variable, a \
         line of the configuration file, or default. With KEY only the value of that setting is printed. See \
         puna-config(5) for the file.",
    ],
    examples: &[
        ("puna config", "list all settings and their origins"),
        (
            "du -sh \"$(puna config models)\"",
            "use a setting in a script",
        ),
    ],
    run,
    section: Section::Machine,
    completes: (Completes::Keys, Completes::Nothing),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let settings = config.settings();
    let wanted = match parsed.operands.first() {
        None => settings,
        Some(key) => {
            let Some(setting) = settings.iter().find(|setting| setting.key == key) else {
                let keys = settings.iter().map(|setting| setting.key);
                let near = name::nearest(key, keys);
                let near = near.first().map(|near| format!(": is it {near}?"));
                let near = near.unwrap_or_default();
                return Err(Error::usage(format!("no setting is called '{key}'{near}")));
            };
            vec![setting.clone()]
        }
    };
    let wanted: Vec<Setting> = wanted
        .into_iter()
        .map(|setting| decided(setting, config))
        .collect();
    if parsed.has(&JSON) {
        let json = |setting: &Setting| serde_json::json!({ "key": setting.key, "value": setting.value, "origin": setting.origin });
        return out.json(&wanted.iter().map(json).collect::<Vec<_>>());
    }
    if !parsed.operands.is_empty() {
        let values = wanted.iter().map(|setting| format!("{}\n", setting.value));
        return out.write(&values.collect::<String>());
    }
    let row = |setting: &Setting| {
        vec![
            setting.key.to_string(),
            setting.value.clone(),
            setting.origin.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = wanted.iter().map(row).collect();
    if out.output_is_terminal {
        out.table(&["KEY", "VALUE", "ORIGIN"], &rows)?;
        match &config.file {
            Some(file) if file.exists() => Ok(()),
            Some(file) => {
                out.note(&format!("{} would be read if it existed", file.display()));
                Ok(())
            }
            None => Ok(()),
        }
    } else {
        out.records(&rows)
    }
}

/// A setting with the value that this machine decides where it is `auto`; what depends on the model stays so.
fn decided(mut setting: Setting, config: &Config) -> Setting {
    let value = match setting.key {
        _ if setting.value != "auto" => None,
        "num_threads" => Some(machine::cores().to_string()),
        "cache_max" => {
            let cache = prefix_cache::cache(config);
            let most = cache.map(|cache| prefix_cache::bytes_max(config, &cache));
            most.ok().map(|bytes| bytes.to_string())
        }
        _ => None,
    };
    setting.value = value.unwrap_or(setting.value);
    setting
}
