//! roff, the language of manual pages: text written into it and read out of it.

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

/// A page as text for a terminal or a pipe: headings, paragraphs and indented lines.
pub fn plain(roff: &str) -> String {
    let mut text = String::new();
    let (mut verbatim, mut term, mut indent) = (false, false, 2);
    for line in roff.lines() {
        let (request, rest) = match line.strip_prefix('.') {
            Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
            None => ("", line),
        };
        let words = unescaped(rest);
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
            "" | "B" | "BR" | "BI" | "I" if std::mem::take(&mut term) => {
                text += &wrapped(&words, 2);
                indent = 6;
            }
            "" | "B" | "BR" | "BI" | "I" => text += &wrapped(&words, indent),
            _ => {} // .TH, .RS, .RE and comments.
        }
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
