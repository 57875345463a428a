//! Texts as models with a WordPiece vocabulary were taught them: without accents.

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;

/// A text without the marks that take no space of their own (Unicode's Mn), as BERT's normaliser
/// leaves it. llama.cpp would drop the marks that do take space too, which are the vowels of
/// Devanagari.
pub fn unaccented(text: &str) -> String {
    let kinds = CodePointMapData::<GeneralCategory>::new();
    let mark = |c: &char| kinds.get(*c) == GeneralCategory::NonspacingMark;
    let plain = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    plain.chars().filter(|c| !mark(c)).collect()
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
