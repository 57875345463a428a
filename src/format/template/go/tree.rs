//! The syntax tree of a Go template.

use std::collections::HashMap;
use std::sync::Arc;

/// Nodes in the order they run.
pub type Nodes = Arc<Vec<Node>>;

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    /// Literal text.
    Text(String),
    /// Prints a value, or declares variables.
    Action(Pipe),
    /// `if`, `with`: the pipe chooses a branch; `with` also moves the dot.
    Branch {
        /// True for `with`.
        moves_dot: bool,
        /// The condition.
        pipe: Pipe,
        /// Nodes to run if the value is true.
        yes: Nodes,
        /// Nodes to run if the value is false.
        no: Nodes,
    },
    /// `range`.
    Range {
        /// The value to iterate over.
        pipe: Pipe,
        /// Nodes to run for each item.
        body: Nodes,
        /// Nodes to run if the value has no items.
        none: Nodes,
    },
    /// `break`
    Break,
    /// `continue`
    Continue,
    /// `template "name" pipe`
    Call {
        /// The name of the template to run.
        name: String,
        /// The dot of that template; nil if absent.
        pipe: Option<Pipe>,
    },
}

/// Commands; each one receives the value of the previous one as its last argument.
#[derive(Debug, Clone, Default)]
pub struct Pipe {
    /// Variables that the pipe sets.
    pub variables: Vec<String>,
    /// True for `=`, false for `:=`.
    pub assigns: bool,
    /// The commands; at least one.
    pub commands: Vec<Vec<Operand>>,
}

/// An operand of a command: the first operand is called, and the others are its arguments.
#[derive(Debug, Clone)]
pub enum Operand {
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$x.A`; the name of `$` is empty.
    Variable(String, Vec<String>),
    /// `(…).A`
    Chain(Box<Pipe>, Vec<String>),
    /// The name of a function.
    Function(String),
    /// `nil`
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
}

/// A parsed template and the templates that it defines.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The nodes of the template itself.
    pub root: Nodes,
    /// Templates from `define` and `block`, by name.
    pub defined: HashMap<String, Nodes>,
}
