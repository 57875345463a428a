//! `puna config`: the settings in force and where each came from.

use super::context::Context;
use super::flag::JSON;
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::core::name;
use crate::ops::prefix_cache;
use crate::system::config::Setting;
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
    let mut settings = config.settings();
    for setting in settings
        .iter_mut()
        .filter(|setting| setting.value == "auto")
    {
        // What depends on the model stays so.
        match setting.key {
            "num_threads" => setting.value = machine::cores().to_string(),
            "cache_max" => {
                let cache = prefix_cache::cache(config);
                let most = cache.map(|cache| prefix_cache::bytes_max(config, &cache));
                setting.value = most.map_or("auto".to_string(), |bytes| bytes.to_string());
            }
            _ => {}
        }
    }
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
            if !parsed.has(&JSON) {
                return out.write(&format!("{}\n", setting.value));
            }
            vec![setting.clone()]
        }
    };
    if parsed.has(&JSON) {
        let json = |setting: &Setting| serde_json::json!({ "key": setting.key, "value": setting.value, "origin": setting.origin });
        return out.json(&wanted.iter().map(json).collect::<Vec<_>>());
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
