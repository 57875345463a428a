//! Tells thinking from the answer by the marks around it.

use super::stop::overlap;

/// Whether an answer begins with a thought, as its prompt leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thought {
    /// It does not: the model has no marks for one, or the prompt closed it.
    None,
    /// It may.
    Possible,
    /// The prompt opened one.
    Begun,
}

/// Splits a stream at the marks around thinking.
#[derive(Debug)]
pub struct Thinking {
    marks: Option<(String, String)>,
    state: State,
    held: String,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Nothing but white space came.
    Start,
    /// Behind the opening mark, nothing but white space came.
    Opened,
    /// In thinking.
    Inside,
    /// Behind the closing mark, nothing but white space came.
    Closed,
    /// In the answer.
    Outside,
}

/// Thinking and answer of one step; either may be empty.
#[derive(Debug, Default, PartialEq)]
pub struct Split {
    /// Thinking.
    pub thinking: String,
    /// Text behind it.
    pub answer: String,
}

impl Thinking {
    /// A reader for an answer that begins with such a thought. One that the prompt closed may
    /// still be closed once more, or opened again.
    pub fn new(marks: Option<(String, String)>, thought: Thought) -> Self {
        let state = match (&marks, thought) {
            (None, _) => State::Outside,
            (Some(_), Thought::Begun) => State::Opened,
            (Some(_), _) => State::Start,
        };
        Thinking {
            marks,
            state,
            held: String::new(),
        }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        self.held.push_str(text);
        while self.step(&mut split) {}
        split
    }

    /// The end: what was held back is what it looks like.
    pub fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Opened | State::Closed => Split::default(),
            State::Inside => Split {
                thinking: held.trim_end().to_string(),
                answer: String::new(),
            },
            State::Start | State::Outside => Split {
                thinking: String::new(),
                answer: held,
            },
        }
    }

    /// One change of state; false if more text is needed.
    fn step(&mut self, split: &mut Split) -> bool {
        let Some((open, close)) = &self.marks else {
            split.answer.push_str(&std::mem::take(&mut self.held));
            return false;
        };
        let trimmed = self.held.trim_start();
        match self.state {
            State::Start if trimmed.starts_with(open.as_str()) => {
                self.held = trimmed[open.len()..].to_string();
                self.state = State::Opened;
                true
            }
            // The prompt of another turn opened it: what comes first is its end.
            State::Start if trimmed.starts_with(close.as_str()) => {
                self.held = trimmed[close.len()..].to_string();
                self.state = State::Closed;
                true
            }
            State::Start if open.starts_with(trimmed) || close.starts_with(trimmed) => false,
            State::Start => {
                self.state = State::Outside;
                true
            }
            State::Opened | State::Closed if trimmed.is_empty() => {
                self.held.clear();
                false
            }
            // The prompt opened the mark, and the model opens it once more.
            State::Opened if trimmed.starts_with(open.as_str()) => {
                self.held = trimmed[open.len()..].to_string();
                true
            }
            State::Opened if open.starts_with(trimmed) => false,
            State::Opened | State::Closed => {
                self.held = trimmed.to_string();
                self.state = if self.state == State::Opened {
                    State::Inside
                } else {
                    State::Outside
                };
                true
            }
            State::Inside => match self.held.find(close.as_str()) {
                Some(at) => {
                    split.thinking.push_str(self.held[..at].trim_end());
                    self.held = self.held[at + close.len()..].to_string();
                    self.state = State::Closed;
                    true
                }
                None => {
                    // White space before the closing mark belongs to it.
                    let sure = self.held.len() - overlap(&self.held, close);
                    let sure = self.held[..sure].trim_end().len();
                    let rest = self.held.split_off(sure);
                    split
                        .thinking
                        .push_str(&std::mem::replace(&mut self.held, rest));
                    false
                }
            },
            State::Outside => {
                split.answer.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(thought: Thought, text: &str, at: usize) -> (String, String) {
        let marks = Some(("<think>".to_string(), "</think>".to_string()));
        let mut reader = Thinking::new(marks, thought);
        let mut whole = Split::default();
        for part in [
            reader.push(&text[..at]),
            reader.push(&text[at..]),
            reader.finish(),
        ] {
            whole.thinking += &part.thinking;
            whole.answer += &part.answer;
        }
        (whole.thinking, whole.answer)
    }

    #[test]
    fn thinking_is_told_apart_however_it_is_cut() {
        for (thought, text, thinking, answer) in [
            (
                Thought::Possible,
                "<think>\n a b \n</think>\n\n c <think>",
                "a b",
                "c <think>",
            ),
            (Thought::Begun, "a</thin b</think>c", "a</thin b", "c"),
            (Thought::Begun, "<think>\na</think>c", "a", "c"),
            (Thought::None, " c", "", " c"),
            (Thought::Possible, " <thin", "", " <thin"),
            (Thought::Possible, "\n</think>\nc", "", "c"),
            (Thought::Possible, "\n c", "", "\n c"),
            (Thought::Begun, "a", "a", ""),
            (Thought::Begun, "\n</think>\n", "", ""),
        ] {
            for (at, _) in text.char_indices() {
                assert_eq!(
                    split(thought, text, at),
                    (thinking.into(), answer.into()),
                    "{text:?} at {at}"
                );
            }
        }
    }
}
