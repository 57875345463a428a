//! Parses tokens into a syntax tree.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use super::lex::{Kind, Token};
use super::tree::{Node, Nodes, Operand, Pipe, Tree};

/// Maximum nesting of blocks and parentheses.
const DEPTH_MAX: usize = 100;

/// Parses tokens; `functions` are the names that may be called.
///
/// # Errors
/// The first error, after its line number.
pub fn parse(tokens: Vec<Token>, functions: &[&str]) -> Result<Tree, String> {
    let mut parser = Parser {
        tokens,
        at: 0,
        functions,
        variables: vec![String::new()],
        defined: HashMap::new(),
        ranges: 0,
        depth: 0,
    };
    let (root, end) = parser.nodes()?;
    match end {
        End::File => Ok(Tree {
            root,
            defined: parser.defined,
        }),
        End::Block => parser.error("unexpected {{end}}"),
        End::Else => parser.error("unexpected {{else}}"),
    }
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    functions: &'a [&'a str],
    /// Variables declared so far; those of a block are dropped at its end.
    variables: Vec<String>,
    defined: HashMap<String, Nodes>,
    ranges: usize,
    depth: usize,
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum End {
    File,
    Block,
    Else,
}

impl Parser<'_> {
    fn error<T>(&self, what: &str) -> Result<T, String> {
        let last = self.tokens.len().saturating_sub(1);
        let line = self.tokens.get(self.at.saturating_sub(1).min(last));
        Err(format!(":{}: {what}", line.map_or(1, |token| token.line)))
    }

    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn next(&mut self) -> Option<Kind> {
        let kind = self.peek().cloned();
        self.at += 1;
        kind
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Kind::Space) {
            self.at += 1;
        }
    }

    fn next_solid(&mut self) -> Option<Kind> {
        self.skip_space();
        self.next()
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn nodes(&mut self) -> Result<(Nodes, End), String> {
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => return Ok((Arc::new(nodes), End::File)),
                Some(Kind::Text(text)) => nodes.push(Node::Text(text)),
                Some(Kind::Open) => {
                    self.skip_space();
                    let word = match self.peek() {
                        Some(Kind::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match word.as_str() {
                        "end" => {
                            self.at += 1;
                            self.close("end")?;
                            return Ok((Arc::new(nodes), End::Block));
                        }
                        "else" => {
                            self.at += 1;
                            return Ok((Arc::new(nodes), End::Else));
                        }
                        word => nodes.extend(self.deeper(|parser| parser.action(word))?),
                    }
                }
                Some(other) => return self.error(&format!("unexpected {other:?}")),
            }
        }
    }

    fn close(&mut self, context: &str) -> Result<(), String> {
        match self.next_solid() {
            Some(Kind::Close) => Ok(()),
            _ => self.error(&format!("unexpected token in {context}")),
        }
    }

    fn action(&mut self, word: &str) -> Result<Option<Node>, String> {
        if !matches!(
            word,
            "if" | "with" | "range" | "define" | "block" | "template" | "break" | "continue"
        ) {
            let pipe = self.pipe("command", &Kind::Close)?;
            return Ok(Some(Node::Action(pipe)));
        }
        self.at += 1;
        match word {
            "if" | "with" => self.branch(word).map(Some),
            "range" => self.range().map(Some),
            "template" => self.call().map(Some),
            "define" => self.define().map(|()| None),
            "block" => self.block().map(Some),
            _ if self.ranges == 0 => self.error(&format!("{{{{{word}}}}} outside {{{{range}}}}")),
            _ => {
                self.close(word)?;
                Ok(Some(if word == "break" {
                    Node::Break
                } else {
                    Node::Continue
                }))
            }
        }
    }

    fn branch(&mut self, word: &str) -> Result<Node, String> {
        let known = self.variables.len();
        let pipe = self.pipe(word, &Kind::Close)?;
        let (yes, end) = self.nodes()?;
        let no = match end {
            End::File => return self.error("unexpected EOF"),
            End::Block => Nodes::default(),
            End::Else => self.otherwise(word)?,
        };
        self.variables.truncate(known);
        let moves_dot = word == "with";
        Ok(Node::Branch {
            moves_dot,
            pipe,
            yes,
            no,
        })
    }

    /// Parses the part after `else`: another condition, or a list up to `end`.
    fn otherwise(&mut self, word: &str) -> Result<Nodes, String> {
        self.skip_space();
        if self.peek() == Some(&Kind::Word(word.into())) {
            self.at += 1;
            let node = self.deeper(|parser| parser.branch(word))?;
            return Ok(Arc::new(vec![node]));
        }
        self.last_list("else")
    }

    fn last_list(&mut self, context: &str) -> Result<Nodes, String> {
        self.close(context)?;
        match self.nodes()? {
            (nodes, End::Block) => Ok(nodes),
            (_, End::File) => self.error("unexpected EOF"),
            (_, End::Else) => self.error("expected end; found {{else}}"),
        }
    }

    fn range(&mut self) -> Result<Node, String> {
        let known = self.variables.len();
        let pipe = self.pipe("range", &Kind::Close)?;
        self.ranges += 1;
        let (body, end) = self.nodes()?;
        self.ranges -= 1;
        let none = match end {
            End::File => return self.error("unexpected EOF"),
            End::Block => Nodes::default(),
            End::Else => self.last_list("else")?,
        };
        self.variables.truncate(known);
        Ok(Node::Range { pipe, body, none })
    }

    fn name(&mut self, context: &str) -> Result<String, String> {
        match self.next_solid() {
            Some(Kind::Literal(name)) => Ok(name),
            _ => self.error(&format!(
                "unexpected token in {context}: the name must be a string"
            )),
        }
    }

    fn call(&mut self) -> Result<Node, String> {
        let name = self.name("template clause")?;
        self.skip_space();
        let pipe = match self.peek() {
            Some(Kind::Close) => {
                self.at += 1;
                None
            }
            _ => Some(self.pipe("template clause", &Kind::Close)?),
        };
        Ok(Node::Call { name, pipe })
    }

    fn define(&mut self) -> Result<(), String> {
        let name = self.name("define clause")?;
        let nodes = self.body_of("define clause")?;
        self.defined.insert(name, nodes);
        Ok(())
    }

    fn block(&mut self) -> Result<Node, String> {
        let name = self.name("block clause")?;
        let pipe = self.pipe("block clause", &Kind::Close)?;
        self.at -= 1; // `body_of` reads the closing delimiter again.
        let nodes = self.body_of("block clause")?;
        self.defined.insert(name.clone(), nodes);
        Ok(Node::Call {
            name,
            pipe: Some(pipe),
        })
    }

    /// Parses a list with its own variables and loops.
    fn body_of(&mut self, context: &str) -> Result<Nodes, String> {
        let variables = mem::replace(&mut self.variables, vec![String::new()]);
        let ranges = mem::take(&mut self.ranges);
        let nodes = self.last_list(context)?;
        self.variables = variables;
        self.ranges = ranges;
        Ok(nodes)
    }

    /// Parses a pipe through `end`.
    fn pipe(&mut self, context: &str, end: &Kind) -> Result<Pipe, String> {
        let mut pipe = self.declarations(context)?;
        let mut command = Vec::new();
        loop {
            let spaced = self.peek() == Some(&Kind::Space);
            self.skip_space();
            let next = self.next();
            if matches!(&next, Some(kind) if kind == end || *kind == Kind::Pipe) {
                if command.is_empty() {
                    let what = if pipe.commands.is_empty() {
                        format!("missing value for {context}")
                    } else {
                        "missing value for command".to_string()
                    };
                    return self.error(&what);
                }
                self.check(&command, pipe.commands.len())?;
                pipe.commands.push(mem::take(&mut command));
                if next.as_ref() == Some(end) {
                    return Ok(pipe);
                }
                continue;
            }
            if !spaced && !command.is_empty() {
                return self.error("operands need a space between them");
            }
            command.push(self.operand(next)?);
        }
    }

    /// Checks that only a command's first word is called, and that a later command of a pipe is callable.
    fn check(&self, command: &[Operand], earlier: usize) -> Result<(), String> {
        let constant = matches!(
            command[0],
            Operand::Nil
                | Operand::Bool(_)
                | Operand::Int(_)
                | Operand::Float(_)
                | Operand::Text(_)
        );
        if earlier > 0
            && (constant || matches!(&command[0], Operand::Field(path) if path.is_empty()))
        {
            return self.error("non executable command in pipeline");
        }
        if constant && command.len() > 1 {
            return self.error("can't give argument to non-function");
        }
        Ok(())
    }

    /// Parses `$x :=`, `$i, $x :=` or `$x =` before a pipe.
    fn declarations(&mut self, context: &str) -> Result<Pipe, String> {
        let start = self.at;
        let mut variables = Vec::new();
        loop {
            match self.next_solid() {
                Some(Kind::Variable(name)) if !name.is_empty() => variables.push(name),
                _ => break,
            }
            match self.next_solid() {
                Some(Kind::Comma) if context == "range" && variables.len() < 2 => {}
                Some(kind @ (Kind::Declare | Kind::Assign)) => {
                    let assigns = kind == Kind::Assign;
                    for name in &variables {
                        if assigns {
                            self.known(name)?
                        } else {
                            self.variables.push(name.clone())
                        }
                    }
                    return Ok(Pipe {
                        variables,
                        assigns,
                        commands: Vec::new(),
                    });
                }
                Some(Kind::Comma) => {
                    return self.error(&format!("too many declarations in {context}"));
                }
                _ => break,
            }
        }
        self.at = start;
        Ok(Pipe::default())
    }

    fn known(&self, name: &String) -> Result<(), String> {
        if self.variables.contains(name) {
            Ok(())
        } else {
            self.error(&format!("undefined variable \"${name}\""))
        }
    }

    fn operand(&mut self, first: Option<Kind>) -> Result<Operand, String> {
        let operand = match first {
            Some(Kind::Dot) => Operand::Field(Vec::new()),
            Some(Kind::Field(name)) => Operand::Field(self.fields(vec![name])),
            Some(Kind::Variable(name)) => {
                self.known(&name)?;
                Operand::Variable(name, self.fields(Vec::new()))
            }
            Some(Kind::Left) => {
                let pipe =
                    self.deeper(|parser| parser.pipe("parenthesized pipeline", &Kind::Right))?;
                Operand::Chain(Box::new(pipe), self.fields(Vec::new()))
            }
            Some(Kind::Literal(text)) => Operand::Text(text),
            Some(Kind::Int(value)) => Operand::Int(value),
            Some(Kind::Float(value)) => Operand::Float(value),
            Some(Kind::Word(word)) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                name if self.functions.contains(&name) => Operand::Function(word),
                _ => return self.error(&format!("function {word:?} not defined")),
            },
            None => return self.error("unclosed action"),
            Some(other) => return self.error(&format!("unexpected {other:?} in operand")),
        };
        Ok(operand)
    }

    fn fields(&mut self, mut names: Vec<String>) -> Vec<String> {
        while let Some(Kind::Field(name)) = self.peek() {
            names.push(name.clone());
            self.at += 1;
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::super::lex;
    use super::*;

    fn parsed(source: &str) -> Result<Tree, String> {
        parse(lex::tokens(source)?, &["len", "eq"])
    }

    #[test]
    fn invalid_templates_are_refused() {
        for (source, error) in [
            ("{{ if .A }}x", "unexpected EOF"),
            ("{{ end }}", "unexpected {{end}}"),
            ("{{ else }}", "unexpected {{else}}"),
            ("{{ $y }}", "undefined variable \"$y\""),
            (
                "{{ if true }}{{ $y := 1 }}{{ end }}{{ $y }}",
                "undefined variable",
            ),
            ("{{ nofunction 1 }}", "function \"nofunction\" not defined"),
            ("{{ continue }}", "{{continue}} outside {{range}}"),
            ("{{ }}", "missing value for command"),
            ("{{ if }}{{ end }}", "missing value for if"),
            ("{{ 1 2 }}", "can't give argument to non-function"),
            ("{{ .A | 1 }}", "non executable command in pipeline"),
            ("{{ template x }}", "the name must be a string"),
        ] {
            let found = parsed(source).unwrap_err();
            assert!(found.contains(error), "{source}: {found}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999));
        assert!(parsed(&deep).unwrap_err().contains("nested too deeply"));
        let deep = "{{ if .A }}".repeat(9999);
        assert!(parsed(&deep).unwrap_err().contains("nested too deeply"));
        let chain = format!(
            "{{{{ if .A }}}}{}{{{{ end }}}}",
            "{{ else if .B }}b".repeat(999)
        );
        assert!(parsed(&chain).unwrap_err().contains("nested too deeply"));
    }
}
