//! Word wrap at a terminal's right edge, for an answer that arrives in pieces.
//!
//! Pure. Nothing is erased or printed twice: a word is buffered until it is complete. A line may break
//! before or after a character of two columns, which is never split.

use unicode_width::UnicodeWidthChar;

/// Columns between tab stops.
const TAB: usize = 8;

/// The column of the cursor, and the buffered word.
#[derive(Debug, Default)]
pub struct Wrap {
    column: usize,
    /// A word has filled the row; the terminal begins the next one by itself.
    is_full: bool,
    /// Blanks before the word; they are dropped if the word goes to the next line.
    blanks: String,
    blank_columns: usize,
    word: String,
    word_columns: usize,
}

impl Wrap {
    /// Adds text; returns what to print on a terminal of this width.
    pub fn push(&mut self, text: &str, columns: usize) -> String {
        let mut printed = String::new();
        for c in text.chars() {
            match c {
                '\n' => {
                    self.end_word(columns, &mut printed);
                    printed.push('\n');
                    self.column = 0;
                    self.is_full = false;
                }
                ' ' | '\t' => {
                    if !self.word.is_empty() {
                        self.end_word(columns, &mut printed);
                    }
                    self.blanks.push(c);
                    let column = self.column + self.blank_columns;
                    self.blank_columns += if c == '\t' { TAB - column % TAB } else { 1 };
                }
                c => {
                    let is_wide = c.width() == Some(2);
                    if (is_wide && !self.word.is_empty()) || self.word_columns >= columns {
                        self.end_word(columns, &mut printed);
                    }
                    self.word.push(c);
                    self.word_columns += c.width().unwrap_or(0);
                    if is_wide {
                        self.end_word(columns, &mut printed);
                    }
                }
            }
        }
        printed
    }

    /// Returns the buffered word at the end of the answer.
    pub fn finish(&mut self, columns: usize) -> String {
        let mut printed = String::new();
        self.end_word(columns, &mut printed);
        printed
    }

    /// Prints the buffered word, on a new line if it does not fit on the current one.
    fn end_word(&mut self, columns: usize, printed: &mut String) {
        let needed = self.blank_columns + self.word_columns;
        if self.column > 0 && self.column + needed > columns {
            // Blanks alone are dropped at the edge.
            if self.word_columns > 0 {
                printed.push('\n');
                self.column = 0;
            }
        } else if !self.is_full {
            printed.push_str(&self.blanks);
            self.column += self.blank_columns;
        }
        printed.push_str(&self.word);
        self.column += self.word_columns;
        self.is_full &= self.word_columns == 0;
        if self.column >= columns {
            self.column = 0;
            self.is_full = true;
        }
        self.blanks.clear();
        self.blank_columns = 0;
        self.word.clear();
        self.word_columns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wraps the text at once and character by character, and checks that both give the same.
    fn wrapped(text: &str, columns: usize) -> String {
        let mut whole = Wrap::default();
        let printed = whole.push(text, columns) + &whole.finish(columns);
        let mut cut = Wrap::default();
        let mut pieces = String::new();
        for c in text.chars() {
            pieces += &cut.push(&c.to_string(), columns);
        }
        pieces += &cut.finish(columns);
        assert_eq!(pieces, printed);
        printed
    }

    #[test]
    fn lines_break_between_words() {
        for (text, broken) in [
            ("one two three", "one two\nthree"),
            ("one two thr", "one two\nthr"),
            ("abcdefghij", "abcdefghij"),
            ("ab cdefghijkl m", "ab\ncdefghijkl m"),
            ("a\n\nb", "a\n\nb"),
            ("12345 78 0", "12345 78\n0"),
            ("  two blanks", "  two\nblanks"),
            ("12345 789 abc def", "12345 789abc def"),
            ("12345 789  \nabc", "12345 789\nabc"),
            ("12345 789\n abc", "12345 789\n abc"),
        ] {
            assert_eq!(wrapped(text, 9), broken, "{text:?}");
        }
    }

    #[test]
    fn wide_characters_are_never_split() {
        assert_eq!(wrapped("草原草原草原", 9), "草原草原\n草原");
        assert_eq!(wrapped("a草原草原草", 9), "a草原草原草");
    }

    #[test]
    fn nothing_is_lost_or_repeated() {
        let text = "The quick brown fox https://example.org/a/very/long/path/that/never/ends jumps";
        for columns in 1..100 {
            let without_breaks = |text: &str| text.replace([' ', '\n'], "");
            assert_eq!(
                without_breaks(&wrapped(text, columns)),
                without_breaks(text),
                "{columns}"
            );
        }
    }
}
