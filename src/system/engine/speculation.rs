//! Speculative decoding with drafts from the text itself: where the last tokens occurred before in prompt or answer,
//! the tokens that followed them there are a guess of what comes next. Guesses that are likely enough are computed in the
//! same decode as the next token; the sampler then reads the logits of each position in order, and those that it chooses too
//! are kept.
//!
//! Nothing is lost by it: a guess is accepted if the sampler chose the same token from the model's own
//! distribution, which is rejection sampling for a draft that is certain of itself. Grammars, penalties and
//! logprobs see one position at a time, as ever. On x86 a decode of several tokens computes the same logits as several of one,
//! to the bit (`patches/0005`); elsewhere rounding may tip a choice, as it does in a batch.

use llama_cpp_2::token::LlamaToken;

use super::tune::DraftCost;

/// The last tokens have to occur before, at least as many as these, to be a guess.
const MATCH_MIN: usize = 3;
/// A longer match says nothing more.
const MATCH_MAX: usize = 16;
/// Tokens that are searched, from the end on.
const SEARCHED_TOKENS: usize = 1 << 15;
/// Most tokens of a guess.
pub const DRAFT_MAX: usize = 16;
/// Drafts that bring less are not worth it: their costs are known roughly.
const GAIN_MIN: f32 = 1.05;
/// The weight of the last guess in the share of right ones.
const WEIGHT: f32 = 1.0 / 12.0;

/// Guesses by the length of their match: from so many tokens on, and the share of right tokens among them before one is known.
/// Low enough that a text without repetitions starts without drafts on a small model.
const CLASSES: [(usize, f32); 3] = [(3, 0.4), (5, 0.6), (9, 0.9)];

/// The worth and the cost of drafts.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    /// A token of this answer, in units of all tokens of a decode without drafts.
    pub token: f32,
    /// In units of the time of that decode.
    pub cost: DraftCost,
}

impl Price {
    /// How many drafts bring most, at most `limit`, if each is right with this probability.
    fn best(self, rate: f32, limit: usize) -> usize {
        let (mut best, mut count) = (GAIN_MIN, 0);
        let (mut tokens, mut right) = (1.0, 1.0);
        for drafts in 1..=limit {
            right *= rate;
            tokens += right * self.token;
            let pace = tokens / (1.0 + self.cost.first + self.cost.each * drafts as f32);
            if pace > best {
                (best, count) = (pace, drafts);
            }
        }
        count
    }
}

/// The guesses of one answer.
pub struct Speculation {
    /// The share of right tokens, for each of the classes.
    rates: [f32; CLASSES.len()],
    guess: Vec<LlamaToken>,
    class: usize,
    /// The drafts so far.
    pub drafts: Drafts,
}

/// The drafts of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drafts {
    /// Tokens that were computed as drafts.
    pub computed: usize,
    /// Those of them that the answer kept.
    pub kept: usize,
}

impl Default for Speculation {
    fn default() -> Self {
        Speculation {
            rates: CLASSES.map(|(_, rate)| rate),
            guess: Vec::new(),
            class: 0,
            drafts: Drafts::default(),
        }
    }
}

impl Speculation {
    /// Guesses how `tokens` continues. Returns the part of the guess, at most `room` tokens, with which most tokens come in the
    /// same time; none if they do not bring more than they cost.
    pub fn draft(&mut self, tokens: &[LlamaToken], room: usize, price: Price) -> &[LlamaToken] {
        self.guess.clear();
        if let Some((length, start)) = longest_match(tokens) {
            let class = CLASSES.iter().rposition(|(from, _)| length >= *from);
            self.class = class.unwrap_or(0);
            for at in start..start + DRAFT_MAX {
                // A text that repeats itself does so on.
                let next = tokens.get(at).or_else(|| self.guess.get(at - tokens.len()));
                self.guess.extend(next.copied());
            }
        }
        let count = price.best(self.rates[self.class], self.guess.len().min(room));
        &self.guess[..count]
    }

    /// Learns how the text really went on, also where nothing was drafted. A guess counts once.
    pub fn learn(&mut self, chosen: &[LlamaToken]) {
        let rate = &mut self.rates[self.class];
        for (guess, chosen) in self.guess.drain(..).zip(chosen) {
            let right = guess == *chosen;
            *rate += (f32::from(u8::from(right)) - *rate) * WEIGHT;
            if !right {
                return;
            }
        }
    }
}

/// Where the last tokens occurred before: the length of the longest match, the latest of equally long ones,
/// and the position behind it.
fn longest_match(tokens: &[LlamaToken]) -> Option<(usize, usize)> {
    let (last, before) = tokens.split_last()?;
    let mut best = (MATCH_MIN - 1, 0);
    for end in (before.len().saturating_sub(SEARCHED_TOKENS)..before.len()).rev() {
        if before[end] != *last {
            continue;
        }
        let backwards = before.iter().rev().zip(before[..end].iter().rev());
        let equal = backwards.take(MATCH_MAX - 1).take_while(|(a, b)| a == b);
        let length = equal.count() + 1;
        if length > best.0 {
            best = (length, end + 1);
        }
        if length == MATCH_MAX {
            break;
        }
    }
    (best.0 >= MATCH_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<LlamaToken> {
        ids.iter().copied().map(LlamaToken).collect()
    }

    #[test]
    fn the_longest_match_wins_then_the_latest() {
        let text = tokens(&[1, 2, 3, 4, 9, 2, 3, 4, 7, 8, 2, 3, 4]);
        assert_eq!(longest_match(&text), Some((3, 8)));
        let text = tokens(&[1, 2, 3, 4, 9, 2, 3, 4, 7, 8, 1, 2, 3, 4]);
        assert_eq!(longest_match(&text), Some((4, 4)));
        assert_eq!(longest_match(&tokens(&[1, 2, 7, 1, 2])), None);
        assert_eq!(longest_match(&[]), None);
    }

    fn price(first: f32, each: f32) -> Price {
        let cost = DraftCost { first, each };
        Price { token: 1.0, cost }
    }

    #[test]
    fn a_draft_is_as_long_as_it_pays() {
        let text: Vec<LlamaToken> = tokens(&(0..100).chain(0..12).collect::<Vec<_>>());
        let mut speculation = Speculation::default();
        // With 0.9: 1.9 tokens in 1.8, 2.71 in 2.5, 3.44 in 3.2, 4.1 in 3.9 times.
        assert_eq!(speculation.draft(&text, 99, price(0.1, 0.7)), &text[12..14]);
        assert_eq!(speculation.draft(&text, 1, price(0.1, 0.7)), &text[12..13]);
        assert_eq!(
            speculation.draft(&text, 99, price(0.0, 0.01)).len(),
            DRAFT_MAX
        );
        assert_eq!(speculation.draft(&text, 99, price(0.1, 0.9)).len(), 0);
        // Wrong guesses are remembered, and so are right ones that were never drafted.
        for _ in 0..8 {
            speculation.draft(&text, 0, price(0.1, 0.7));
            speculation.learn(&tokens(&[500]));
        }
        assert_eq!(speculation.draft(&text, 99, price(0.1, 0.7)).len(), 0);
        for _ in 0..40 {
            speculation.draft(&text, 0, price(0.1, 0.7));
            speculation.learn(&text[12..13]);
        }
        assert!(speculation.draft(&text, 99, price(0.1, 0.7)).len() > 3);
    }

    #[test]
    fn drafts_of_one_answer_among_many_bring_little() {
        let cost = DraftCost {
            first: 0.0,
            each: 0.1,
        };
        assert!(Price { token: 1.0, cost }.best(0.9, 16) > 4);
        assert_eq!(Price { token: 0.1, cost }.best(0.9, 16), 0);
    }

    #[test]
    fn a_guess_counts_once() {
        let text = tokens(&[1, 2, 3, 4, 9, 2, 3, 4]);
        let mut speculation = Speculation::default();
        speculation.draft(&text, 0, price(0.0, 0.01));
        speculation.learn(&tokens(&[9]));
        let rates = speculation.rates;
        assert!(rates[0] > CLASSES[0].1);
        // A step beside a prompt makes no guess of its own.
        speculation.learn(&tokens(&[500]));
        assert_eq!(speculation.rates, rates);
    }

    #[test]
    fn a_repetition_is_continued() {
        let text = tokens(&[9, 1, 2, 1, 2, 1, 2, 1, 2]);
        let mut speculation = Speculation::default();
        let draft = speculation.draft(&text, 5, price(0.0, 0.01)).to_vec();
        assert_eq!(draft, tokens(&[1, 2, 1, 2, 1]));
    }
}
