//! `--overflow=reduce`: answers a text that does not fit piece by piece, and then over those answers.

use std::io::Read;
use std::time::Instant;

use super::answer::Printer;
use super::turn_args::Ask;
use crate::cli::deadline::Deadline;
use crate::cli::out::{Out, counted};
use crate::core::clock::words;
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Message};
use crate::ops::backend::Backend;
use crate::system::cache_dir::Cache;
use crate::system::config::Config;

/// An answer to a piece may fill 1/8 of the context, unless the user gives --num-predict, so that two
/// answers and the question fit.
const ANSWER_SHARE: i64 = 8;
/// Lower bound of that limit, in tokens.
const ANSWER_TOKENS_MIN: i64 = 16;
/// A shorter text is not cut further: the question is what does not fit.
const TEXT_CHARS_MIN: usize = 200;

/// The folder of the cache in which the answers over pieces stay until the last one is there, so that a run that was
/// killed goes on.
const FOLDER: &str = "reduced";
/// A longer answer over a piece is not read back.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The state of a reduction.
struct Reducer<'a> {
    backend: &'a Backend,
    /// The request for each piece, without its prompt.
    ask: Ask,
    deadline: &'a Deadline,
    pieces: usize,
    /// About how many pieces there are, if that is known.
    expected: Option<usize>,
    started: Instant,
    /// Where answers over pieces stay; `None`: nowhere.
    kept: Option<Cache>,
    /// Their names there.
    names: Vec<String>,
    /// Answers that an earlier run left there, until that is told.
    resumed: usize,
}

/// Notes that an answer was made over pieces of its prompt.
pub fn note_pieces(pieces: usize, out: &Out) {
    out.note(&format!(
        "the prompt does not fit: answered over {pieces} pieces, then over their answers"
    ));
}

/// Answers the question over pieces of the text, and prints the answer over those answers. Returns the
/// number of pieces. `lengths` are the tokens of the prompt and of the context, if they are known.
///
/// # Errors
/// `TooLong` if the question alone does not fit; else any error of an answer.
pub fn answer(
    backend: &Backend,
    ask: &Ask,
    (config, lengths): (&Config, Option<(usize, usize)>),
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
        expected: lengths.map(|(prompt, context)| pieces(prompt, context)),
        started: Instant::now(),
        kept: config
            .cache()
            .ok()
            .filter(|_| config.cache_max != Some(0))
            .map(|root| Cache::new(root, FOLDER)),
        names: Vec::new(),
        resumed: 0,
    };
    if let (Some((prompt, _)), Some(count)) = (lengths, reducer.expected) {
        printer.out.note(&format!(
            "the prompt of {prompt} tokens does not fit: it is answered over about {count} pieces first"
        ));
    }
    let question = ask.question.as_deref().unwrap_or_default();
    let text = ask.prompt.strip_suffix(question).unwrap_or(&ask.prompt);
    let mut text = reducer.condensed(text.trim_end(), printer.out)?;
    loop {
        let mut last = reducer.ask.clone();
        last.prompt = reducer.prompt(&text);
        last.turn.options = ask.turn.options.clone();
        match reducer.generate(&last, &mut |delta| printer.print(delta)) {
            Err(error) if error.class() == Class::TooLong => {
                text = reducer.condensed(&text, printer.out)?;
            }
            reply => {
                reply?;
                reducer.forget();
                return Ok(reducer.pieces);
            }
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
    fn condensed(&mut self, text: &str, out: &Out) -> Result<String> {
        let Some((first, second)) = halves(text) else {
            let text = "the question alone does not fit the context; see --num-ctx";
            return Err(Error::plain(Class::TooLong, text));
        };
        let answers = [self.over(first, out)?, self.over(second, out)?].join("\n\n");
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
    fn over(&mut self, text: &str, out: &Out) -> Result<String> {
        let ask = Ask {
            prompt: self.prompt(text),
            ..self.ask.clone()
        };
        let name = name(&ask);
        if let Some(answer) = self.kept_answer(&name) {
            self.names.push(name);
            self.pieces += 1;
            self.resumed += 1;
            return Ok(answer);
        }
        let mut reply = Message::default();
        let answered = self.generate(&ask, &mut |delta| {
            reply.add(&delta);
            Ok(())
        });
        match answered {
            Ok(()) => {
                self.pieces += 1;
                let answer = reply.content.trim().to_string();
                self.keep(name, &answer);
                self.tell(out);
                Ok(answer)
            }
            Err(error) if error.class() == Class::TooLong => {
                let shorter = self.condensed(text, out)?;
                self.over(&shorter, out)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells what an earlier run has left, and after the first piece how long the others will take.
    fn tell(&mut self, out: &Out) {
        if self.resumed > 0 {
            let pieces = counted(self.resumed, "piece");
            out.note(&format!("{pieces} answered by an earlier run"));
            self.resumed = 0;
        }
        let left = self.expected.unwrap_or(0).saturating_sub(self.pieces);
        if self.pieces == 1 && left > 0 {
            let time = self.started.elapsed() * u32::try_from(left).unwrap_or(u32::MAX);
            out.note(&format!("the other pieces will take about {}", words(time)));
        }
    }

    fn kept_answer(&self, name: &str) -> Option<String> {
        let file = self.kept.as_ref()?.open(name, true)?;
        let mut text = String::new();
        file.take(ANSWER_BYTES_MAX).read_to_string(&mut text).ok()?;
        // A file that a crash of the machine has cut has no end.
        text.strip_suffix(END).map(str::to_string)
    }

    fn keep(&mut self, name: String, answer: &str) {
        if let Some(kept) = &self.kept {
            // Without it only a resumed run takes longer.
            let _ = kept.put(&name, &[answer.as_bytes(), END.as_bytes()]);
            self.names.push(name);
        }
    }

    /// Removes the answers over pieces, which belong to this run only.
    fn forget(&self) {
        let kept = self.kept.iter();
        kept.for_each(|kept| self.names.iter().for_each(|name| kept.remove(name)));
    }

    fn generate(&self, ask: &Ask, take: &mut dyn FnMut(Delta) -> Result<()>) -> Result<()> {
        let cancel = self.deadline.flag();
        self.backend
            .start(ask.turn(), &cancel, Instant::now(), &mut |_| {})?
            .try_for_each(|delta| take(delta?))
    }
}

/// The last character of a file with an answer.
const END: &str = "\0";

/// The name of the answer over a piece: everything that it depends on.
fn name(ask: &Ask) -> String {
    let all = format!("{:?}\0{:?}\0{}", ask.turn, ask.conversation(), ask.raw);
    Digest::compute(all.as_bytes()).hex()
}

/// About how many pieces a prompt is cut into by halves; a piece shares its context with the question and the answer.
fn pieces(prompt: usize, context: usize) -> usize {
    let mut count: usize = 2;
    while prompt / count >= context * 3 / 4 && count < prompt {
        count *= 2;
    }
    count
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
