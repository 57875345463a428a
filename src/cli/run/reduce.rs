//! `--overflow=reduce`: answers a text that does not fit piece by piece, and then over those answers.

use std::time::Instant;

use super::answer::Printer;
use super::turn_args::Ask;
use crate::cli::run_limits::Deadline;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Message};
use crate::ops::backend::Backend;
use crate::system::config::Config;

/// An answer to a piece may fill 1/8 of the context, unless the user gives --num-predict, so that two
/// answers and the question fit.
const ANSWER_SHARE: i64 = 8;
/// Lower bound of that limit, in tokens.
const ANSWER_TOKENS_MIN: i64 = 16;
/// A shorter text is not cut further: the question is what does not fit.
const TEXT_CHARS_MIN: usize = 200;

/// The state of a reduction.
struct Reducer<'a> {
    backend: &'a Backend,
    /// The request for each piece, without its prompt.
    ask: Ask,
    deadline: &'a Deadline,
    pieces: usize,
}

/// Answers the question over pieces of the text, and prints the answer over those answers. Returns the
/// number of pieces.
///
/// # Errors
/// `TooLong` if the question alone does not fit; else any error of an answer.
pub fn answer(
    backend: &Backend,
    ask: &Ask,
    config: &Config,
    deadline: &Deadline,
    printer: &mut Printer,
) -> Result<usize> {
    if let Backend::Remote(client) = backend {
        // Only puna says in a way that a program can read that a prompt does not fit.
        client.must_be_puna("--overflow=reduce")?;
    }
    let mut bounded = ask.clone();
    bounded.turn.keep_alive = None;
    if bounded.turn.options.int("num_predict").is_none() {
        let context = ask.turn.options.int("num_ctx");
        let context = context.unwrap_or_else(|| config.context_tokens.into());
        let tokens = (context / ANSWER_SHARE).max(ANSWER_TOKENS_MIN);
        bounded
            .turn
            .options
            .set_text("num_predict", &tokens.to_string())?;
    }
    let mut reducer = Reducer {
        backend,
        ask: bounded,
        deadline,
        pieces: 0,
    };
    let question = ask.question.as_deref().unwrap_or_default();
    let text = ask.prompt.strip_suffix(question).unwrap_or(&ask.prompt);
    let mut text = reducer.condensed(text.trim_end())?;
    loop {
        let mut last = reducer.ask.clone();
        last.prompt = reducer.prompt(&text);
        last.turn.options = ask.turn.options.clone();
        match reducer.generate(&last, &mut |delta| printer.print(delta)) {
            Err(error) if error.class() == Class::TooLong => text = reducer.condensed(&text)?,
            reply => return reply.map(|()| reducer.pieces),
        }
    }
}

impl Reducer<'_> {
    fn prompt(&self, text: &str) -> String {
        let question = self.ask.question.as_deref();
        [Some(text), question]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n\n")
    }

    /// The answers over the two halves of a text.
    fn condensed(&mut self, text: &str) -> Result<String> {
        let Some((first, second)) = halves(text) else {
            let text = "the question alone does not fit the context; see --num-ctx";
            return Err(Error::plain(Class::TooLong, text));
        };
        let answers = [self.over(first)?, self.over(second)?].join("\n\n");
        if answers.len() < text.len() {
            Ok(answers)
        } else {
            Err(Error::plain(
                Class::TooLong,
                "the answers over the pieces are not shorter than the text; see --num-predict",
            ))
        }
    }

    /// The answer over a text, computed over its halves if it does not fit.
    fn over(&mut self, text: &str) -> Result<String> {
        let ask = Ask {
            prompt: self.prompt(text),
            ..self.ask.clone()
        };
        let mut reply = Message::default();
        let answered = self.generate(&ask, &mut |delta| {
            reply.add(&delta);
            Ok(())
        });
        match answered {
            Ok(()) => {
                self.pieces += 1;
                Ok(reply.content.trim().to_string())
            }
            Err(error) if error.class() == Class::TooLong => {
                let shorter = self.condensed(text)?;
                self.over(&shorter)
            }
            Err(error) => Err(error),
        }
    }

    fn generate(&self, ask: &Ask, take: &mut dyn FnMut(Delta) -> Result<()>) -> Result<()> {
        let cancel = self.deadline.flag();
        self.backend
            .start(ask.turn(), &cancel, Instant::now(), &mut |_| {})?
            .try_for_each(|delta| take(delta?))
    }
}

/// Two parts of a text, cut near its middle at the strongest boundary: paragraph, line, sentence or
/// word. `None` if the text is too short.
fn halves(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    if text.chars().count() < TEXT_CHARS_MIN {
        return None;
    }
    // Only boundaries in the middle third count, so that both parts are much shorter than the text.
    let near = |part: usize| {
        let at = text.len() * part / 3;
        (at..)
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(text.len())
    };
    let (from, to) = (near(1), near(2));
    let border = ["\n\n", "\n", ". ", " "].iter().find_map(|border| {
        let found = text[from..to].find(border)?;
        Some(from + found + border.len())
    });
    let (first, second) = text.split_at(border.unwrap_or(to));
    Some((first.trim_end(), second.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_the_strongest_boundary() {
        assert!(halves("short").is_none());
        let words = "word ".repeat(100);
        let (first, second) = halves(&words).unwrap();
        assert!(first.ends_with("word") && second.starts_with("word"));
        let lines = format!("{}\n\n{}", "a. ".repeat(100), "b ".repeat(150));
        let (first, second) = halves(&lines).unwrap();
        assert!(first.ends_with("a.") && second.starts_with("b "));
        let (first, second) = halves(&"ü".repeat(300))
            .map(|(a, b)| (a.len(), b.len()))
            .unwrap();
        assert_eq!(first + second, 600);
    }
}
