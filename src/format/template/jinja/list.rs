//! Mutable lists for templates: `append` and the other methods change the list itself, in whatever
//! scope they are called.
//!
//! A mutable list could contain itself or nest without limit, and printing it would overflow the
//! stack. So a list rejects values that contain it or a namespace, and records how deeply it is nested.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::core::lock::LockExt;

/// The name of the function that makes a mutable list.
pub const LIST: &str = "__list";
/// Maximum items of a list.
const ITEMS_MAX: usize = 100_000;
/// Maximum nesting of lists, maps and namespaces.
const LEVELS_MAX: usize = 64;
/// Maximum values visited when an item is checked before it enters a list.
const NODES_MAX: usize = 200_000;
/// Methods that change a list.
const METHODS: [&str; 4] = [".append(", ".extend(", ".insert(", ".pop("];

/// A mutable list.
#[derive(Debug)]
struct List {
    items: Mutex<Vec<Value>>,
    /// How many lists and maps enclose it.
    level: AtomicUsize,
}

/// Makes a mutable list from an immutable one; any other value is returned unchanged.
///
/// # Errors
/// If the list contains a value that a mutable list rejects.
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

/// True if a value contains a namespace at any depth, or is too large to check.
pub fn holds_namespace(value: &Value) -> bool {
    let mut walk = Walk {
        outer: None,
        left: NODES_MAX,
        lazy: false,
    };
    !walk.passes(value, 0)
}

/// A limited walk through a value.
struct Walk<'a> {
    /// The list that the value must not contain.
    outer: Option<&'a List>,
    /// Values that may still be visited.
    left: usize,
    /// True if a sequence was met that is computed from others each time it is read, such as `a + b`.
    lazy: bool,
}

impl Walk<'_> {
    /// Returns false if a value contains a namespace or the outer list, or nests too deeply. Records in each
    /// list of the value that it is nested at least this deeply.
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

/// Copies a value with each of its sequences evaluated now, so that later changes do not affect it.
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

/// True if a template calls a method that changes the list of this name.
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
        self.items.locked()
    }

    /// Checks an item and returns the value that the list stores for it.
    ///
    /// # Errors
    /// If the list would contain itself, or nest without limit.
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
                "a list contains itself, a namespace, or too many values",
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
        // Checked before the lock is taken, because a list may be extended with itself.
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
        if items.len() > ITEMS_MAX {
            Err(wrong("a list grows too large"))
        } else {
            Ok(Value::from(()))
        }
    }
}

/// Converts a Python index, which counts from the end if negative.
fn place(at: &Value, length: usize) -> Option<usize> {
    let at = at.as_i64()?;
    let back = usize::try_from(at.unsigned_abs()).ok()?;
    Some(if at < 0 {
        length.saturating_sub(back)
    } else {
        back.min(length)
    })
}
