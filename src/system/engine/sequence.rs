//! The state of one sequence of a cache: its tokens, cells and checkpoints.

use llama_cpp_2::token::LlamaToken;

use super::cells::Cells;
use super::prefix::Prefix;
use super::saved_sequence::{Checkpoint, Cost};

/// The state of one sequence.
#[derive(Default)]
pub struct SequenceState {
    /// The tokens.
    pub tokens: Vec<LlamaToken>,
    /// The cell of each token.
    pub cells: Vec<usize>,
    /// Checkpoints by position, the earliest first.
    pub checkpoints: Vec<Checkpoint>,
    /// The step of the engine's loop that last used it.
    pub used_at: u64,
    /// The cost of computing it.
    pub cost: Cost,
}

impl SequenceState {
    /// Drops all but the first tokens.
    pub fn cut(&mut self, tokens: usize, cells: &mut Cells) {
        self.tokens.truncate(tokens);
        self.cells
            .drain(tokens..)
            .for_each(|cell| cells.release(cell));
        self.checkpoints
            .retain(|checkpoint| checkpoint.tokens <= tokens);
        self.cost.fresh = self.cost.fresh.min(tokens);
    }
}

/// A copy for the prefix cache.
pub fn prefix(
    tokens: &[LlamaToken],
    state: Vec<u8>,
    checkpoints: &[Checkpoint],
    cost: Cost,
) -> Prefix {
    let checkpoints = checkpoints.iter();
    Prefix {
        tokens: tokens.iter().map(|token| token.0).collect(),
        state,
        checkpoints: checkpoints
            .map(|checkpoint| (checkpoint.tokens, checkpoint.state.to_vec()))
            .collect(),
        pace_us: cost.pace_us,
    }
}

/// Drops checkpoints, those of the least recently used sequence first, until the rest fits the limit.
pub fn drop_checkpoints(sequences: &mut [SequenceState], bytes_max: usize) {
    let bytes = |sequences: &[SequenceState]| -> usize {
        let checkpoints = sequences.iter().flat_map(|sequence| &sequence.checkpoints);
        // A shared checkpoint counts once per sequence, which errs on the safe side.
        checkpoints.map(|checkpoint| checkpoint.state.len()).sum()
    };
    while bytes(sequences) > bytes_max {
        let with_checkpoints = sequences
            .iter_mut()
            .filter(|sequence| !sequence.checkpoints.is_empty());
        match with_checkpoints.min_by_key(|sequence| sequence.used_at) {
            Some(sequence) => drop(sequence.checkpoints.remove(0)),
            None => return,
        }
    }
}
