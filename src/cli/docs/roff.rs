//! roff, the language of manual pages: text written into it and read out of it.

/// Longest line of text.
const LINE_BYTES: usize = 80;

/// Text that roff prints as it is.
pub fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti")
        .replace('^', "\\(ha");
    if text.starts_with('.') {
        format!("\\&{text}")
    } else {
        text
    }
}

/// Text in lines of at most 80 bytes, as roff's input should be.
pub fn lines(text: &str) -> String {
    let mut all = String::new();
    let mut length = 0;
    for word in escaped(text).split(' ') {
        let fits = length + 1 + word.len() <= LINE_BYTES;
        if length > 0 {
            all.push(if fits { ' ' } else { '\n' });
            length = if fits { length + 1 } else { 0 };
        }
        if length == 0 && word.starts_with('.') && !all.is_empty() {
            all.push_str("\\&");
        }
        all.push_str(word);
        length += word.len();
    }
    all
}

/// A page as text for a terminal or a pipe: headings, paragraphs and indented lines.
pub fn plain(roff: &str) -> String {
    let mut text = String::new();
    let (mut verbatim, mut term, mut indent) = (false, false, 2);
    let mut paragraph = Vec::new();
    for line in roff.lines() {
        let (request, rest) = match line.strip_prefix('.') {
            Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
            None => ("", line),
        };
        let words = unescaped(rest);
        if matches!(request, "" | "B" | "BR" | "BI" | "I") && !verbatim && !term {
            paragraph.push(words);
            continue;
        }
        let before = std::mem::take(&mut paragraph);
        if !before.is_empty() {
            text += &wrapped(&before.join(" "), indent);
        }
        match request {
            "SH" | "SS" => {
                indent = 2;
                text += &format!("\n{words}\n");
            }
            "PP" => {
                indent = 2;
                text.push('\n');
            }
            "TP" => term = true,
            "nf" => verbatim = true,
            "fi" => verbatim = false,
            "" if verbatim => text += &format!("      {words}\n"),
            "" | "B" | "BR" | "BI" | "I" => {
                term = false;
                text += &wrapped(&words, 2);
                indent = 6;
            }
            _ => {} // .TH, .RS, .RE and comments.
        }
    }
    if !paragraph.is_empty() {
        text += &wrapped(&paragraph.join(" "), indent);
    }
    text.trim_start().to_string()
}

/// A paragraph in lines of at most 80 columns, indented by so many.
fn wrapped(words: &str, indent: usize) -> String {
    let mut lines = vec![" ".repeat(indent - 1)];
    for word in words.split(' ') {
        let last = lines.last_mut().expect("there is a line");
        if last.len() + 1 + word.len() > 80 && last.len() >= indent {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

/// The text of a roff line.
pub fn unescaped(line: &str) -> String {
    line.replace("\\(aq", "'")
        .replace("\\(ti", "~")
        .replace("\\(ha", "^")
        .replace("\\&", "")
        .replace("\\-", "-")
        .replace("\\e", "\\")
}
