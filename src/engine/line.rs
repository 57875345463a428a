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

/// Drops marks, those of the longest unused sequence first, until the rest is small enough.
pub fn drop_marks(lines: &mut [Line], bytes_max: usize) {
    let bytes = |lines: &[Line]| -> usize {
        let marks = lines.iter().flat_map(|line| &line.marks);
        // A shared mark counts for each that holds it, which errs on the safe side.
        marks.map(|mark| mark.state.len()).sum()
    };
    while bytes(lines) > bytes_max {
        let marked = lines.iter_mut().filter(|line| !line.marks.is_empty());
        match marked.min_by_key(|line| line.used_at) {
            Some(line) => drop(line.marks.remove(0)),
            None => return,
        }
    }
}
