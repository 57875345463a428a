//! Checks a vocabulary for errors that would make llama.cpp end the whole process: all tokens must differ,
//! and tokens that stand for bytes must name their byte.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{Read, Seek};

use super::source::Source;
use super::{Array, Header, Value};

/// Longest token, in bytes, of a kind of vocabulary that is kept in a tree: llama.cpp walks it with a call for each byte.
const TRIE_BYTES_MAX: usize = 1024;

/// The type of a token that stands for a byte.
const BYTE: u32 = 6;

/// Checks the vocabulary of a file whose header was read. 50 000 tokens take about 3 ms.
pub(super) fn check(header: &Header, mut file: impl Read + Seek) -> Result<(), String> {
    let array = |key| match header.value(key) {
        Some(Value::Array(array)) => Some(array),
        _ => None,
    };
    let Some(tokens) = array("tokenizer.ggml.tokens") else {
        return Ok(());
    };
    let kinds = match array("tokenizer.ggml.token_type") {
        Some(kinds) => numbers(header, &mut file, kinds)?,
        None => Vec::new(),
    };
    let kind = check_kind(header, tokens.count, &kinds)?;
    let bytes_max = if ["t5", "rwkv"].contains(&kind) {
        TRIE_BYTES_MAX
    } else {
        usize::MAX
    };
    let (mut prints, mut bytes) = (Vec::new(), [false; 256]);
    let mut source = Source::at(&mut file, tokens, header.file_bytes)?;
    let mut text = Vec::new();
    for index in 0..tokens.count {
        source.raw_text(&mut text)?;
        if text.len() > bytes_max {
            return Err(format!("token {index} of its vocabulary is too long"));
        }
        // llama.cpp reads a text up to its first zero, and gives those without a text a name.
        let end = text.iter().position(|byte| *byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        let mut hasher = DefaultHasher::new();
        if text.is_empty() {
            hasher.write(format!("[EMPTY_{index}]").as_bytes());
        } else {
            hasher.write(&text);
        }
        prints.push(hasher.finish());
        let written = byte_of(&text);
        if written.is_none() && kinds.get(index as usize) == Some(&BYTE) {
            return Err(format!(
                "byte token {index} of its vocabulary does not name a byte"
            ));
        }
        let own = <[u8; 1]>::try_from(&text[..]).ok().map(|[byte]| byte);
        if let Some(byte) = written.or(own) {
            bytes[usize::from(byte)] = true;
        }
    }
    prints.sort_unstable();
    if prints.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two tokens of its vocabulary are the same".into());
    }
    let needs_bytes = kind == "llama";
    if let Some(byte) = bytes.iter().position(|known| needs_bytes && !known) {
        return Err(format!("its vocabulary has no token for the byte {byte}"));
    }
    Ok(())
}

/// Checks that the kind of the vocabulary fits the model, and has the special tokens that it puts around every text; returns
/// it.
fn check_kind<'a>(header: &'a Header, count: u64, kinds: &[u32]) -> Result<&'a str, String> {
    let kind = header.text("tokenizer.ggml.model").unwrap_or_default();
    let has = |name: &str, default: u64| {
        let given = header.integer(&format!("tokenizer.ggml.{name}_token_id"));
        given.unwrap_or(default) < count
    };
    let adds = |name: &str, default: bool| match header
        .value(&format!("tokenizer.ggml.add_{name}_token"))
    {
        Some(Value::Bool(adds)) => *adds,
        _ => default,
    };
    let lacks = match kind {
        "" | "no_vocab" | "none" | "test" => return Err("it has no vocabulary".into()),
        "rwkv" if !header.architecture().contains("rwkv") => {
            return Err("its vocabulary is one of rwkv, and the model is not".into());
        }
        "bert" if kinds.contains(&BYTE) => {
            return Err("its vocabulary has tokens for bytes, which its kind has not".into());
        }
        // The defaults are llama.cpp's for this kind.
        "bert" if !has("bos", 101) => "begin",
        "bert" if !has("seperator", 102) => "separator",
        "gpt2" if adds("bos", false) && !has("bos", 11) => "begin",
        "gpt2" if adds("eos", false) && !has("eos", 11) => "end",
        "t5" if adds("bos", false) && !has("bos", count) => "begin",
        "t5" if adds("eos", true) && !has("eos", 1) => "end",
        _ => return Ok(kind),
    };
    Err(format!("its vocabulary has no {lacks} token"))
}

fn numbers(header: &Header, file: impl Read + Seek, array: &Array) -> Result<Vec<u32>, String> {
    let mut source = Source::at(file, array, header.file_bytes)?;
    (0..array.count).map(|_| source.u32()).collect()
}

/// The byte that a token such as `<0x0A>` stands for; llama.cpp accepts only capital digits.
pub fn byte_of(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else {
        return None;
    };
    let digit = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use crate::format::gguf::{Writer, read};

    fn checked(change: impl Fn(&mut Vec<String>, &mut Vec<i32>)) -> Result<(), String> {
        let mut tokens: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut kinds = vec![6; 256];
        tokens.extend(["a".into(), "".into(), "".into(), "\u{2581}b".into()]);
        kinds.extend([1; 4]);
        change(&mut tokens, &mut kinds);
        let mut writer = Writer::new("llama");
        writer.text("tokenizer.ggml.model", "llama");
        writer.texts("tokenizer.ggml.tokens", &tokens);
        writer.integers("tokenizer.ggml.token_type", &kinds);
        let bytes = writer.bytes();
        let header = read(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        header.check_vocabulary(Cursor::new(&bytes))
    }

    #[test]
    fn a_vocabulary_that_crashes_llama_cpp_is_refused() {
        assert_eq!(checked(|_, _| {}), Ok(()));
        let wrong = |change: fn(&mut Vec<String>, &mut Vec<i32>)| checked(change).unwrap_err();
        assert!(wrong(|tokens, _| tokens[259] = "a".into()).contains("are the same"));
        // A single letter stands for itself, but llama.cpp parses the digits of a token of this type.
        assert!(wrong(|_, kinds| kinds[256] = 6).contains("token 256"));
        assert!(wrong(|tokens, _| tokens[10] = "<0x0a>".into()).contains("token 10"));
        assert!(wrong(|_, kinds| kinds[256 + 3] = 6).contains("token 259"));
        assert!(
            wrong(|tokens, kinds| {
                tokens[7] = "x7".into();
                kinds[7] = 1;
            })
            .contains("no token for the byte 7")
        );
    }
}
