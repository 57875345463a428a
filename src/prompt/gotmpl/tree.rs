//! The tree of a template.

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
        /// What decides.
        pipe: Pipe,
        /// For a true value.
        yes: Nodes,
        /// For a false one.
        no: Nodes,
    },
    /// `range`.
    Range {
        /// What is gone through.
        pipe: Pipe,
        /// For each item.
        body: Nodes,
        /// If there is none.
        none: Nodes,
    },
    /// `break`
    Break,
    /// `continue`
    Continue,
    /// `template "name" pipe`
    Call {
        /// Which.
        name: String,
        /// Its dot; absent is nil.
        pipe: Option<Pipe>,
    },
}

/// Commands, each given the value of the one before it.
#[derive(Debug, Clone, Default)]
pub struct Pipe {
    /// Variables set by it.
    pub variables: Vec<String>,
    /// True for `=`, false for `:=`.
    pub assigns: bool,
    /// At least one.
    pub commands: Vec<Vec<Operand>>,
}

/// What a command is made of: the first is called, the others are its arguments.
#[derive(Debug, Clone)]
pub enum Operand {
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$x.A`; the name of `$` is empty.
    Variable(String, Vec<String>),
    /// `(…).A`
    Chain(Box<Pipe>, Vec<String>),
    /// A function.
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

/// A parsed template and those it defines.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// What runs.
    pub root: Nodes,
    /// `define` and `block`.
    pub defined: HashMap<String, Nodes>,
}
