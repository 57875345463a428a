//! Headers that tell a client what its request did not get.

use super::shared::Server;
use crate::ops::turn::Turn;

/// Names the fields that had no effect.
const IGNORED: &str = "Puna-Ignored";
/// Tokens of the prompt that were dropped.
const TRUNCATED: &str = "Puna-Truncated-Tokens";
/// Most fields that are named.
const NAMES_MAX: usize = 32;
/// Longest name of a field that is repeated.
const NAME_CHARS_MAX: usize = 80;

/// The header that names the fields of a request that are neither obeyed nor refused; the log names them too.
pub fn ignored(server: &Server, model: &str, names: &[String]) -> Option<(&'static str, String)> {
    let names = names.iter().take(NAMES_MAX);
    let names: Vec<String> = names.map(|name| plain(name)).collect();
    if names.is_empty() {
        return None;
    }
    let names = names.join(", ");
    (server.log)(&format!("{}: ignored {names}", plain(model)));
    Some((IGNORED, names))
}

/// A name without what could end a header or a line.
fn plain(name: &str) -> String {
    let plain = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c));
    plain.take(NAME_CHARS_MAX).collect()
}

/// The header that gives the tokens of the prompt that were dropped to make it fit.
pub fn truncated(turn: &Turn) -> Option<(&'static str, String)> {
    let dropped = turn.usage().truncated_tokens;
    (dropped > 0).then(|| (TRUNCATED, dropped.to_string()))
}
