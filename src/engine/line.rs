//! What one sequence of a cache holds.

use llama_cpp_2::token::LlamaToken;

use super::cells::Cells;
use super::parked::{Cost, Mark};
use super::prefix::Prefix;

/// A sequence.
#[derive(Default)]
pub struct Line {
    /// The tokens.
    pub tokens: Vec<LlamaToken>,
    /// The cell of each token.
    pub cells: Vec<usize>,
    /// By their places, the first in front.
    pub marks: Vec<Mark>,
    /// When it was last in use, in turns of the engine's loop.
    pub used_at: u64,
    /// What computing it cost.
    pub cost: Cost,
}

impl Line {
    /// Forgets all but its first tokens.
    pub fn cut(&mut self, tokens: usize, cells: &mut Cells) {
        self.tokens.truncate(tokens);
        self.cells
            .drain(tokens..)
            .for_each(|cell| cells.let_go(cell));
        self.marks.retain(|mark| mark.tokens <= tokens);
        self.cost.fresh = self.cost.fresh.min(tokens);
    }
}

/// A copy to be kept elsewhere.
pub fn prefix(tokens: &[LlamaToken], state: Vec<u8>, marks: &[Mark], cost: Cost) -> Prefix {
    let marks = marks.iter();
    Prefix {
        tokens: tokens.iter().map(|token| token.0).collect(),
        state,
        marks: marks
            .map(|mark| (mark.tokens, mark.state.to_vec()))
            .collect(),
        pace_us: cost.pace_us,
    }
}
