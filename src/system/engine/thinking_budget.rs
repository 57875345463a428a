//! The thinking budget: after this many tokens of thinking the closing tag is forced, whatever the model
//! would choose.

use llama_cpp_2::token::LlamaToken;

use super::grammar::{ThinkingTags, find, keep_end};

/// The thinking budget of one job.
#[derive(Debug, Clone)]
pub struct ThinkingBudget {
    /// Tokens of thinking that are left.
    left: usize,
    tags: ThinkingTags,
    /// The tokens of the closing tag.
    closing: Vec<i32>,
    state: State,
    /// The last bytes generated, at most as many as the longer tag has.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only white space and a part of the opening tag have been generated.
    Before,
    Inside,
    /// This many tokens of the closing tag have been emitted.
    Closing(usize),
    Behind,
}

impl ThinkingBudget {
    /// At most `left` tokens between these tags; `closing` is the closing tag as tokens.
    pub fn new(left: usize, tags: ThinkingTags, closing: Vec<i32>) -> Self {
        let state = if tags.open.is_empty() {
            State::Inside
        } else {
            State::Before
        };
        ThinkingBudget {
            left,
            tags,
            closing,
            state,
            tail: Vec::new(),
        }
    }

    /// The token to force next, if thinking has to stop.
    pub(super) fn forced(&self) -> Option<LlamaToken> {
        let at = match self.state {
            State::Inside if self.left == 0 && !self.in_character() => 0,
            State::Closing(at) => at,
            _ => return None,
        };
        self.closing.get(at).map(|id| LlamaToken(*id))
    }

    /// Records the next token by its bytes.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        let forced = self.forced().is_some();
        self.tail.extend_from_slice(bytes);
        self.state = match self.state {
            State::Closing(at) => self.closed(at + 1),
            State::Inside if forced => self.closed(1),
            State::Inside => {
                self.left = self.left.saturating_sub(1);
                match find(&self.tail, self.tags.close.as_bytes()) {
                    Some(_) => State::Behind,
                    None => State::Inside,
                }
            }
            State::Before => self.before(),
            State::Behind => State::Behind,
        };
        let longest = self.tags.open.len().max(self.tags.close.len());
        keep_end(&mut self.tail, longest);
    }

    fn closed(&self, put: usize) -> State {
        if put < self.closing.len() {
            State::Closing(put)
        } else {
            State::Behind
        }
    }

    /// Checks whether thinking starts: the opening tag comes first, after optional white space.
    fn before(&mut self) -> State {
        let generated = self.tail.trim_ascii_start();
        let open = self.tags.open.as_bytes();
        if generated.starts_with(open) {
            self.tail.clear();
            return State::Inside;
        }
        if open.starts_with(generated) {
            State::Before
        } else {
            State::Behind
        }
    }

    /// True if the last UTF-8 character is incomplete.
    fn in_character(&self) -> bool {
        let start = self.tail.len().saturating_sub(3);
        let last = &self.tail[start..];
        let lead = last.iter().rposition(|byte| byte & 0xc0 != 0x80);
        lead.is_some_and(|at| {
            let error = std::str::from_utf8(&last[at..]).err();
            error.is_some_and(|error| error.error_len().is_none())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a model that generates `words`, one token each.
    fn run(left: usize, open: &str, words: &[&[u8]]) -> String {
        let tags = ThinkingTags {
            open: open.into(),
            close: "</think>".into(),
        };
        let mut thinking_budget = ThinkingBudget::new(left, tags, vec![7, 8]);
        let mut generated = Vec::new();
        let mut words = words.iter();
        loop {
            let bytes = match thinking_budget.forced() {
                Some(LlamaToken(7)) => b"</thi",
                Some(_) => &b"nk>"[..],
                None => match words.next() {
                    Some(word) => word,
                    None => return String::from_utf8_lossy(&generated).into_owned(),
                },
            };
            thinking_budget.record(bytes);
            generated.extend_from_slice(bytes);
        }
    }

    #[test]
    fn thinking_ends_when_its_tokens_are_spent() {
        for (left, open, words, generated) in [
            (2, "", &[&b"a"[..], b"b", b"c"][..], "ab</think>c"),
            (0, "", &[b"a"], "</think>a"),
            (9, "", &[b"a", b"b"], "ab"),
            // The model closes it itself, in two tokens.
            (2, "", &[b"</th", b"ink>", b"c"], "</think>c"),
            // The answer opens it, or never does.
            (
                1,
                "<think>",
                &[b" <thi", b"nk>", b"a", b"b"],
                " <think>a</think>b",
            ),
            (1, "<think>", &[b"a", b"b", b"<think>"], "ab<think>"),
            // A character is never split.
            (1, "", &[&[0xc3], &[0xa9], b"b"], "é</think>b"),
        ] {
            assert_eq!(run(left, open, words), generated);
        }
    }
}
