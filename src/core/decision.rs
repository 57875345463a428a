//! Decisions: typed questions about a text, whose answers are probabilities and not texts.

/// A question about the state.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its id in the request; the model does not see it.
    pub id: String,
    /// The question.
    pub instructions: String,
    /// The possible answers.
    pub answers: Answers,
}

/// The possible answers to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// No or yes, in this order, with what each means; an empty text means what the word says.
    NoYes([String; 2]),
    /// One of a set: names, and what each means; an empty text means what the name says.
    Choice(Vec<(String, String)>),
    /// A level of a scale, the lowest first.
    Score(Vec<String>),
}

/// Most options of a choice.
pub const OPTIONS_MAX: usize = 255;
/// Most levels of a scale: each has a digit.
pub const LEVELS_MAX: usize = 10;
/// The word for a choice that is not probable enough.
pub const UNSURE: &str = "unsure";

impl Answers {
    /// How many answers there are.
    pub fn count(&self) -> usize {
        match self {
            Answers::NoYes(_) => 2,
            Answers::Choice(options) => options.len(),
            Answers::Score(levels) => levels.len(),
        }
    }

    /// The options of a choice, the last first; a scale and no-or-yes have one order only.
    pub fn reversed(&self) -> Option<Answers> {
        match self {
            Answers::Choice(options) if options.len() > 1 => {
                Some(Answers::Choice(options.iter().rev().cloned().collect()))
            }
            _ => None,
        }
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The probability of each answer, in the question's order; together 1.
    pub probabilities: Vec<f64>,
    /// The probability that the model gives to all labels together, before that is made 1.
    pub label_mass: f64,
}

impl Decision {
    /// The mean of this decision and that of the same question with its answers reversed: a preference of the model for
    /// a place in the list goes out of it.
    pub fn with_reversed(&self, reversed: &Decision) -> Decision {
        let pairs = self
            .probabilities
            .iter()
            .zip(reversed.probabilities.iter().rev());
        Decision {
            probabilities: pairs.map(|(one, other)| (one + other) / 2.0).collect(),
            label_mass: (self.label_mass + reversed.label_mass) / 2.0,
        }
    }

    /// The index of the likeliest answer; of equal ones the first.
    pub fn likeliest(&self) -> usize {
        likeliest(&self.probabilities)
    }

    /// The expected level of a scale, counted from 0.
    pub fn score(&self) -> f64 {
        let levels = self.probabilities.iter().enumerate();
        levels.map(|(level, p)| level as f64 * p).sum()
    }

    /// How sure a choice is, 0 to 1: the likeliest option's probability, compared with an even chance (TypeSafe's
    /// formula).
    pub fn confidence_of_choice(&self) -> f64 {
        let even = 1.0 / self.probabilities.len() as f64;
        match self.probabilities.len() {
            1 => 1.0,
            _ => (self.probabilities[self.likeliest()] - even) / (1.0 - even),
        }
    }

    /// How sure a score is, 0 to 1: the mean distance from the likeliest level, compared with that of the middle of an
    /// even distribution (TypeSafe's formula).
    pub fn confidence_of_score(&self) -> f64 {
        let count = self.probabilities.len() as f64;
        let levels = || (0..self.probabilities.len()).map(|level| level as f64);
        let middle = (count - 1.0) / 2.0;
        let spread = levels().map(|level| (level - middle).abs()).sum::<f64>() / count;
        if spread == 0.0 {
            return 1.0;
        }
        let likeliest = self.likeliest() as f64;
        let distances = levels().zip(&self.probabilities);
        let distance: f64 = distances
            .map(|(level, p)| p * (level - likeliest).abs())
            .sum();
        (1.0 - distance / spread).max(0.0)
    }
}

/// The index of the largest probability; of equal ones the first.
pub fn likeliest(probabilities: &[f64]) -> usize {
    let all = probabilities.iter().enumerate();
    let best = all.reduce(|best, other| if other.1 > best.1 { other } else { best });
    best.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(probabilities: &[f64]) -> Decision {
        Decision {
            probabilities: probabilities.to_vec(),
            label_mass: 1.0,
        }
    }

    #[test]
    fn both_orders_cancel_a_preference_for_the_first_place() {
        let (given, reversed) = (decision(&[0.7, 0.2, 0.1]), decision(&[0.7, 0.2, 0.1]));
        let mean = given.with_reversed(&reversed);
        assert!((mean.probabilities[0] - 0.4).abs() < 1e-12);
        assert_eq!(mean.probabilities[0], mean.probabilities[2]);
        assert_eq!(
            Answers::Score(vec!["a".into(), "b".into()]).reversed(),
            None
        );
    }

    #[test]
    fn confidence_has_the_published_values() {
        let choice = decision(&[0.5, 0.3, 0.2]);
        assert!((choice.confidence_of_choice() - 0.25).abs() < 1e-12);
        let score = decision(&[0.0023, 0.116, 0.6753, 0.2064]);
        assert!((score.confidence_of_score() - 0.673).abs() < 1e-3);
        assert!((score.score() - 2.0858).abs() < 1e-9);
        let one = decision(&[1.0]);
        assert_eq!(
            (one.confidence_of_choice(), one.confidence_of_score()),
            (1.0, 1.0)
        );
        assert_eq!(decision(&[0.5, 0.5]).likeliest(), 0);
    }
}
