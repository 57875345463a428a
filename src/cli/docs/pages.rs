//! Manual pages that do not belong to a command: configuration, Modelfile, recipes and the API.
//!
//! They are files under `man/`, written by hand; only the keys of the configuration file come from a table.

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
    for (names, meaning) in config::variables() {
        let ours = names
            .split(", ")
            .filter_map(|name| name.strip_prefix("PUNA_"));
        for key in ours.filter(|key| *key != "CONFIG") {
            let (key, meaning) = (
                super::man::escaped(&key.to_lowercase()),
                super::man::escaped(meaning),
            );
            text += &format!(".TP\n.B {key}\n{meaning}\n");
        }
    }
    text
}

/// A page as text for a terminal or a pipe: headings, paragraphs and indented lines.
pub fn plain(roff: &str) -> String {
    let mut text = String::new();
    let (mut verbatim, mut term, mut indent) = (false, false, 2);
    for line in roff.lines() {
        let (request, rest) = match line.strip_prefix('.') {
            Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
            None => ("", line),
        };
        let words = unescaped(rest);
        match request {
            "SH" | "SS" => {
                indent = 2;
                text += &format!("\n{words}\n");
            }
            "PP" => {
                indent = 2;
                text.push('\n');
            }
            "TP" => term = true,
            "nf" => verbatim = true,
            "fi" => verbatim = false,
            "" if verbatim => text += &format!("      {words}\n"),
            "" | "B" | "BR" | "BI" | "I" if std::mem::take(&mut term) => {
                text += &wrapped(&words, 2);
                indent = 6;
            }
            "" | "B" | "BR" | "BI" | "I" => text += &wrapped(&words, indent),
            _ => {} // .TH, .RS, .RE and comments.
        }
    }
    text.trim_start().to_string()
}

/// A paragraph in lines of at most 80 columns, indented by so many.
fn wrapped(words: &str, indent: usize) -> String {
    let mut lines = vec![" ".repeat(indent - 1)];
    for word in words.split(' ') {
        let last = lines.last_mut().expect("there is a line");
        if last.len() + 1 + word.len() > 80 && last.len() >= indent {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

/// The text of a roff line.
fn unescaped(line: &str) -> String {
    line.replace("\\(aq", "'")
        .replace("\\(ti", "~")
        .replace("\\(ha", "^")
        .replace("\\&", "")
        .replace("\\-", "-")
        .replace("\\e", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

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
