//! A bound on thinking: behind so many tokens of it comes the mark that ends it, whatever the model
//! would say.

use llama_cpp_2::token::LlamaToken;

use super::grammar::{Marks, find, keep_end};

/// The bound of one job.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Tokens of thinking that are left.
    left: usize,
    marks: Marks,
    /// The tokens of the mark that closes it.
    closing: Vec<i32>,
    state: State,
    /// The end of what came, as long as a mark may be.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No more came than may be the beginning of the opening mark.
    Before,
    Inside,
    /// So many tokens of the closing mark were put.
    Closing(usize),
    Behind,
}

impl Budget {
    /// At most `left` tokens between these marks; `closing` are the tokens of the second one.
    pub fn new(left: usize, marks: Marks, closing: Vec<i32>) -> Self {
        let state = match marks.open.is_empty() {
            true => State::Inside,
            false => State::Before,
        };
        Budget {
            left,
            marks,
            closing,
            state,
            tail: Vec::new(),
        }
    }

    /// The token that must come next, if thinking has to end.
    pub(super) fn forced(&self) -> Option<LlamaToken> {
        let at = match self.state {
            State::Inside if self.left == 0 && !self.in_character() => 0,
            State::Closing(at) => at,
            _ => return None,
        };
        self.closing.get(at).map(|id| LlamaToken(*id))
    }

    /// Notes the token that came next, by its bytes.
    pub(super) fn took(&mut self, bytes: &[u8]) {
        let forced = self.forced().is_some();
        self.tail.extend_from_slice(bytes);
        self.state = match self.state {
            State::Closing(at) => self.closed(at + 1),
            State::Inside if forced => self.closed(1),
            State::Inside => {
                self.left = self.left.saturating_sub(1);
                match find(&self.tail, self.marks.close.as_bytes()) {
                    Some(_) => State::Behind,
                    None => State::Inside,
                }
            }
            State::Before => self.before(),
            State::Behind => State::Behind,
        };
        let longest = self.marks.open.len().max(self.marks.close.len());
        keep_end(&mut self.tail, longest);
    }

    fn closed(&self, put: usize) -> State {
        match put < self.closing.len() {
            true => State::Closing(put),
            false => State::Behind,
        }
    }

    /// Whether thinking begins: the opening mark stands first, but for white space.
    fn before(&mut self) -> State {
        let said = self.tail.trim_ascii_start();
        let open = self.marks.open.as_bytes();
        if said.starts_with(open) {
            self.tail.clear();
            return State::Inside;
        }
        match open.starts_with(said) {
            true => State::Before,
            false => State::Behind,
        }
    }

    /// True if the last character is not whole.
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

    /// What comes of a model that says `words`, a token each.
    fn run(left: usize, open: &str, words: &[&[u8]]) -> String {
        let marks = Marks {
            open: open.into(),
            close: "</think>".into(),
        };
        let mut budget = Budget::new(left, marks, vec![7, 8]);
        let mut said = Vec::new();
        let mut words = words.iter();
        loop {
            let bytes = match budget.forced() {
                Some(LlamaToken(7)) => b"</thi",
                Some(_) => &b"nk>"[..],
                None => match words.next() {
                    Some(word) => word,
                    None => return String::from_utf8_lossy(&said).into_owned(),
                },
            };
            budget.took(bytes);
            said.extend_from_slice(bytes);
        }
    }

    #[test]
    fn thinking_ends_when_its_tokens_are_spent() {
        for (left, open, words, said) in [
            (2, "", &[&b"a"[..], b"b", b"c"][..], "ab</think>c"),
            (0, "", &[b"a"], "</think>a"),
            (9, "", &[b"a", b"b"], "ab"),
            // It ended by itself, in two tokens.
            (2, "", &[b"</th", b"ink>", b"c"], "</think>c"),
            // It was opened by the answer, or never.
            (
                1,
                "<think>",
                &[b" <thi", b"nk>", b"a", b"b"],
                " <think>a</think>b",
            ),
            (1, "<think>", &[b"a", b"b", b"<think>"], "ab<think>"),
            // No character is cut.
            (1, "", &[&[0xc3], &[0xa9], b"b"], "é</think>b"),
        ] {
            assert_eq!(run(left, open, words), said);
        }
    }
}
