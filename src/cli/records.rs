//! Records of standard input: lines, NUL-terminated texts, JSON objects or tab-separated fields.

use std::io::{BufRead, Read};

use serde_json::Value as Json;

use super::map::template;
use super::stdin::Input;
use crate::core::error::{Error, Result};

/// Longest record, its terminator included.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// The format of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One record per line.
    Lines,
    /// Each record ends with NUL.
    Nul,
    /// One JSON value per line.
    Json,
    /// Tab-separated fields; the first line names them.
    Tabs,
}

/// A record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// The whole record without its terminator.
    pub text: String,
    fields: Fields,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Fields {
    #[default]
    None,
    Json(Json),
    Named(Vec<(String, String)>),
}

impl Record {
    /// The value of a field; `None` if the record has no such field.
    pub fn field(&self, name: &str) -> Option<String> {
        match &self.fields {
            Fields::None => None,
            Fields::Json(object) => template::field(object, name),
            Fields::Named(pairs) => {
                let pair = pairs.iter().find(|(known, _)| known == name);
                pair.map(|(_, value)| value.clone())
            }
        }
    }

    /// The record as JSON: its value, an object of its fields, or its text.
    pub fn json(&self) -> Json {
        match &self.fields {
            Fields::Json(value) => value.clone(),
            Fields::None => self.text.as_str().into(),
            Fields::Named(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(name, value)| (name.clone(), value.as_str().into()));
                Json::Object(pairs.collect())
            }
        }
    }
}

/// Reads records one by one.
pub struct Records<R> {
    input: R,
    format: Format,
    names: Vec<String>,
    /// Number of calls of [`Records::line`].
    count: usize,
}

impl<R: BufRead> Records<R> {
    /// A reader of the records of an input.
    pub fn new(input: R, format: Format) -> Self {
        Records {
            input,
            format,
            names: Vec::new(),
            count: 0,
        }
    }

    /// The text of the next record.
    ///
    /// # Errors
    /// If the input cannot be read or the record is invalid; the message has the record's number.
    pub fn line(&mut self) -> Result<Option<String>> {
        self.count += 1;
        let line = self.next()?.map(|record| record.map(|record| record.text));
        let unreadable = |error: Error| {
            let text = format!("line {} of standard input: {error}", self.count);
            Error::plain(error.class(), text)
        };
        line.transpose().map_err(unreadable)
    }

    /// The number of the record that [`Records::line`] returned last, counted from 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The next record, or its error; after such an error the next record can still be read.
    ///
    /// # Errors
    /// If the input cannot be read, or a record is longer than 16 MiB; reading cannot continue then.
    pub fn next(&mut self) -> Result<Option<Result<Record>>> {
        loop {
            let text = match self.text()? {
                None => return Ok(None),
                Some(Err(error)) => return Ok(Some(Err(error))),
                Some(Ok(text)) => text,
            };
            if self.format == Format::Tabs && self.names.is_empty() {
                self.names = text.split('\t').map(str::to_string).collect();
                continue;
            }
            return Ok(Some(self.record(text)));
        }
    }

    fn text(&mut self) -> Result<Option<Result<String>>> {
        let end = if self.format == Format::Nul { 0 } else { b'\n' };
        let mut bytes = Vec::new();
        let mut limited = Read::take(&mut self.input, RECORD_BYTES_MAX);
        let read = limited.read_until(end, &mut bytes);
        let read = read.map_err(Input::error)?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 == RECORD_BYTES_MAX {
            return Err(Error::usage(
                "a record of standard input is longer than 16 MiB",
            ));
        }
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
        if end == b'\n' && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let text = String::from_utf8(bytes);
        Ok(Some(
            text.map_err(|_| Error::usage("the record is not UTF-8 text")),
        ))
    }

    fn record(&self, text: String) -> Result<Record> {
        let fields = match self.format {
            Format::Lines | Format::Nul => Fields::None,
            Format::Json => Fields::Json(
                serde_json::from_str(&text)
                    .map_err(|error| Error::usage(format!("not JSON: {error}")))?,
            ),
            Format::Tabs => {
                let values = text.split('\t').map(str::to_string);
                Fields::Named(self.names.iter().cloned().zip(values).collect())
            }
        };
        Ok(Record { text, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format) -> Vec<Result<Record>> {
        let mut records = Records::new(text.as_bytes(), format);
        std::iter::from_fn(|| records.next().unwrap()).collect()
    }

    #[test]
    fn records_are_split_in_every_format() {
        let texts = |text, format| -> Vec<String> {
            read(text, format)
                .into_iter()
                .map(|record| record.unwrap().text)
                .collect()
        };
        assert_eq!(texts("a\r\nb\n\nc", Format::Lines), ["a", "b", "", "c"]);
        assert_eq!(texts("a\nb\0c\0", Format::Nul), ["a\nb", "c"]);
        let tabs = read("name\tage\nAnna\t7\nBo\n", Format::Tabs);
        let first = tabs[0].as_ref().unwrap();
        assert_eq!(first.field("age").as_deref(), Some("7"));
        assert_eq!(tabs[1].as_ref().unwrap().field("age"), None);
        let json = read("{\"a\":1}\nnonsense\n\"x\"\n", Format::Json);
        assert_eq!(json[0].as_ref().unwrap().field("a").as_deref(), Some("1"));
        assert!(json[1].is_err() && json[2].is_ok());
    }
}
