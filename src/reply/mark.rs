//! Marks in rendered text: `<…>` and `[…]`, and what two texts have in common around them.

/// Longest mark around thinking.
pub const MARK_BYTES_MAX: usize = 64;

/// Length of what two texts have in common at their start.
pub fn common(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// Length of what two texts have in common at their end.
pub fn common_end(a: &str, b: &str) -> usize {
    let pairs = a.chars().rev().zip(b.chars().rev());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// The text from `start` on, or from the start of the mark that `start` lies in.
pub fn whole_start(text: &str, start: usize) -> &str {
    for (open, close) in [('<', '>'), ('[', ']')] {
        let before = &text[..start];
        if let Some(at) = before.rfind(open)
            && before.rfind(close).is_none_or(|closed| closed < at)
            && start - at <= MARK_BYTES_MAX
        {
            return &text[at..];
        }
    }
    &text[start..]
}

/// The text from `start` on, or from behind the mark that `start` lies in.
pub fn next_start(text: &str, start: usize) -> &str {
    let inside = text[..start]
        .rfind('<')
        .is_some_and(|open| !text[open..start].contains('>'));
    let close = text[start..].find('>').filter(|_| inside);
    &text[close.map_or(start, |close| start + close + 1)..]
}

/// The text up to `end`, or to the end of the mark that `end` lies in.
pub fn whole_end(text: &str, end: usize) -> &str {
    let inside = text[..end]
        .rfind('<')
        .is_some_and(|open| !text[open..end].contains('>') && end - open <= MARK_BYTES_MAX);
    let close = text[end..].find('>').filter(|_| inside);
    &text[..close.map_or(end, |close| end + close + 1)]
}

/// The mark that a text begins with: `<…>` or `[…]`; or two with a word between them, which some
/// families use as one.
pub fn whole_mark(text: &str) -> Option<&str> {
    let close = match text.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return None,
    };
    let end = text.find(close)? + 1;
    let plain = end > 2 && end <= MARK_BYTES_MAX && !text[..end].contains('\n');
    let rest = &text[end..];
    let word = rest.len()
        - rest
            .trim_start_matches(|c: char| c.is_ascii_lowercase())
            .len();
    match rest[word..].find('>') {
        Some(more) if word > 0 && rest[word..].starts_with('<') => {
            Some(&text[..end + word + more + 1])
        }
        _ => plain.then(|| &text[..end]),
    }
}

/// The mark that a text ends with.
pub fn last_mark(text: &str) -> &str {
    let text = text.trim_end();
    let open = match text.chars().last() {
        Some('>') => '<',
        Some(']') => '[',
        _ => return "",
    };
    let Some(at) = text.rfind(open) else {
        return "";
    };
    let before = text[..at].trim_end_matches(|c: char| c.is_ascii_lowercase());
    match before.rfind('<') {
        Some(first) if before.len() < at && before.ends_with('>') => &text[first..],
        _ => &text[at..],
    }
}
