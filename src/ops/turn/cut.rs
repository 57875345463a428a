//! The note on an answer that a limit cut.

use super::{BOUNDED_TOKENS, options_in_force};
use crate::core::message::{Finish, Reason};
use crate::core::turn::TurnRequest;
use crate::ops::model::Model;

/// Says that a limit cut an answer and which; `None` if the answer ended by itself. `model` is none where a server
/// has it.
pub fn cut(turn: &TurnRequest, model: Option<&Model>, finish: &Finish) -> Option<String> {
    let tokens = finish.usage.answer_tokens;
    let why = match finish.reason {
        Reason::Stop => return None,
        Reason::Repetition => "it repeats itself",
        Reason::Length => {
            // The model's own parameters may have the limit, too.
            let limit = match model {
                Some(model) => options_in_force(model, &turn.options).int("num_predict"),
                None => turn.options.int("num_predict"),
            };
            let bound = turn.bounded.then_some(BOUNDED_TOKENS as i64);
            let is_limit = limit
                .or(bound)
                .is_some_and(|limit| limit >= 0 && tokens as i64 >= limit);
            match model {
                _ if is_limit => "see --num-predict",
                Some(_) => "the context is full, see --num-ctx",
                None => "see --num-predict and --num-ctx",
            }
        }
    };
    Some(format!("the answer was cut after {tokens} tokens: {why}"))
}
