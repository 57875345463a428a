//! Lists that a template lets grow: `append` and its relatives change the list itself, whatever
//! scope they are called in.

use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// The function that makes a list of this kind.
pub const LIST: &str = "__list";
/// Most items of one.
const ITEMS_MAX: usize = 100_000;
/// Methods that change a list.
const METHODS: [&str; 4] = [".append(", ".extend(", ".insert(", ".pop("];

/// The list.
#[derive(Debug)]
struct List(Mutex<Vec<Value>>);

/// A list that can grow, of a list that cannot; anything else stays as it is.
pub fn list(value: Value) -> Value {
    let known = value
        .as_object()
        .is_some_and(|object| object.downcast_ref::<List>().is_some());
    if known || value.kind() != ValueKind::Seq {
        return value;
    }
    let items = value.try_iter().into_iter().flatten();
    Value::from_object(List(Mutex::new(items.collect())))
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
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
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
        let mut items = self.items();
        let wrong = |why: &'static str| Error::new(ErrorKind::InvalidOperation, why);
        match (method, arguments) {
            ("append", [item]) => items.push(item.clone()),
            ("extend", [more]) => {
                drop(items); // The list may be extended by itself.
                let more: Vec<Value> = more.try_iter()?.take(ITEMS_MAX).collect();
                items = self.items();
                items.extend(more);
            }
            ("insert", [at, item]) => {
                let at = place(at, items.len()).unwrap_or(items.len());
                items.insert(at, item.clone());
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
