//! Whether an answer goes round in circles: small models do so, and then never end.

use llama_cpp_2::token::LlamaToken;

/// Tokens at the end of an answer that are looked at.
const TOKENS: usize = 600;
/// Least tokens of a piece that repeats. A shorter one repeats as a multiple of it.
const PIECE_MIN: usize = 8;
/// Most of them: a piece occurs three times at least.
const PIECE_MAX: usize = TOKENS / 3;

/// True if the last tokens of an answer are one piece, again and again.
pub fn is_loop(answer: &[LlamaToken]) -> bool {
    let Some(start) = answer.len().checked_sub(TOKENS) else {
        return false;
    };
    let end = &answer[start..];
    (PIECE_MIN..=PIECE_MAX).any(|piece| end[piece..] == end[..TOKENS - piece])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: impl Iterator<Item = usize>) -> Vec<LlamaToken> {
        tokens.map(|id| LlamaToken(id as i32)).collect()
    }

    #[test]
    fn a_piece_that_repeats_is_a_loop() {
        for piece in [1, 3, 8, 50, 200] {
            let mut tokens = answer((0..TOKENS).map(|at| at % piece));
            assert!(is_loop(&tokens), "{piece}");
            assert!(!is_loop(&tokens[1..]), "{piece}");
            // A start of its own changes nothing, another token on the way does.
            tokens.splice(0..0, answer(900..1000));
            assert!(is_loop(&tokens), "{piece}");
            tokens[400] = LlamaToken(-1);
            assert!(!is_loop(&tokens), "{piece}");
        }
    }

    #[test]
    fn a_list_that_counts_and_a_long_piece_are_no_loops() {
        assert!(!is_loop(&answer((0..900).map(|at| at / 9 + at % 9))));
        assert!(!is_loop(&answer((0..TOKENS).map(|at| at % 300))));
    }
}
