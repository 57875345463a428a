//! The special tokens of a vocabulary: their texts, their ids, and where they occur in other texts.

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::{Error, Result};

/// Special tokens, and the automaton that finds them in one pass.
#[derive(Debug)]
pub struct Specials {
    tokens: Vec<(String, i32)>,
    finder: AhoCorasick,
}

/// A piece of a text that was cut at its special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text without special tokens.
    Plain(&'a str),
    /// The text of a special token, and its id.
    Special(&'a str, i32),
}

impl Specials {
    /// Builds the automaton from texts and ids.
    ///
    /// # Errors
    /// If they are too many for an automaton of 2^31 states.
    pub fn new(tokens: impl IntoIterator<Item = (String, i32)>) -> Result<Self> {
        let tokens: Vec<(String, i32)> = tokens.into_iter().collect();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _)| text))
            .map_err(|error| Error::failed(format!("the special tokens: {error}")))?;
        Ok(Specials { tokens, finder })
    }

    /// True if a text contains one of them.
    pub fn are_in(&self, text: &str) -> bool {
        self.finder.is_match(text)
    }

    /// Cuts a text: where several tokens start at one place, the longest counts. No piece is empty.
    pub fn cut<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Piece<'a>> {
        let mut found = self.finder.find_iter(text);
        let mut rest = Some(0);
        let pairs = std::iter::from_fn(move || {
            let start = rest?;
            let next = found.next();
            rest = next.map(|found| found.end());
            let plain = &text[start..next.map_or(text.len(), |found| found.start())];
            let special = next.map(|found| {
                let (_, id) = self.tokens[found.pattern().as_usize()];
                Piece::Special(&text[found.range()], id)
            });
            Some((Piece::Plain(plain), special))
        });
        let pieces = pairs.flat_map(|(plain, special)| [Some(plain), special]);
        pieces.flatten().filter(|piece| *piece != Piece::Plain(""))
    }

    /// The id of the token with exactly this text.
    pub fn id(&self, text: &str) -> Option<i32> {
        let found = self.tokens.iter().find(|(special, _)| special == text);
        found.map(|(_, id)| *id)
    }

    /// Ids of the tokens whose text occurs in one of these, overlapping ones too; sorted.
    pub fn within(&self, texts: &[&str]) -> Vec<i32> {
        let stands = |special: &str| texts.iter().any(|text| text.contains(special));
        let within = self.tokens.iter().filter(|(special, _)| stands(special));
        let mut ids: Vec<i32> = within.map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_the_longest_tokens() {
        let tokens = [("<|end|>", 1), ("<|end", 2), ("<s>", 3)];
        let specials = Specials::new(tokens.map(|(text, id)| (text.into(), id))).unwrap();
        let cut: Vec<Piece> = specials.cut("<s>a<|end|>é<|end<").collect();
        assert_eq!(
            cut,
            [
                Piece::Special("<s>", 3),
                Piece::Plain("a"),
                Piece::Special("<|end|>", 1),
                Piece::Plain("é"),
                Piece::Special("<|end", 2),
                Piece::Plain("<"),
            ]
        );
        assert!(specials.cut("").next().is_none() && !specials.are_in("<|en"));
        assert_eq!(specials.within(&["x<|end|>"]), [1, 2]);
        assert_eq!(specials.id("<|end"), Some(2));
    }

    #[test]
    fn no_tokens_are_found_nowhere() {
        let none = Specials::new([]).unwrap();
        assert!(!none.are_in("<s>"));
        assert_eq!(none.cut("<s>").collect::<Vec<_>>(), [Piece::Plain("<s>")]);
    }
}
