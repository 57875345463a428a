//! Records of standard input: lines, NUL-terminated texts, JSON objects, and rows of TSV or CSV.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use serde_json::Value as Json;

use super::encoding::Encoding;
use super::flag::{Flag, Group, switch};
use super::map::template;
use super::out;
use super::parsed::Parsed;
use super::stdin::Input;
use crate::core::error::{Error, Result};
use crate::core::json;

/// Shared by the commands that read records.
pub const NULL: Flag = switch(
    "null",
    Some('0'),
    "read records that end with NUL, not a newline",
)
.in_group(Group::Input);

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
    /// Comma-separated fields as in RFC 4180; the first row names them.
    Commas,
}

impl Format {
    /// The format of texts that the command line names.
    pub fn of_texts(parsed: &Parsed) -> Self {
        if parsed.has(&NULL) {
            Format::Nul
        } else {
            Format::Lines
        }
    }
}

/// A record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// The whole record without its terminator.
    pub text: String,
    fields: Fields,
    /// Why it cannot be used, though it can be printed.
    pub flaw: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Fields {
    #[default]
    None,
    Json(Json),
    /// The names of the columns and the row's cells, at least as many.
    Row(Arc<Vec<String>>, Vec<String>),
}

impl Record {
    /// The value of a field; `None` if the record has no such field.
    pub fn field(&self, name: &str) -> Option<String> {
        match &self.fields {
            Fields::None => None,
            Fields::Json(object) => template::field(object, name),
            Fields::Row(names, cells) => {
                let at = names.iter().position(|known| known == name)?;
                cells.get(at).cloned()
            }
        }
    }

    /// How many of its cells a column names.
    pub fn columns(&self) -> usize {
        match &self.fields {
            Fields::Row(names, _) => names.len(),
            _ => 0,
        }
    }

    /// Checks that the record can be used.
    ///
    /// # Errors
    /// `Usage` with its flaw.
    pub fn check(&self) -> Result<()> {
        match &self.flaw {
            Some(flaw) => Err(Error::usage(flaw.as_str())),
            None => Ok(()),
        }
    }

    /// True for a JSON object with this member.
    pub fn has_member(&self, name: &str) -> bool {
        matches!(&self.fields, Fields::Json(value) if value.get(name).is_some())
    }

    /// The JSON object of the record as it was read; `None` for other records.
    pub fn object(&self) -> Option<&str> {
        matches!(self.fields, Fields::Json(Json::Object(_))).then(|| self.text.trim())
    }

    /// The cells of a row, in the order of its columns; of any other record, none.
    pub fn cells(&self) -> &[String] {
        match &self.fields {
            Fields::Row(_, cells) => cells,
            _ => &[],
        }
    }

    /// The record as JSON: its value as it was read, an object of its fields, or its text.
    pub fn json(&self) -> Cow<'_, str> {
        match &self.fields {
            Fields::Json(_) => self.text.trim().into(),
            Fields::None => json::line(&self.text).into(),
            Fields::Row(names, cells) => {
                let cells = cells.iter().map(|cell| cell.as_str().into());
                let object = names.iter().cloned().zip(cells).collect();
                json::line(&Json::Object(object)).into()
            }
        }
    }
}

/// Reads records one by one.
pub struct Records<R> {
    input: Reader<R>,
    format: Format,
    encoding: Encoding,
    /// The names of the columns, once they are read.
    names: Option<Arc<Vec<String>>>,
    /// Number of calls of [`Records::line`].
    count: usize,
    /// Bytes that the records so far took.
    bytes: u64,
}

enum Reader<R> {
    Bytes(R),
    Rows(Box<csv::Reader<io::Take<Quotes<R>>>>),
}

/// An input of CSV, whose quotes are counted.
struct Quotes<R> {
    input: R,
    count: u64,
    /// The input has no more bytes.
    has_ended: bool,
}

impl<R> Quotes<R> {
    fn new(input: R) -> Self {
        Quotes {
            input,
            count: 0,
            has_ended: false,
        }
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(bytes)?;
        let quotes = bytes[..count].iter().filter(|byte| **byte == b'"');
        self.count += quotes.count() as u64;
        self.has_ended |= count == 0 && !bytes.is_empty();
        Ok(count)
    }
}

impl<R: BufRead> Records<R> {
    /// A reader of the records of an input.
    pub fn new(input: R, format: Format, encoding: Encoding) -> Self {
        let input = if format == Format::Commas {
            let rows = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(Read::take(Quotes::new(input), RECORD_BYTES_MAX));
            Reader::Rows(Box::new(rows))
        } else {
            Reader::Bytes(input)
        };
        Records {
            input,
            format,
            encoding,
            names: None,
            count: 0,
            bytes: 0,
        }
    }

    /// The text of the next record.
    ///
    /// # Errors
    /// If the input cannot be read or the record is invalid; the message has the record's number.
    pub fn line(&mut self) -> Result<Option<String>> {
        self.count += 1;
        let Some(record) = self.next()? else {
            return Ok(None);
        };
        let unreadable = |error: Error| {
            let text = format!("line {} of standard input: {error}", self.count);
            Error::plain(error.class(), text)
        };
        record.check().map_err(unreadable)?;
        Ok(Some(record.text))
    }

    /// The text that the next record stands for: the escapes of a line, as lists are printed, are resolved.
    ///
    /// # Errors
    /// As [`Records::line`].
    pub fn plain_text(&mut self) -> Result<Option<String>> {
        let is_line = self.format == Format::Lines;
        let plain = |line: String| if is_line { out::unescaped(&line) } else { line };
        Ok(self.line()?.map(plain))
    }

    /// The number of the record that [`Records::line`] returned last, counted from 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes of the input that were read as records.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The names of the columns, if the format has any and a record was asked for.
    pub fn names(&self) -> Option<Arc<Vec<String>>> {
        self.names.clone()
    }

    /// The next record; behind one with a flaw the next can still be read.
    ///
    /// # Errors
    /// If the input cannot be read, its columns have no names that can be read, or a record is longer than 16 MiB;
    /// reading cannot continue then.
    pub fn next(&mut self) -> Result<Option<Record>> {
        match self.format {
            Format::Lines | Format::Nul => {
                let text = self.text()?;
                Ok(text.map(|(text, flaw)| Record {
                    text,
                    fields: Fields::None,
                    flaw,
                }))
            }
            Format::Json => {
                let text = self.text()?;
                Ok(text.map(|(text, flaw)| json_record(text, flaw)))
            }
            Format::Tabs | Format::Commas => {
                let names = match &self.names {
                    Some(names) => names.clone(),
                    None => match self.row()? {
                        None => return Ok(None),
                        Some((_, Some(flaw))) => {
                            return Err(Error::usage(format!("the first line: {flaw}")));
                        }
                        Some((names, None)) => self.names.insert(Arc::new(names)).clone(),
                    },
                };
                Ok(self.row()?.map(|row| self.record(names, row)))
            }
        }
    }

    /// The cells of the next line or row, and why one of them cannot be read, if so.
    fn row(&mut self) -> Result<Option<(Vec<String>, Option<String>)>> {
        let cells: Vec<Vec<u8>> = match &mut self.input {
            Reader::Bytes(_) => match self.bytes_of_text()? {
                None => return Ok(None),
                Some(line) => line
                    .split(|byte| *byte == b'\t')
                    .map(<[u8]>::to_vec)
                    .collect(),
            },
            Reader::Rows(rows) => {
                let mut row = csv::ByteRecord::new();
                let read = rows.read_byte_record(&mut row).map_err(unreadable)?;
                if rows.get_ref().limit() == 0 {
                    return Err(too_long());
                }
                rows.get_mut().set_limit(RECORD_BYTES_MAX);
                self.bytes = rows.position().byte();
                if !read {
                    return Ok(None);
                }
                // Quotes come in pairs: behind an odd one the rest of the file is one cell.
                let quotes = rows.get_ref().get_ref();
                let is_open = quotes.has_ended && quotes.count % 2 == 1;
                if is_open && row.iter().any(|cell| cell.contains(&b'\n')) {
                    let line = row.position().map_or(0, csv::Position::line);
                    let text = format!(
                        "the quote that is opened in the row at line {line} is never closed"
                    );
                    return Err(Error::usage(text));
                }
                row.iter().map(<[u8]>::to_vec).collect()
            }
        };
        let mut flaw = None;
        let cells = cells.into_iter().map(|bytes| {
            let (text, why) = self.decoded(bytes, "a field");
            flaw = flaw.take().or(why);
            text
        });
        Ok(Some((cells.collect(), flaw)))
    }

    /// A row; one with too few cells gets empty ones, so that it can be printed in its columns.
    fn record(
        &self,
        names: Arc<Vec<String>>,
        (mut cells, flaw): (Vec<String>, Option<String>),
    ) -> Record {
        let text = match self.format {
            Format::Commas => csv_row(&cells),
            _ => cells.join("\t"),
        };
        let (found, wanted) = (cells.len(), names.len());
        let flaw = flaw.or_else(|| {
            (found != wanted)
                .then(|| format!("it has {found} of the {wanted} fields that the first line names"))
        });
        cells.resize(found.max(wanted), String::new());
        Record {
            text,
            fields: Fields::Row(names, cells),
            flaw,
        }
    }

    /// The next line or text, and why it cannot be read, if so.
    fn text(&mut self) -> Result<Option<(String, Option<String>)>> {
        let bytes = self.bytes_of_text()?;
        Ok(bytes.map(|bytes| self.decoded(bytes, "the record")))
    }

    /// The text of bytes; where they are none, a text that shows what can be read, and the reason.
    fn decoded(&self, bytes: Vec<u8>, what: &str) -> (String, Option<String>) {
        let (text, error) = self.encoding.decode_or_show(bytes, what);
        (text, error.map(|error| error.to_string()))
    }

    /// The bytes of the next line or text, without their end.
    fn bytes_of_text(&mut self) -> Result<Option<Vec<u8>>> {
        let Reader::Bytes(input) = &mut self.input else {
            return Ok(None);
        };
        let end = if self.format == Format::Nul { 0 } else { b'\n' };
        let mut bytes = Vec::new();
        let mut limited = Read::take(input, RECORD_BYTES_MAX);
        let read = limited.read_until(end, &mut bytes);
        let read = read.map_err(Input::error)?;
        self.bytes += read as u64;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 == RECORD_BYTES_MAX {
            return Err(too_long());
        }
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
        if end == b'\n' && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(Some(bytes))
    }
}

/// A record of JSON lines; one that is not JSON is its text.
fn json_record(text: String, flaw: Option<String>) -> Record {
    let text = json::repaired(text);
    let (fields, flaw) = match (flaw, serde_json::from_str(&text)) {
        (Some(flaw), _) => (Fields::None, Some(flaw)),
        (None, Ok(value)) => (Fields::Json(value), None),
        (None, Err(error)) => (Fields::None, Some(format!("not JSON: {error}"))),
    };
    Record { text, fields, flaw }
}

fn too_long() -> Error {
    Error::usage("a record of standard input is longer than 16 MiB")
}

fn unreadable(error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Input::error(error),
        other => Error::usage(format!("standard input is not CSV: {other:?}")),
    }
}

/// Cells as a row of CSV, without its line end.
pub fn csv_row(cells: &[String]) -> String {
    let mut row = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail, and a row of any length is allowed.
    let _ = row.write_record(cells);
    let bytes = row.into_inner().unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.trim_end_matches('\n').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format) -> Vec<Record> {
        let mut records = Records::new(text.as_bytes(), format, Encoding::Strict);
        std::iter::from_fn(|| records.next().unwrap()).collect()
    }

    #[test]
    fn records_are_split_in_every_format() {
        let texts = |text, format| -> Vec<String> {
            read(text, format)
                .into_iter()
                .map(|record| record.text)
                .collect()
        };
        assert_eq!(texts("a\r\nb\n\nc", Format::Lines), ["a", "b", "", "c"]);
        assert_eq!(texts("a\nb\0c\0", Format::Nul), ["a\nb", "c"]);
        let tabs = read("name\tage\nAnna\t7\nBo\n", Format::Tabs);
        let first = &tabs[0];
        assert_eq!(first.field("age").as_deref(), Some("7"));
        assert!(tabs[1].flaw.is_some());
        let text = "name,says\r\nAnna,\"a, \"\"b\"\"\nc\"\r\nBo\r\nEva,\n";
        let rows = read(text, Format::Commas);
        let first = &rows[0];
        assert_eq!(first.field("says").as_deref(), Some("a, \"b\"\nc"));
        assert_eq!(first.text, "Anna,\"a, \"\"b\"\"\nc\"");
        let short = &rows[1];
        let flaw = short.flaw.as_deref();
        assert_eq!(
            flaw,
            Some("it has 1 of the 2 fields that the first line names")
        );
        assert_eq!(short.cells(), ["Bo", ""]);
        assert_eq!(rows[2].field("says").as_deref(), Some(""));
        let json = read("{\"a\":1}\nnonsense\n\"x\"\n", Format::Json);
        assert_eq!(json[0].field("a").as_deref(), Some("1"));
        let wrong = &json[1];
        assert!(
            wrong.flaw.is_some() && wrong.text == "nonsense",
            "{wrong:?}"
        );
        let mut open = Records::new("a\n\"b\nc\n".as_bytes(), Format::Commas, Encoding::Strict);
        let error = open.next().unwrap_err().to_string();
        assert_eq!(
            error,
            "the quote that is opened in the row at line 2 is never closed"
        );
    }
}
