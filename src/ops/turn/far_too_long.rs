//! Texts that are far too long for the context are cut before they are rendered and tokenised, so that a prompt of 50 MB
//! is refused or cut as quickly as one that is only a little too long.

use std::borrow::Cow;

use crate::core::turn::{Input, Part};
use crate::system::engine::Engine;

/// A text with more bytes for each token of the context is cut. A token has 3 to 5 bytes in most texts.
const BYTES_A_TOKEN: usize = 16;
/// The first try keeps so many bytes for each token of the context.
const BYTES_KEPT: usize = 8;

/// An input whose texts were cut to what still has more tokens than the context.
pub struct Reached<'a> {
    /// The input.
    pub input: Cow<'a, Input>,
    /// About how many tokens were cut off.
    pub tokens: usize,
}

/// Cuts the texts of an input that are far longer than `limit` tokens, and keeps this part of them.
pub fn reached<'a>(engine: &Engine, input: &'a Input, part: Part, limit: usize) -> Reached<'a> {
    let is_far = |text: &str| text.len() / BYTES_A_TOKEN > limit;
    let any = match input {
        Input::Raw(text) => is_far(text),
        Input::Insert(before, after) => is_far(before) || is_far(after),
        Input::Chat(messages) => messages.iter().any(|message| is_far(&message.content)),
    };
    if !any {
        return Reached {
            input: Cow::Borrowed(input),
            tokens: 0,
        };
    }
    let mut tokens = 0;
    let mut take = |text: &str| match cut(engine, text, part, limit) {
        Some((text, dropped)) => {
            tokens += dropped;
            text
        }
        None => text.to_string(),
    };
    let input = match input {
        Input::Raw(text) => Input::Raw(take(text)),
        Input::Insert(before, after) => Input::Insert(take(before), take(after)),
        Input::Chat(messages) => {
            let messages = messages.iter();
            let cut = messages.map(|message| message.with_content(take(&message.content)));
            Input::Chat(cut.collect())
        }
    };
    Reached {
        input: Cow::Owned(input),
        tokens,
    }
}

/// The part of a text that is far too long, and about how many tokens the rest has. Each end that is kept has more than
/// `limit` tokens.
pub fn cut(engine: &Engine, text: &str, part: Part, limit: usize) -> Option<(String, usize)> {
    if text.len() / BYTES_A_TOKEN <= limit {
        return None;
    }
    let mut bytes = limit.max(1) * BYTES_KEPT;
    loop {
        let (head, tail) = match part {
            Part::Head => (head(text, bytes), ""),
            Part::Tail => ("", tail(text, bytes)),
            Part::Ends => (head(text, bytes), tail(text, bytes)),
        };
        let kept = head.len() + tail.len();
        if kept >= text.len() {
            return None;
        }
        let count = |end: &str| engine.tokens(end, false, false).len();
        let (first, last) = (count(head), count(tail));
        if [(head, first), (tail, last)]
            .iter()
            .all(|(end, tokens)| end.is_empty() || *tokens > limit)
        {
            let rest = (text.len() - kept) as f64;
            let tokens = rest * (first + last) as f64 / kept as f64;
            return Some(([head, tail].concat(), tokens as usize));
        }
        bytes *= 2;
    }
}

/// The first bytes of a text, up to a blank if there is one.
fn head(text: &str, bytes: usize) -> &str {
    let mut ends = (0..=bytes.min(text.len())).rev();
    let end = ends.find(|at| text.is_char_boundary(*at));
    let head = &text[..end.unwrap_or(0)];
    let blank = head.rfind(char::is_whitespace);
    &head[..blank.filter(|at| *at > bytes / 2).unwrap_or(head.len())]
}

/// The last bytes of a text, from a blank on if there is one.
fn tail(text: &str, bytes: usize) -> &str {
    let mut starts = text.len().saturating_sub(bytes)..text.len();
    let start = starts.find(|at| text.is_char_boundary(*at));
    let tail = &text[start.unwrap_or(text.len())..];
    let blank = tail.find(char::is_whitespace);
    &tail[blank.filter(|at| *at < bytes / 2).unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_whole_words() {
        let text = "one two thrée four five";
        assert_eq!(head(text, 12), "one two");
        assert_eq!(tail(text, 8), " five");
        assert_eq!((head("éé", 3), tail("éé", 3)), ("é", "é"));
        assert_eq!((head("ab", 9), tail("ab", 9)), ("ab", "ab"));
    }
}
