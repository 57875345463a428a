//! Lists that a template lets grow: `append` and its relatives change the list itself, whatever
//! scope they are called in.
//!
//! What can be changed could be made to hold itself, or to nest without end, and whoever prints it
//! would run out of stack: so a list takes in nothing that holds it or a namespace, and knows how
//! deep it lies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// The function that makes a list of this kind.
pub const LIST: &str = "__list";
/// Most items of one.
const ITEMS_MAX: usize = 100_000;
/// Lists, maps and namespaces within each other.
const LEVELS_MAX: usize = 64;
/// Values that are looked through in one that a list takes in.
const NODES_MAX: usize = 200_000;
/// Methods that change a list.
const METHODS: [&str; 4] = [".append(", ".extend(", ".insert(", ".pop("];

/// The list.
#[derive(Debug)]
struct List {
    items: Mutex<Vec<Value>>,
    /// How many lists it lies in.
    level: AtomicUsize,
}

/// A list that can grow, of a list that cannot; anything else stays as it is.
///
/// # Errors
/// If the list holds what a list cannot hold.
pub fn list(value: Value) -> Result<Value, Error> {
    let known = value
        .as_object()
        .is_some_and(|object| object.downcast_ref::<List>().is_some());
    if known || value.kind() != ValueKind::Seq {
        return Ok(value);
    }
    let list = List {
        items: Mutex::default(),
        level: AtomicUsize::new(0),
    };
    let items: Vec<Value> = value.try_iter()?.collect();
    let items = items.iter().map(|item| list.taken(item));
    let items: Vec<Value> = items.collect::<Result<_, _>>()?;
    *list.items() = items;
    Ok(Value::from_object(list))
}

/// True if a namespace lies somewhere in a value.
pub fn holds_namespace(value: &Value) -> bool {
    let mut walk = Walk {
        outer: None,
        left: NODES_MAX,
        lazy: false,
    };
    !walk.passes(value, 0)
}

/// A walk through a value.
struct Walk<'a> {
    /// A list that must not be met.
    outer: Option<&'a List>,
    /// Values that may still be met.
    left: usize,
    /// Whether a sequence was met that is made of others each time it is read, as `a + b` is.
    lazy: bool,
}

impl Walk<'_> {
    /// False if a namespace or the outer list lies in a value, or anything too deep. The lists in it
    /// learn that they lie at least as deep as this.
    fn passes(&mut self, value: &Value, level: usize) -> bool {
        if !matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
        ) {
            return true;
        }
        if level > LEVELS_MAX || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let Some(object) = value.as_object() else {
            return true;
        };
        if object.type_name().ends_with("::Namespace") {
            return false;
        }
        if let Some(list) = object.downcast_ref::<List>() {
            if self.outer.is_some_and(|outer| std::ptr::eq(outer, list)) {
                return false;
            }
            list.level.fetch_max(level, Ordering::Relaxed);
        } else if value.kind() != ValueKind::Map
            && !object.type_name().starts_with("alloc::vec::Vec<")
        {
            self.lazy = true;
        }
        let Ok(mut items) = value.try_iter() else {
            return false;
        };
        match value.kind() {
            ValueKind::Map => items.all(|key| {
                let item = value.get_item(&key);
                item.is_ok_and(|item| self.passes(&item, level + 1))
            }),
            _ => items.all(|item| self.passes(&item, level + 1)),
        }
    }
}

/// A value whose sequences are what they are now, whatever they were made of.
fn settled(value: &Value) -> Value {
    let is_list = |value: &Value| {
        let object = value.as_object();
        object.is_some_and(|object| object.downcast_ref::<List>().is_some())
    };
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable if !is_list(value) => {
            let items = value.try_iter().into_iter().flatten();
            items.map(|item| settled(&item)).collect()
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let pairs = keys.map(|key| {
                let item = value.get_item(&key).unwrap_or_default();
                (key, settled(&item))
            });
            Value::from_pairs(pairs)
        }
        _ => value.clone(),
    }
}

/// True if a template sets this name and then lets it grow.
pub fn grows(source: &str, name: &str) -> bool {
    METHODS.iter().any(|method| {
        let call = format!("{name}{method}");
        let found = source.match_indices(&call);
        let whole = |at: usize| {
            let before = source[..at].chars().next_back();
            !before.is_some_and(|c| c == '.' || c == '_' || c.is_alphanumeric())
        };
        found.map(|(at, _)| at).any(whole)
    })
}

impl List {
    fn items(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.items
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What the list takes in for an item.
    ///
    /// # Errors
    /// If the list would hold itself, or nest without end.
    fn taken(&self, item: &Value) -> Result<Value, Error> {
        let mut walk = Walk {
            outer: Some(self),
            left: NODES_MAX,
            lazy: false,
        };
        let level = self.level.load(Ordering::Relaxed) + 1;
        match walk.passes(item, level) {
            true if walk.lazy => Ok(settled(item)),
            true => Ok(item.clone()),
            false => Err(Error::new(
                ErrorKind::InvalidOperation,
                "a list in it holds itself, a namespace, or too much",
            )),
        }
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items().get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items().clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        let wrong = |why: &'static str| Error::new(ErrorKind::InvalidOperation, why);
        // Looked at before the lock is taken: the list may be extended by itself.
        let taken: Vec<Value> = match (method, arguments) {
            ("append", [item]) | ("insert", [_, item]) => vec![self.taken(item)?],
            ("extend", [more]) => {
                let more = more.try_iter()?.take(ITEMS_MAX);
                more.map(|item| self.taken(&item))
                    .collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let mut items = self.items();
        match (method, arguments) {
            ("append", [_]) | ("extend", [_]) => items.extend(taken),
            ("insert", [at, _]) => {
                let at = place(at, items.len()).unwrap_or(items.len());
                items.splice(at..at, taken);
            }
            ("pop", []) => return items.pop().ok_or_else(|| wrong("pop from empty list")),
            ("pop", [at]) => match place(at, items.len()).filter(|at| *at < items.len()) {
                Some(at) => return Ok(items.remove(at)),
                None => return Err(wrong("pop index out of range")),
            },
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        match items.len() > ITEMS_MAX {
            true => Err(wrong("a list in it grows too large")),
            false => Ok(Value::from(())),
        }
    }
}

/// A place as Python counts it: from the end if negative.
fn place(at: &Value, length: usize) -> Option<usize> {
    let at = at.as_i64()?;
    let back = usize::try_from(at.unsigned_abs()).ok()?;
    Some(match at < 0 {
        true => length.saturating_sub(back),
        false => back.min(length),
    })
}
