//! Markers in rendered text, `<…>` and `[…]`, and the common parts of two texts around them.

/// Maximum bytes of a marker around thinking.
pub const TAG_BYTES_MAX: usize = 64;

/// Length of the common prefix of two texts.
pub fn common(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// Length of the common suffix of two texts.
pub fn common_end(a: &str, b: &str) -> usize {
    let pairs = a.chars().rev().zip(b.chars().rev());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// Returns the text from `start`, or from the start of the marker that contains `start`.
pub fn whole_start(text: &str, start: usize) -> &str {
    for (open, close) in [('<', '>'), ('[', ']')] {
        let before = &text[..start];
        if let Some(at) = before.rfind(open)
            && before.rfind(close).is_none_or(|closed| closed < at)
            && start - at <= TAG_BYTES_MAX
        {
            return &text[at..];
        }
    }
    &text[start..]
}

/// Returns the text from `start`, or from the end of the marker that contains `start`.
pub fn next_start(text: &str, start: usize) -> &str {
    let inside = text[..start]
        .rfind('<')
        .is_some_and(|open| !text[open..start].contains('>'));
    let close = text[start..].find('>').filter(|_| inside);
    &text[close.map_or(start, |close| start + close + 1)..]
}

/// Returns the text up to `end`, or up to the end of the marker that contains `end`.
pub fn whole_end(text: &str, end: usize) -> &str {
    let inside = text[..end]
        .rfind('<')
        .is_some_and(|open| !text[open..end].contains('>') && end - open <= TAG_BYTES_MAX);
    let close = text[end..].find('>').filter(|_| inside);
    &text[..close.map_or(end, |close| end + close + 1)]
}

/// Returns the marker at the start of a text: `<…>` or `[…]`; or two with a word between them, which
/// some families use as one.
pub fn whole_tag(text: &str) -> Option<&str> {
    let close = match text.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return None,
    };
    let end = text.find(close)? + 1;
    let plain = end > 2 && end <= TAG_BYTES_MAX && !text[..end].contains('\n');
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

/// Returns the marker at the end of a text.
pub fn last_tag(text: &str) -> &str {
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
