//! Split GGUF files: merges `<prefix>-00001-of-00003.gguf` and its siblings into one file.
//!
//! Pure: takes headers, and returns the whole file's header and a list of runs to copy after it.

use std::io::{Read, Seek};

use super::plan::{Entry, Put, Run, put_tensors, put_values};
use super::{Header, Value};

/// Maximum shards of a model; the largest published ones have about 100.
const SHARDS_MAX: u64 = 1000;

/// The name of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard<'a> {
    /// The common beginning of the names of all shards.
    pub prefix: &'a str,
    /// The number of this shard, from 1.
    pub number: u64,
    /// The number of shards.
    pub count: u64,
}

impl<'a> Shard<'a> {
    /// Parses a file name; `None` if it does not name a shard.
    pub fn parse(file: &'a str) -> Option<Self> {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let five = |text: &str| -> Option<u64> {
            let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (number, count) = (five(number)?, five(count)?);
        let sound = (1..=count).contains(&number) && count <= SHARDS_MAX && !prefix.is_empty();
        sound.then_some(Shard {
            prefix,
            number,
            count,
        })
    }

    /// The names of all shards, in order.
    pub fn files(&self) -> Vec<String> {
        let (prefix, count) = (self.prefix, self.count);
        (1..=count)
            .map(|number| format!("{prefix}-{number:05}-of-{count:05}.gguf"))
            .collect()
    }
}

/// The whole file, merged from its shards.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// The file up to its tensor data.
    pub head: Vec<u8>,
    /// The runs to copy after it: the index of a shard, and a run of its bytes.
    pub runs: Vec<(usize, Run)>,
}

impl Header {
    /// The number of shards that this file belongs to; 1 if it is whole.
    pub fn shard_count(&self) -> u64 {
        self.split_key("count").unwrap_or(1).max(1)
    }

    /// A key about splitting, which some writers put under the architecture.
    fn split_key(&self, key: &str) -> Option<u64> {
        let key = format!("split.{key}");
        self.integer(&key).or_else(|| self.arch_integer(&key))
    }
}

/// Merges shards, given in order, into the whole file. `first` is the file of the first shard.
///
/// # Errors
/// A text of one line, if the shards do not belong together or the first can no longer be read.
pub fn merged(shards: &[Header], first: impl Read + Seek) -> Result<Merged, String> {
    for (index, shard) in shards.iter().enumerate() {
        let number = index + 1;
        let own = shard
            .split_key("no")
            .ok_or_else(|| format!("shard {number} does not say which one it is (split.no)"))?;
        if own != index as u64 {
            return Err(format!("shard {number} says that it is shard {}", own + 1));
        }
        if shard.shard_count() != shards.len() as u64 {
            let count = shard.shard_count();
            return Err(format!("shard {number} says that there are {count}"));
        }
    }
    let Some(head) = shards.first() else {
        return Err("there are no shards".into());
    };
    let tensors = || {
        let all = shards.iter().enumerate();
        all.flat_map(|(index, shard)| shard.tensors.iter().map(move |tensor| (index, tensor)))
    };
    let mut names: Vec<&str> = tensors().map(|(_, tensor)| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two shards contain {}", pair[0]));
    }
    let about_splitting = format!("{}.split.", head.architecture());
    let values: Vec<(String, Put)> = head
        .values
        .iter()
        .zip(&head.spans)
        .filter(|((key, _), _)| !key.starts_with("split.") && !key.starts_with(&about_splitting))
        .map(|((key, _), span): (&(String, Value), _)| (key.clone(), Put::Copied(span.clone())))
        .collect();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((names.len() as u64).to_le_bytes());
    put_values(&mut bytes, &values, first).map_err(|error| error.to_string())?;
    let entries = tensors()
        .map(|(index, tensor)| Entry::unchanged(&tensor.name, tensor, shards[index].data_offset));
    let runs = put_tensors(&mut bytes, entries);
    let indices = tensors().map(|(index, _)| index);
    Ok(Merged {
        head: bytes,
        runs: indices.zip(runs).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::format::gguf::{Writer, read};

    fn shard(no: u32, count: u32, tensors: &[(&str, f32)]) -> Vec<u8> {
        let mut writer = Writer::new("llama");
        writer
            .unsigned("split.no", no)
            .unsigned("split.count", count);
        writer.text("general.name", "whole");
        for (name, value) in tensors {
            writer.tensor_f32(name, &[3], &[*value; 3]);
        }
        writer.bytes()
    }

    fn header(bytes: &[u8]) -> Header {
        read(Cursor::new(bytes), bytes.len() as u64).unwrap()
    }

    #[test]
    fn names_of_shards_are_read() {
        let shard = Shard::parse("m-Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!(
            (shard.prefix, shard.number, shard.count),
            ("m-Q4_K_M", 2, 3)
        );
        assert_eq!(shard.files()[2], "m-Q4_K_M-00003-of-00003.gguf");
        for file in [
            "m.gguf",
            "m-00001-of-00002.bin",
            "m-1-of-2.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "-00001-of-00001.gguf",
            "m-00001-of-99999.gguf",
        ] {
            assert_eq!(Shard::parse(file), None, "{file}");
        }
    }

    #[test]
    fn shards_become_one_file() {
        let files = [
            shard(0, 2, &[("a", 1.0)]),
            shard(1, 2, &[("b", 2.0), ("c", 3.0)]),
        ];
        let headers: Vec<Header> = files.iter().map(|file| header(file)).collect();
        let merged = merged(&headers, Cursor::new(&files[0])).unwrap();
        let mut bytes = merged.head;
        for (index, run) in merged.runs {
            bytes.resize(run.target as usize, 0);
            let source = run.source as usize..(run.source + run.bytes) as usize;
            bytes.extend(&files[index][source]);
        }
        let whole = header(&bytes);
        assert_eq!(whole.text("general.name"), Some("whole"));
        assert_eq!((whole.shard_count(), whole.integer("split.no")), (1, None));
        let at = |name: &str| {
            let tensor = whole.tensor(name).unwrap();
            let start = (whole.data_offset + tensor.offset) as usize;
            f32::from_le_bytes(bytes[start..start + 4].try_into().unwrap())
        };
        assert_eq!([at("a"), at("b"), at("c")], [1.0, 2.0, 3.0]);
    }

    #[test]
    fn shards_that_do_not_belong_together_are_refused() {
        for (second, why) in [
            (
                shard(0, 2, &[("b", 2.0)]),
                "shard 2 says that it is shard 1",
            ),
            (shard(1, 3, &[("b", 2.0)]), "shard 2 says that there are 3"),
            (shard(1, 2, &[("a", 2.0)]), "two shards contain a"),
            (
                Writer::new("llama").bytes(),
                "shard 2 does not say which one it is (split.no)",
            ),
        ] {
            let first = shard(0, 2, &[("a", 1.0)]);
            let headers = [header(&first), header(&second)];
            assert_eq!(merged(&headers, Cursor::new(&first)).unwrap_err(), why);
        }
    }
}
