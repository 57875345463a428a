//! Stops the text before a stop sequence, also if the sequence arrives in pieces.

/// Scans a text for stop sequences.
#[derive(Debug, Default)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
    hit: Option<String>,
}

impl Stops {
    /// Scans for any of these; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Stops {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            held: String::new(),
            hit: None,
        }
    }

    /// The stop sequence that was found.
    pub fn hit(&self) -> Option<&str> {
        self.hit.as_deref()
    }

    /// Reads more text; returns the part that cannot belong to a stop sequence, and whether one was found.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)))
            .min_by_key(|(at, _)| *at);
        if let Some((at, stop)) = found {
            self.hit = Some(stop.clone());
            let mut held = std::mem::take(&mut self.held);
            held.truncate(at);
            return (held, true);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest suffix of `text` that is a proper prefix of `stop`.
pub fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|length| text.as_bytes().ends_with(&stop.as_bytes()[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut watch = Stops::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            let (text, found) = watch.push(piece);
            out += &text;
            if found {
                return (out, true);
            }
        }
        out += &watch.finish();
        (out, false)
    }

    #[test]
    fn a_stop_string_is_found_however_it_is_cut() {
        let text = "one é END two";
        for (at, _) in text.char_indices() {
            assert_eq!(
                run(&["END", "é EX"], &[&text[..at], &text[at..]]),
                ("one é ".into(), true)
            );
        }
    }

    #[test]
    fn partial_matches_are_text() {
        assert_eq!(
            run(&["ENDE", ""], &["EN", "D of", " E", "N"]),
            ("END of EN".into(), false)
        );
        assert_eq!(
            run(&["aab"], &["a", "a", "a", "b", "c"]),
            ("a".into(), true)
        );
    }
}
