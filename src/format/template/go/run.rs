//! Runs a parsed template over a value. Fuel and output are limited because templates come from
//! untrusted sources.

use std::sync::Arc;

use super::functions;
use super::tree::{Node, Nodes, Operand, Pipe, Tree};
use super::value::Value;
use crate::core::clock::Local;

/// Nodes and operands that one run may evaluate; a chat of 100 messages needs about 10 000.
const FUEL: usize = 2_000_000;
/// Maximum bytes of a prompt that a template renders.
const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// Maximum depth of nested `template` calls.
const DEPTH_MAX: usize = 100;

/// Runs `nodes` with `root` as its dot and `$`.
///
/// # Errors
/// The first failure, in one line.
pub fn run(tree: &Tree, nodes: &Nodes, root: Value, now: Local) -> Result<String, String> {
    let mut run = Run {
        tree,
        now,
        out: String::new(),
        variables: vec![(String::new(), root.clone())],
        fuel: FUEL,
        depth: 0,
    };
    run.nodes(nodes, &root)?;
    Ok(run.out)
}

struct Run<'a> {
    tree: &'a Tree,
    now: Local,
    out: String,
    variables: Vec<(String, Value)>,
    fuel: usize,
    depth: usize,
}

/// How the enclosing loop proceeds after a list of nodes.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl Run<'_> {
    fn burn(&mut self) -> Result<(), String> {
        self.fuel = self.fuel.checked_sub(1).ok_or("it takes too long")?;
        if self.out.len() > OUTPUT_BYTES_MAX {
            Err("its output is too long".into())
        } else {
            Ok(())
        }
    }

    fn nodes(&mut self, nodes: &Nodes, dot: &Value) -> Result<Flow, String> {
        for node in nodes.iter() {
            self.burn()?;
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    value.print(&mut self.out);
                }
            }
            Node::Branch {
                moves_dot,
                pipe,
                yes,
                no,
            } => {
                let known = self.variables.len();
                let value = self.pipe(pipe, dot)?;
                let flow = match (value.is_true(), *moves_dot) {
                    (true, true) => self.nodes(yes, &value)?,
                    (true, false) => self.nodes(yes, dot)?,
                    (false, _) => self.nodes(no, dot)?,
                };
                self.variables.truncate(known);
                return Ok(flow);
            }
            Node::Range { pipe, body, none } => return self.range(pipe, body, none, dot),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Call { name, pipe } => self.call(name, pipe.as_ref(), dot)?,
        }
        Ok(Flow::Next)
    }

    fn call(&mut self, name: &str, pipe: Option<&Pipe>, dot: &Value) -> Result<(), String> {
        let tree = self.tree;
        let nodes = tree
            .defined
            .get(name)
            .ok_or_else(|| format!("template {name:?} not defined"))?;
        let value = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Nil,
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("templates call each other too deeply".into());
        }
        let fresh = vec![(String::new(), value.clone())];
        let variables = std::mem::replace(&mut self.variables, fresh);
        self.nodes(nodes, &value)?;
        self.variables = variables;
        self.depth -= 1;
        Ok(())
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        body: &Nodes,
        none: &Nodes,
        dot: &Value,
    ) -> Result<Flow, String> {
        let known = self.variables.len();
        let value = self.commands(pipe, dot)?;
        let items: Box<dyn Iterator<Item = (Value, Value)>> = match &value {
            Value::List(items, _) => {
                let items = Arc::clone(items);
                Box::new((0..items.len()).map(move |at| (Value::Int(at as i64), items[at].clone())))
            }
            Value::Map(entries, _) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| (key.as_str().into(), value.clone()))
                    .collect();
                Box::new(entries.into_iter())
            }
            Value::Int(count) => Box::new((0..*count).map(|at| (Value::Int(at), Value::Int(at)))),
            Value::Missing | Value::Nil => Box::new(std::iter::empty()),
            other => return Err(format!("range can't iterate over a {}", other.kind())),
        };
        let mut empty = true;
        for (key, item) in items {
            empty = false;
            self.burn()?;
            self.set_range(pipe, key, &item)?;
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        if empty {
            let flow = self.nodes(none, dot)?;
            self.variables.truncate(known);
            return Ok(flow);
        }
        Ok(Flow::Next)
    }

    /// Sets the variables of `range $item :=` or `range $key, $item :=`.
    fn set_range(&mut self, pipe: &Pipe, key: Value, item: &Value) -> Result<(), String> {
        let values = match pipe.variables.len() {
            0 => return Ok(()),
            1 => vec![item.clone()],
            _ => vec![key, item.clone()],
        };
        for (name, value) in pipe.variables.iter().zip(values) {
            self.set(name, value, pipe.assigns)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, assigns: bool) -> Result<(), String> {
        if !assigns {
            self.variables.push((name.to_string(), value));
            return Ok(());
        }
        let known = self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name);
        match known {
            Some((_, place)) => {
                *place = value;
                Ok(())
            }
            None => Err(format!("undefined variable \"${name}\"")),
        }
    }

    /// Evaluates a pipe and sets its variables.
    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipe, dot)?;
        if let Some(name) = pipe.variables.first() {
            self.set(name, value.clone(), pipe.assigns)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipe.commands {
            self.burn()?;
            last = Some(self.command(command, last, dot)?);
        }
        last.ok_or_else(|| "empty pipeline".to_string())
    }

    fn command(
        &mut self,
        command: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        if let Operand::Function(name) = &command[0] {
            return self.function(name, &command[1..], last, dot);
        }
        if command.len() > 1 || last.is_some() {
            return Err("can't give argument to non-function".into());
        }
        self.operand(&command[0], dot)
    }

    fn function(
        &mut self,
        name: &str,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        if matches!(name, "and" | "or") {
            return self.short_circuit(name == "or", operands, last, dot);
        }
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(last);
        functions::call(name, &arguments, self.now)
            .map_err(|error| format!("error calling {name}: {error}"))
    }

    /// `and` stops at the first false operand, `or` at the first true one; the rest is not evaluated.
    fn short_circuit(
        &mut self,
        ends_at: bool,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let mut value = None;
        for operand in operands {
            let next = self.operand(operand, dot)?;
            if next.is_true() == ends_at {
                return Ok(next);
            }
            value = Some(next);
        }
        last.or(value)
            .ok_or_else(|| "wrong number of args: want at least 1 got 0".to_string())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        self.burn()?;
        match operand {
            Operand::Field(path) => fields(dot.clone(), path),
            Operand::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("undefined variable \"${name}\""))?;
                fields(value.clone(), path)
            }
            Operand::Chain(pipe, path) => {
                let value = self.pipe(pipe, dot)?;
                fields(value, path)
            }
            Operand::Function(name) => self.function(name, &[], None, dot),
            Operand::Nil => Ok(Value::Nil),
            Operand::Bool(value) => Ok(Value::Bool(*value)),
            Operand::Int(value) => Ok(Value::Int(*value)),
            Operand::Float(value) => Ok(Value::Float(*value)),
            Operand::Text(text) => Ok(text.as_str().into()),
        }
    }
}

fn fields(value: Value, path: &[String]) -> Result<Value, String> {
    path.iter().try_fold(value, |value, name| value.field(name))
}
