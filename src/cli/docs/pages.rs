//! Manual pages that do not belong to a command: configuration, Modelfile, recipes and the API.
//!
//! They are files under `man/`, written by hand; only the keys of the configuration file come from a table.

use super::roff::{escaped, lines, unescaped};
use crate::system::config;

/// A manual page.
pub struct Page {
    /// Its name with its section, such as `config.5`.
    pub name: &'static str,
    source: &'static str,
}

/// All pages that do not belong to a command.
pub const PAGES: &[Page] = &[
    Page {
        name: "config.5",
        source: include_str!("../../../man/puna-config.5"),
    },
    Page {
        name: "modelfile.5",
        source: include_str!("../../../man/puna-modelfile.5"),
    },
    Page {
        name: "scripting.7",
        source: include_str!("../../../man/puna-scripting.7"),
    },
    Page {
        name: "api.7",
        source: include_str!("../../../man/puna-api.7"),
    },
];

/// The lines between which the keys of the configuration file stand.
const KEYS: (&str, &str) = (".\\\" keys\n", ".\\\" end of keys\n");

/// The page with this name, with or without its section.
pub fn find(name: &str) -> Option<&'static Page> {
    let bare = |page: &Page| page.name.split('.').next() == Some(name);
    PAGES.iter().find(|page| page.name == name || bare(page))
}

impl Page {
    /// Its subject in a few words, from the NAME section.
    pub fn summary(&self) -> String {
        let names = self.source.split(".SH NAME\n").nth(1);
        let line = names
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let summary = line
            .split_once(" \\- ")
            .map_or(line, |(_, summary)| summary);
        unescaped(summary)
    }

    /// Its roff, with the keys of the table.
    pub fn roff(&self) -> String {
        let split = self.source.split_once(KEYS.0);
        let Some((before, (_, after))) =
            split.and_then(|(before, rest)| Some((before, rest.split_once(KEYS.1)?)))
        else {
            return self.source.to_string();
        };
        format!("{before}{}{}{}{after}", KEYS.0, keys(), KEYS.1)
    }
}

/// The keys of the configuration file: our variables without their prefix `PUNA_`.
fn keys() -> String {
    let mut text = String::new();
    for (names, meaning, _) in config::variables() {
        let ours = names
            .split(", ")
            .filter_map(|name| name.strip_prefix("PUNA_"));
        for key in ours.filter(|key| *key != "CONFIG") {
            let (key, meaning) = (escaped(&key.to_lowercase()), lines(meaning));
            text += &format!(".TP\n.B {key}\n{meaning}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::docs::roff::plain;

    #[test]
    fn pages_name_this_version() {
        for page in PAGES {
            let version = format!("\"puna {}\"", env!("CARGO_PKG_VERSION"));
            assert!(
                page.source.starts_with(".TH ") && page.source.contains(&version),
                "{}",
                page.name
            );
            assert!(!page.summary().is_empty(), "{}", page.name);
        }
    }

    #[test]
    fn a_page_is_plain_text_of_eighty_columns() {
        let text = plain(&find("config").unwrap().roff());
        assert!(
            text.starts_with("NAME\n") && text.contains("\nKEYS\n"),
            "{text}"
        );
        for page in PAGES {
            for line in plain(&page.roff())
                .lines()
                .filter(|line| !line.starts_with("      "))
            {
                assert!(line.chars().count() <= 80, "{line}");
                assert!(!line.contains("\\-") && !line.contains("\\("), "{line}");
            }
        }
    }
}
