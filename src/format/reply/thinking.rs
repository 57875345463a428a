//! Separates thinking from the answer by the markers around it.

use super::stop::overlap;

/// Whether an answer begins with thinking, as its prompt leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thought {
    /// It does not: the model has no markers for thinking, or the prompt closed it.
    None,
    /// It may begin with thinking.
    Possible,
    /// The prompt opened the thinking.
    Begun,
}

/// Splits a stream at the markers around thinking.
#[derive(Debug)]
pub struct Thinking {
    tags: Option<(String, String)>,
    state: State,
    held: String,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Only white space so far.
    Start,
    /// Only white space so far after the opening marker.
    Opened,
    /// In thinking.
    Inside,
    /// Only white space so far after the closing marker.
    Closed,
    /// In the answer.
    Outside,
}

/// Thinking and answer of one step; either may be empty.
#[derive(Debug, Default, PartialEq)]
pub struct Split {
    /// Thinking.
    pub thinking: String,
    /// Text of the answer.
    pub answer: String,
}

impl Thinking {
    /// A reader for an answer that begins like this. If the prompt closed the thinking, the model may still
    /// close it once more or open it again.
    pub fn new(tags: Option<(String, String)>, thought: Thought) -> Self {
        let state = match (&tags, thought) {
            (None, _) => State::Outside,
            (Some(_), Thought::Begun) => State::Opened,
            (Some(_), _) => State::Start,
        };
        Thinking {
            tags,
            state,
            held: String::new(),
        }
    }

    /// Reads more text.
    pub fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        self.held.push_str(text);
        while self.step(&mut split) {}
        split
    }

    /// Ends the stream: the state decides whether the text held back is thinking or answer.
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

    /// Makes one change of state; false if more text is needed.
    fn step(&mut self, split: &mut Split) -> bool {
        let Some((open, close)) = &self.tags else {
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
            // The prompt of another turn opened the thinking, so its end comes first.
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
            // The prompt opened the thinking, and the model opens it once more.
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
                    // White space before the closing marker belongs to the marker.
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
        let tags = Some(("<think>".to_string(), "</think>".to_string()));
        let mut reader = Thinking::new(tags, thought);
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
    fn thinking_is_separated_at_any_cut() {
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
