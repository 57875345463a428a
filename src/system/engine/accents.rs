//! Accent stripping for models with a WordPiece vocabulary, which were trained on text without accents.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Strips nonspacing marks (Unicode category Mn) from a text, as BERT's normaliser does. llama.cpp would
/// also strip spacing marks, which are the vowels of Devanagari.
pub fn unaccented(text: &str) -> String {
    let is_mark = |c: &char| c.general_category() == GeneralCategory::NonspacingMark;
    text.nfd().filter(|c| !is_mark(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vowels_that_take_space_stay() {
        assert_eq!(unaccented("Ångström"), "Angstrom");
        assert_eq!(unaccented("हिन्दी"), "हिनदी");
    }
}
