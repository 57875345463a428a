//! The version of the reference whose API and models are served.

use std::cmp::Ordering;

/// The version that `/api/version` gives. Clients compare it with the one that they need; our own version is in the
/// header `Server`.
pub const VERSION: &str = "0.33.0";

/// The note on a model that needs a later version; `what` names it. `None` if this one will do.
pub fn note(what: &str, required: &str) -> Option<String> {
    (compare(required, VERSION) == Ordering::Greater).then(|| {
        format!("{what} is for Ollama {required} or later, and puna knows the models of {VERSION}")
    })
}

/// Compares versions by their numbers; missing ones are 0, and what is no number counts as 0.
fn compare(one: &str, other: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        let parts = text.trim_start_matches('v').split('.');
        let mut numbers: Vec<u64> = parts.map(|part| part.parse().unwrap_or(0)).collect();
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        numbers
    };
    numbers(one).cmp(&numbers(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_version_is_noted() {
        for fits in ["", "0.33", "v0.33.0", "0.4.12", "0.32.99"] {
            assert_eq!(note("smol", fits), None, "{fits}");
        }
        for later in ["0.33.1", "v1", "0.100.0"] {
            assert!(note("smol", later).is_some_and(|text| text.contains(later)));
        }
    }
}
