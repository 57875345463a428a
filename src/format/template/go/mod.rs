//! Go templates: renders the TEMPLATE of a Modelfile over a conversation.
//!
//! Implemented here because the one maintained crate for the language (gtmpl-ng) does not expose its
//! tree, which legacy templates need, and differs in missing keys, `break` and short circuits.

mod data;
mod functions;
mod input;
mod lex;
mod parse;
mod run;
mod tree;
mod value;

pub use input::Input;

use std::sync::Arc;

use crate::core::clock::Local;
use crate::core::error::{Error, Result};
use crate::core::message::Message;
use data::Root;
use tree::{Node, Nodes, Operand, Pipe, Tree};

/// A compiled TEMPLATE.
pub struct GoTemplate {
    tree: Tree,
    /// The tree up to its first `.Response`; the last turn of a legacy template is rendered with it.
    opened: Nodes,
    /// Lower-cased names of the fields and variables in the template.
    names: Vec<String>,
}

impl GoTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// The first error in the template, in Go's wording: `template: :1: unclosed action`.
    pub fn compile(source: &str) -> Result<Self> {
        let wrong = |error: String| Error::usage(format!("template: {error}"));
        let tokens = lex::tokens(source).map_err(wrong)?;
        let mut tree = parse::parse(tokens, functions::NAMES).map_err(wrong)?;
        let mut names = Vec::new();
        name_nodes(&tree.root, &mut names);
        tree.defined
            .values()
            .for_each(|nodes| name_nodes(nodes, &mut names));
        if !names
            .iter()
            .any(|name| name == "messages" || name == "response")
        {
            let response = Pipe {
                commands: vec![vec![Operand::Field(vec!["Response".into()])]],
                ..Pipe::default()
            };
            let mut nodes = tree.root.to_vec();
            nodes.push(Node::Action(response));
            tree.root = Arc::new(nodes);
            names.push("response".into());
        }
        let (opened, _) = before_response(&tree.root);
        Ok(GoTemplate {
            tree,
            opened,
            names,
        })
    }

    /// True if the template reads `name`, such as `Tools` or `Suffix`.
    pub fn mentions(&self, name: &str) -> bool {
        self.names.contains(&name.to_lowercase())
    }

    /// Renders the prompt for a conversation.
    ///
    /// # Errors
    /// If the template fails while it runs.
    pub fn render(&self, input: &Input) -> Result<String> {
        let messages = data::collate(input.messages);
        let outcome = if self.mentions("messages") {
            let root = Root::new(input).messages(&messages).tools(input.tools);
            run::run(&self.tree, &self.tree.root, root.value(), input.now)
        } else {
            self.legacy(input, &messages)
        };
        outcome.map_err(fails)
    }

    /// Renders the prompt that asks for the text between `prompt` and `suffix`.
    ///
    /// # Errors
    /// As [`GoTemplate::render`].
    pub fn insert(&self, prompt: &str, suffix: &str, now: Local) -> Result<String> {
        let input = Input {
            messages: &[],
            tools: &[],
            think: None,
            now,
        };
        let root = Root::new(&input)
            .text("Prompt", prompt)
            .text("Suffix", suffix)
            .text("Response", "");
        run::run(&self.tree, &self.tree.root, root.value(), now).map_err(fails)
    }

    /// Renders each group of system, prompt and response once; the last group is left open.
    fn legacy(&self, input: &Input, messages: &[Message]) -> std::result::Result<String, String> {
        let mut out = String::new();
        let (mut system, mut prompt, mut response) = ("", "", "");
        let root = |system: &str, prompt: &str, response: &str| {
            let root = Root::new(input)
                .text("System", system)
                .text("Prompt", prompt);
            root.text("Response", response).value()
        };
        for message in messages {
            let content = message.content.as_str();
            let full = match message.role.as_str() {
                "system" => !prompt.is_empty() || !response.is_empty(),
                "user" => !response.is_empty(),
                _ => false,
            };
            if full {
                let root = root(system, prompt, response);
                out += &run::run(&self.tree, &self.tree.root, root, input.now)?;
                (system, prompt, response) = ("", "", "");
            }
            match message.role.as_str() {
                "system" => system = content,
                "user" => prompt = content,
                "assistant" => response = content,
                _ => {}
            }
        }
        let root = root(system, prompt, response);
        Ok(out + &run::run(&self.tree, &self.opened, root, input.now)?)
    }
}

fn fails(error: String) -> Error {
    Error::failed(format!("the model's TEMPLATE fails: {error}"))
}

fn name_nodes(nodes: &Nodes, names: &mut Vec<String>) {
    for node in nodes.iter() {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipe) => name_pipe(pipe, names),
            Node::Call { pipe, .. } => pipe.iter().for_each(|pipe| name_pipe(pipe, names)),
            Node::Branch {
                pipe,
                yes: body,
                no: other,
                ..
            }
            | Node::Range {
                pipe,
                body,
                none: other,
            } => {
                name_pipe(pipe, names);
                name_nodes(body, names);
                name_nodes(other, names);
            }
        }
    }
}

fn name_pipe(pipe: &Pipe, names: &mut Vec<String>) {
    let mut add = |name: &String| names.push(name.to_lowercase());
    for operand in pipe.commands.iter().flatten() {
        match operand {
            Operand::Field(path) => path.iter().for_each(&mut add),
            Operand::Variable(name, path) => [name].into_iter().chain(path).for_each(&mut add),
            _ => {}
        }
    }
    for operand in pipe.commands.iter().flatten() {
        if let Operand::Chain(pipe, _) = operand {
            name_pipe(pipe, names);
        }
    }
}

/// Returns the nodes up to and including the first action that prints `.Response`, and whether
/// one was found.
fn before_response(nodes: &Nodes) -> (Nodes, bool) {
    let mut remaining = Vec::new();
    for node in nodes.iter() {
        let (node, found) = match node {
            Node::Action(pipe) => match response_command(pipe) {
                // The output of a later command would close the turn, so the whole action is dropped.
                Some(at) if at + 1 < pipe.commands.len() => return (Arc::new(remaining), true),
                found => (node.clone(), found.is_some()),
            },
            Node::Branch {
                moves_dot,
                pipe,
                yes,
                no,
            } => {
                let (moves_dot, pipe) = (*moves_dot, pipe.clone());
                let (yes, in_yes) = before_response(yes);
                let (no, in_no) = before_response(no);
                (
                    Node::Branch {
                        moves_dot,
                        pipe,
                        yes,
                        no,
                    },
                    in_yes || in_no,
                )
            }
            Node::Range { pipe, body, none } => {
                let (body, in_body) = before_response(body);
                let (none, in_none) = before_response(none);
                let pipe = pipe.clone();
                (Node::Range { pipe, body, none }, in_body || in_none)
            }
            other => (other.clone(), false),
        };
        remaining.push(node);
        if found {
            return (Arc::new(remaining), true);
        }
    }
    (Arc::new(remaining), false)
}

/// Returns the index of the command in a pipe that names `.Response` itself.
fn response_command(pipe: &Pipe) -> Option<usize> {
    let names = |operand: &Operand| matches!(operand, Operand::Field(path) if path.first().is_some_and(|name| name == "Response"));
    pipe.commands
        .iter()
        .position(|command| command.iter().any(names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message::Tool;
    use crate::core::message::ToolCall;

    fn message(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        with_tools(source, messages, &[])
    }

    fn with_tools(source: &str, messages: &[Message], tools: &[Tool]) -> Result<String> {
        let now =
            Local::utc(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400));
        let input = Input {
            messages,
            tools,
            think: None,
            now,
        };
        GoTemplate::compile(source)?.render(&input)
    }

    fn conversation() -> Vec<Message> {
        vec![
            message("system", "S"),
            message("user", "q1"),
            message("assistant", "a1"),
            message("user", "q2"),
        ]
    }

    #[test]
    fn a_legacy_template_runs_once_a_turn_and_stays_open_at_the_end() {
        let basic = "[{{.System}}]<{{.Prompt}}>{{.Response}}</s>";
        let all = conversation();
        assert_eq!(render(basic, &all).unwrap(), "[S]<q1>a1</s>[]<q2>");
        assert_eq!(render(basic, &all[1..3]).unwrap(), "[]<q1>a1");
        assert_eq!(render("<{{.Prompt}}>", &all).unwrap(), "<q1>a1<q2>");
        let apart = ["a", "b"].map(|text| message("system", text));
        let apart = [
            &apart[..],
            &[
                message("user", "c"),
                message("system", "z"),
                message("user", "d"),
            ],
        ]
        .concat();
        let found = render("[{{.System}}]<{{.Prompt}}>{{.Response}};", &apart).unwrap();
        assert_eq!(found, "[a\n\nb]<c>;[z]<d>");
    }

    #[test]
    fn the_last_turn_is_cut_at_the_response() {
        let user = [message("user", "u")];
        for (source, expected) in [
            (
                "{{.Prompt}}{{ if true }}{{.Response}}X{{ else }}Y{{ end }}Z",
                "u",
            ),
            ("{{.Prompt}}{{ with .Response }}{{ . }}{{ end }}Y", "uY"),
            ("{{.Prompt}}{{ .Response | printf \"%s|\" }}Y", "u"),
            ("{{.Prompt}}{{ json .Response }}Y", "u\"\""),
            ("{{ currentDate }} {{.Prompt}}{{.Response}}", "1970-01-02 u"),
        ] {
            assert_eq!(render(source, &user).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn the_language_is_gos() {
        let all = conversation();
        for (source, expected) in [
            ("{{ .Nothing }}{{ if .Nothing }}x{{ end }}", "<no value>"),
            (
                "{{ range $i, $m := .Messages }}{{ if $i }},{{ end }}{{ $m.Role }}{{ end }}",
                "system,user,assistant,user",
            ),
            (
                "{{ range .Messages }}{{ if eq .Role \"user\" }}{{ break }}{{ end }}{{ .Content }}{{ end }}",
                "S",
            ),
            (
                "{{ range .Messages }}{{ if eq .Role \"user\" }}{{ continue }}{{ end }}{{ .Content }}{{ end }}",
                "Sa1",
            ),
            (
                "{{ $x := 1 }}{{ range .Messages }}{{ $x = .Content }}{{ end }}{{ $x }}",
                "q2",
            ),
            (
                "{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}",
                "21",
            ),
            (
                "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if $last }}{{ .Content }}{{ end }}{{ end }}",
                "q2",
            ),
            (
                "{{ with .None }}x{{ else with .System }}{{ . }}{{ end }}",
                "S",
            ),
            ("{{ range .None }}x{{ else }}none{{ end }}", "none"),
            ("{{ range 3 }}{{ . }}{{ end }}", "012"),
            (
                "{{ or .None .System \"z\" }}{{ and .System .None }}{{ not .None }}",
                "S<no value>true",
            ),
            ("{{ if and .None .None.Deep }}x{{ end }}", ""),
            (
                "{{ printf \"%s|%5d|%-3d|%q|%v|%05.1f\" \"a\" 42 7 \"b\" true 2.55 }}",
                "a|   42|7  |\"b\"|true|002.5",
            ),
            ("{{ printf \"%d %s\" \"a\" }}", "%!d(string=a) %!s(MISSING)"),
            (
                "{{ slice \"hello\" 1 3 }}{{ len (slice .Messages 1) }}",
                "el3",
            ),
            (
                "{{ print 1 2 \"a\" \"b\" 3 }}{{ println 1 \"a\" }}",
                "1 2ab31 a\n",
            ),
            (
                "{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .System }}",
                "<S>",
            ),
            ("{{ block \"b\" .System }}({{ . }}){{ end }}", "(S)"),
            (
                "{{ eq .System \"x\" \"S\" }}{{ ne 1 2 }}{{ lt 1 2 }}{{ ge \"a\" \"b\" }}",
                "truetruetruefalse",
            ),
            (
                "{{ json . | len | lt 10 }}{{ json \"<a>\" }}{{ html \"<a>\" }}{{ urlquery \"a b&\" }}",
                "true\"\\u003ca\\u003e\"&lt;a&gt;a+b%26",
            ),
            (
                "{{ (index .Messages 0).Content }}{{ $.System }}{{ \" \" }}{{ `\\n` }}",
                "SS \\n",
            ),
        ] {
            let source = format!(
                "{source}{{{{/* .Messages */}}}}{{{{ if false }}}}{{{{ .Messages }}}}{{{{ end }}}}"
            );
            assert_eq!(render(&source, &all).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn failures_are_reported_in_one_line() {
        let endless = "{{ range 99999 }}{{ range 99999 }}{{ end }}{{ end }}{{ .Messages }}";
        let recursive =
            "{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}{{ .Messages }}";
        for (source, expected) in [
            (
                "{{ eq 1 \"a\" }}",
                "error calling eq: incompatible types for comparison",
            ),
            (
                "{{ range .Messages }}{{ .Nothing }}{{ end }}",
                "can't evaluate field Nothing",
            ),
            (
                "{{ .None.Deep }}",
                "nil pointer evaluating interface {}.Deep",
            ),
            (
                "{{ index .Messages 9 }}",
                "error calling index: index out of range: 9",
            ),
            (
                "{{ slice \"abc\" 2 1 }}",
                "error calling slice: invalid slice index: 2 > 1",
            ),
            ("{{ template \"x\" . }}", "template \"x\" not defined"),
            (endless, "it takes too long"),
            (recursive, "templates call each other too deeply"),
        ] {
            let source = format!("{source}{{{{ if false }}}}{{{{ .Messages }}}}{{{{ end }}}}");
            let error = render(&source, &conversation()).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("the model's TEMPLATE fails: {expected}"),
                "{source}"
            );
        }
        let error = render("{{", &[]).unwrap_err().to_string();
        assert_eq!(error, "template: :1: unclosed action");
    }

    #[test]
    fn tools_and_calls_print_as_json() {
        let parameters = r#"{"type":"object","properties":{"b":{"type":["string","null"],"enum":["x"]},"a":{"type":"integer","minimum":1}},"required":["a"]}"#;
        let tools = [Tool {
            name: "f".into(),
            description: "<d>".into(),
            parameters: serde_json::from_str(parameters).unwrap(),
        }];
        let mut call = message("assistant", "");
        call.tool_calls = vec![ToolCall {
            id: None,
            name: "f".into(),
            arguments: r#"{"z":1,"a":"é"}"#.into(),
        }];
        let function = r#"{"name":"f","description":"\u003cd\u003e","parameters":{"type":"object","required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":["string","null"],"enum":["x"]}}}}"#;
        let whole = format!(r#"{{"type":"function","function":{function}}}"#);
        for (source, expected) in [
            ("{{ .Tools }}", format!("[{whole}]")),
            ("{{ range .Tools }}{{ . }}{{ .Function }}{{ end }}", format!("{whole}{function}")),
            (
                "{{ range .Tools }}{{ range $k, $v := .Function.Parameters.Properties }}{{ $k }}:{{ $v.Type }}:{{ toTypeScriptType $v }};{{ end }}{{ end }}",
                "a:integer:number;b:[string null]:string | null;".to_string(),
            ),
            (
                "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }}({{ .Function.Arguments }}){{ json . }}{{ end }}{{ end }}",
                r#"f({"a":"é","z":1}){"ID":"","Function":{"Index":0,"Name":"f","Arguments":{"a":"é","z":1}}}"#.to_string(),
            ),
        ] {
            let source = format!("{source}{{{{ if false }}}}{{{{ .Messages }}}}{{{{ end }}}}");
            assert_eq!(with_tools(&source, &[call.clone()], &tools).unwrap(), expected, "{source}");
        }
    }
}
