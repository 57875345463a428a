//! Holds back the bytes of an incomplete character.

/// Decodes a stream of bytes into whole characters.
#[derive(Debug, Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Reads more bytes and returns the characters that are complete. Invalid bytes become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = std::mem::take(&mut self.held);
        loop {
            match std::str::from_utf8(&rest) {
                Ok(good) => {
                    text.push_str(good);
                    return text;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    let Some(length) = error.error_len() else {
                        self.held = bad.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = bad[length..].to_vec();
                }
            }
        }
    }

    /// Ends the stream. Bytes still held are an incomplete character: they become U+FFFD, or are
    /// dropped if the answer was cut off.
    pub fn finish(&mut self, cut: bool) -> String {
        let mut held = std::mem::take(&mut self.held);
        if cut {
            held.clear();
        }
        String::from_utf8_lossy(&held).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_at_any_byte_nothing_is_lost() {
        let text = "aé€😀e\u{301}z";
        for at in 0..=text.len() {
            let mut utf8 = Utf8::default();
            let mut out = utf8.push(&text.as_bytes()[..at]);
            out += &utf8.push(&text.as_bytes()[at..]);
            out += &utf8.finish(false);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn invalid_bytes_are_replaced() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(utf8.finish(false), "\u{fffd}");
    }
}
