//! Checks GBNF grammars before llama.cpp reads them: its parser writes errors to standard error, is
//! recursive, and keeps every alternative in memory for each token.

use std::collections::{HashMap, HashSet};

/// Most bytes of a grammar's text.
const BYTES_MAX: usize = 1 << 20;
/// Most alternatives of a grammar.
const ALTERNATIVES_MAX: usize = 10_000;
/// Most rules, including those generated for brackets and repetitions: the check takes quadratic time.
const RULES_MAX: usize = 10_000;
/// Deepest nesting of brackets.
const NESTED_MAX: usize = 100;
/// Most repetitions of one item.
const REPEATS_MAX: u32 = 2_000;

/// Checks a grammar whose root rule is `root`.
///
/// # Errors
/// The mistake, and its line where there is one.
pub fn check(source: &str) -> Result<(), String> {
    if source.len() > BYTES_MAX {
        return Err("it is longer than 1 MiB".into());
    }
    if source.contains('\0') {
        return Err("it contains a NUL byte".into());
    }
    let mut parser = Parser::new(source);
    parser.rules()?;
    if !parser.defined.contains("root") {
        return Err("it has no rule named root".into());
    }
    if let Some(name) = parser
        .names
        .keys()
        .find(|name| !parser.defined.contains(*name))
    {
        return Err(format!("the rule {name} is used but not defined"));
    }
    if parser.rules.len() > RULES_MAX {
        Err("it has too many rules".into())
    } else {
        parser.check_recursion()
    }
}

/// The texts that a grammar allows, if it is only a list of literals: `root ::= "yes" | "no"`.
pub fn choices(source: &str) -> Option<Vec<String>> {
    let rest = source.trim().strip_prefix("root")?.trim_start();
    let mut rest = rest.strip_prefix("::=")?;
    let mut choices = Vec::new();
    loop {
        let mut choice = String::new();
        let mut chars = rest.trim_start().strip_prefix('"')?.chars();
        loop {
            choice.push(match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    plain @ ('\\' | '"') => plain,
                    _ => return None,
                },
                plain => plain,
            });
        }
        if choice.is_empty() {
            return None;
        }
        choices.push(choice);
        rest = chars.as_str().trim();
        if rest.is_empty() {
            return Some(choices);
        }
        rest = rest.strip_prefix('|')?;
    }
}

/// An item of a sequence.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// Characters.
    Text,
    /// A rule by its number.
    Rule(usize),
}

type Alternatives = Vec<Vec<Item>>;

struct Parser<'a> {
    source: &'a str,
    at: usize,
    rules: Vec<Alternatives>,
    names: HashMap<&'a str, usize>,
    defined: HashSet<&'a str>,
    alternatives: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Self {
        Parser {
            source,
            at: 0,
            rules: Vec::new(),
            names: HashMap::new(),
            defined: HashSet::new(),
            alternatives: 0,
        }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn wrong<T>(&self, why: &str) -> Result<T, String> {
        let line = self.source[..self.at].matches('\n').count() + 1;
        Err(format!("line {line}: {why}"))
    }

    /// Skips spaces and comments, and line breaks if `lines` is set.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if lines => self.at += 1,
                '#' => self.at += self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()),
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn number_of(&mut self, name: &'a str) -> usize {
        let next = self.rules.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            self.rules.push(Vec::new());
        }
        number
    }

    fn rules(&mut self) -> Result<(), String> {
        self.space(true);
        while !self.rest().is_empty() {
            let Some(name) = self.name() else {
                return self.wrong("a rule must start with its name");
            };
            self.space(false);
            if !self.eat("::=") {
                return self.wrong(&format!("::= is missing after {name}"));
            }
            self.space(true);
            let number = self.number_of(name);
            self.defined.insert(name);
            self.rules[number] = self.choice(0)?;
            if !matches!(self.peek(), None | Some('\n' | '\r')) {
                return self.wrong("unexpected text after the rule");
            }
            self.space(true);
        }
        Ok(())
    }

    fn choice(&mut self, depth: usize) -> Result<Alternatives, String> {
        if depth > NESTED_MAX {
            return self.wrong("it is nested too deeply");
        }
        let mut all = vec![self.sequence(depth)?];
        while self.eat("|") {
            self.alternatives += 1;
            if self.alternatives > ALTERNATIVES_MAX {
                return self.wrong("it has too many alternatives");
            }
            self.space(true);
            all.push(self.sequence(depth)?);
        }
        Ok(all)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        loop {
            let item = match self.peek() {
                Some('"') => self.literal('"')?,
                Some('[') => self.literal(']')?,
                Some('.') => {
                    self.at += 1;
                    Item::Text
                }
                Some('<' | '!') => self.token()?,
                Some('(') => {
                    self.at += 1;
                    self.space(true);
                    let group = self.choice(depth + 1)?;
                    if !self.eat(")") {
                        return self.wrong("a bracket is not closed");
                    }
                    self.rules.push(group);
                    Item::Rule(self.rules.len() - 1)
                }
                _ => match self.name() {
                    Some(name) => Item::Rule(self.number_of(name)),
                    None => return Ok(items),
                },
            };
            self.space(depth > 0);
            let item = self.repeated(item)?;
            items.push(item);
            self.space(depth > 0);
        }
    }

    /// Reads what follows an item: `*`, `+`, `?` or `{…}`.
    fn repeated(&mut self, item: Item) -> Result<Item, String> {
        let least = match self.peek() {
            Some('*' | '?') => 0,
            Some('+') => 1,
            Some('{') => {
                let Some(end) = self.rest().find('}') else {
                    return self.wrong("a { is not closed");
                };
                let counts = &self.rest()[1..end];
                let (low, high) = counts.split_once(',').unwrap_or((counts, counts));
                let low: Option<u32> = low.trim().parse().ok();
                let high = match high.trim() {
                    "" => low,
                    high => high.parse().ok(),
                };
                let (Some(low), Some(high)) = (low, high) else {
                    return self.wrong("{ needs a number, or two numbers separated by a comma");
                };
                if low.max(high) > REPEATS_MAX {
                    return self.wrong("it repeats something more than 2000 times");
                }
                self.at += end;
                low
            }
            _ => return Ok(item),
        };
        self.at += 1;
        if least > 0 {
            return Ok(item);
        }
        self.rules.push(vec![vec![item], Vec::new()]);
        Ok(Item::Rule(self.rules.len() - 1))
    }

    /// Reads a quoted literal or a character class.
    fn literal(&mut self, close: char) -> Result<Item, String> {
        self.at += 1;
        let mut empty = true;
        loop {
            match self.next() {
                None | Some('\n') => return self.wrong(&format!("{close} is missing")),
                Some(c) if c == close => break,
                Some('\\') => self.escape()?,
                Some(_) => {}
            }
            empty = false;
        }
        if empty && close == '"' {
            self.rules.push(vec![Vec::new()]);
            Ok(Item::Rule(self.rules.len() - 1))
        } else {
            Ok(Item::Text)
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let digits = match self.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t' | 'r' | 'n' | '\\' | '"' | '[' | ']') => return Ok(()),
            _ => return self.wrong("unknown escape"),
        };
        for _ in 0..digits {
            if !self.next().is_some_and(|c| c.is_ascii_hexdigit()) {
                return self.wrong(&format!("an escape needs {digits} hex digits"));
            }
        }
        Ok(())
    }

    /// Reads a token by its number, `<[7]>`, or its text; `!` means any other token.
    fn token(&mut self) -> Result<Item, String> {
        self.eat("!");
        let Some(end) = self.rest().find('>').filter(|_| self.eat("<")) else {
            return self.wrong("a token is written <[number]> or <text>");
        };
        self.at += end;
        Ok(Item::Text)
    }

    /// Rejects left-recursive rules.
    fn check_recursion(&self) -> Result<(), String> {
        let mut empty = vec![false; self.rules.len()];
        loop {
            let can = |item: &Item, empty: &[bool]| match item {
                Item::Text => false,
                Item::Rule(number) => empty[*number],
            };
            let before = empty.clone();
            for (number, rule) in self.rules.iter().enumerate() {
                empty[number] |= rule
                    .iter()
                    .any(|sequence| sequence.iter().all(|item| can(item, &before)));
            }
            if empty == before {
                break;
            }
        }
        // 0 unseen, 1 in progress, 2 done; an explicit stack instead of recursion.
        let mut seen = vec![0_u8; self.rules.len()];
        for start in 0..self.rules.len() {
            let mut open = vec![(start, false)];
            while let Some((number, left)) = open.pop() {
                if left {
                    seen[number] = 2;
                    continue;
                }
                if seen[number] != 0 {
                    continue;
                }
                seen[number] = 1;
                open.push((number, true));
                for first in self.firsts(number, &empty) {
                    if seen[first] == 1 {
                        return Err("a rule in it begins with itself".into());
                    }
                    open.push((first, false));
                }
            }
        }
        Ok(())
    }

    /// The rules that a rule may begin with.
    fn firsts(&self, number: usize, empty: &[bool]) -> Vec<usize> {
        let mut firsts = Vec::new();
        for sequence in &self.rules[number] {
            for item in sequence {
                let Item::Rule(rule) = item else { break };
                firsts.push(*rule);
                if !empty[*rule] {
                    break;
                }
            }
        }
        firsts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_texts_is_recognised() {
        let texts = choices("root ::= \"yes\" |\n \"n\\\"o\\n\"\n").unwrap();
        assert_eq!(texts, ["yes", "n\"o\n"]);
        for other in [
            "root ::= \"a\" x\nx ::= \"b\"",
            "root ::= \"a\"?",
            "root ::= \"\"",
            "root ::= \"a\" |",
            "root ::= \"\\x41\"",
            "roots ::= \"a\"",
            "root ::= [a]",
        ] {
            assert_eq!(choices(other), None, "{other}");
        }
    }

    #[test]
    fn grammars_of_every_kind_are_accepted() {
        for source in [
            "root ::= \"a\"",
            "root ::= \"((((\" | [(] # ((\n",
            "# first\nroot ::= [a-z ] root\n",
            "root ::= ws (item \",\" ws)* item?\nitem ::=\n  \"x\" | # or\n  [^\\]\\x41\\u00e9]+ | .{2,3} | <[7]> | !<think>\nws ::= [ \\t\\n]*\n",
            "root ::= a-b_c{0,}\na-b_c ::= \"\\\"\"",
            "root ::= (\n  \"a\"\n | \"b\"\n)",
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn grammars_that_crash_llama_cpp_are_refused() {
        let deep = format!(
            "root ::= {}\"a\"{}",
            "(".repeat(100_000),
            ")".repeat(100_000)
        );
        let wide = format!("root ::= {}\"a\"", "\"a\" | ".repeat(60_000));
        let many: Vec<String> = (0..20_000)
            .map(|at| format!("a{at} ::= a{}", at + 1))
            .collect();
        let many = format!("root ::= a0\n{}\na20000 ::= \"a\"", many.join("\n"));
        for (source, words) in [
            ("root ::= foo", "the rule foo is used but not defined"),
            ("foo ::= \"a\"", "no rule named root"),
            ("root ::= (((", "a bracket is not closed"),
            ("root ::= \"unclosed", "\" is missing"),
            ("root ::= \"\\u12\"", "4 hex digits"),
            ("root ::= \"\\u{41}\"", "4 hex digits"),
            ("root ::= \"\\q\"", "unknown escape"),
            ("root ::= root \"a\"", "begins with itself"),
            ("root ::= \"a\"? root \"a\"", "begins with itself"),
            ("root = \"a\"", "::= is missing"),
            ("root ::= \"a\" )", "unexpected text"),
            ("root ::= \"a\"{1,99999999}", "more than 2000 times"),
            ("root ::= \"\0\"", "NUL"),
            (&deep, "nested too deeply"),
            (&wide, "too many alternatives"),
            (&many, "too many rules"),
        ] {
            let error = check(source).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}
