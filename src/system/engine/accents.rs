//! Accent stripping for models with a WordPiece vocabulary, which were trained on text without accents.

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;

/// Strips nonspacing marks (Unicode category Mn) from a text, as BERT's normaliser does. llama.cpp would
/// also strip spacing marks, which are the vowels of Devanagari.
pub fn unaccented(text: &str) -> String {
    let kinds = CodePointMapData::<GeneralCategory>::new();
    let checkpoint = |c: &char| kinds.get(*c) == GeneralCategory::NonspacingMark;
    let plain = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    plain.chars().filter(|c| !checkpoint(c)).collect()
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
