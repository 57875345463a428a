//! Which file of `src` imports which: layers point one way, and no two files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::tidy::sources;

/// The folders of `src` in the order in which they may import: each itself and those before it.
const LAYERS: &[&str] = &["core", "format", "system", "ops", "server", "cli"];

/// A module or an item by its path below the crate's root.
type Names = Vec<String>;

/// The files of `src` as modules, with what they import and what they only pass on (`pub use`).
struct Tree {
    /// The path of each module's file below `src`.
    files: BTreeMap<Names, String>,
    /// The imports of each module that begin in this crate.
    imports: BTreeMap<Names, BTreeSet<Names>>,
    /// The items that a module passes on, and where they come from.
    reexports: BTreeMap<Names, BTreeMap<String, Names>>,
}

impl Tree {
    fn read() -> Self {
        let mut tree = Tree {
            files: BTreeMap::new(),
            imports: BTreeMap::new(),
            reexports: BTreeMap::new(),
        };
        let mut texts = Vec::new();
        for (path, text) in sources("src") {
            let relative = path["src/".len()..].to_string();
            let mut module: Names = relative[..relative.len() - 3]
                .split('/')
                .map(String::from)
                .collect();
            if module
                .last()
                .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
            {
                module.pop();
            }
            texts.push((module.clone(), code(&text)));
            if !relative.ends_with("main.rs") {
                tree.files.insert(module, relative);
            }
        }
        for (module, text) in texts {
            tree.add(&module, &text);
        }
        tree
    }

    fn add(&mut self, module: &Names, text: &str) {
        let mut aliases: BTreeMap<String, Names> = BTreeMap::new();
        let mut rest = String::new();
        for statement in text.split_inclusive(';') {
            let Some((before, tree)) = split_use(statement) else {
                rest += statement;
                continue;
            };
            rest += before;
            for (path, alias) in paths_of(tree) {
                let Some(path) = self.absolute(module, &path) else {
                    continue;
                };
                let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
                if before.trim_end().ends_with("pub") || before.trim_end().ends_with(')') {
                    self.reexports
                        .entry(module.clone())
                        .or_default()
                        .insert(name, path);
                } else {
                    aliases.insert(name, path.clone());
                    self.imports.entry(module.clone()).or_default().insert(path);
                }
            }
        }
        for path in inline_paths(&rest) {
            let path = match aliases.get(&path[0]) {
                Some(alias) => [alias.clone(), path[1..].to_vec()].concat(),
                None => path,
            };
            if let Some(path) = self.absolute(module, &path) {
                self.imports.entry(module.clone()).or_default().insert(path);
            }
        }
    }

    /// The path from the crate's root; `None` for other crates.
    fn absolute(&self, module: &Names, path: &Names) -> Option<Names> {
        let mut base = module.clone();
        let mut rest = &path[..];
        match path[0].as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let known = [&module[..], &[child.to_string()]].concat();
                if !self.files.contains_key(&known) {
                    return None;
                }
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The module whose file defines what a path names, behind all `pub use`.
    fn owner(&self, path: &Names) -> Option<Names> {
        let mut path = path.clone();
        for _ in 0..8 {
            let module = self.named(&path)?;
            let length = module.len();
            let source = path
                .get(length)
                .and_then(|item| self.reexports.get(&module)?.get(item));
            match source {
                Some(source) => path = [source.clone(), path[length + 1..].to_vec()].concat(),
                None => return Some(module),
            }
        }
        None
    }

    /// The module that a path names, whatever it hands on.
    fn named(&self, path: &Names) -> Option<Names> {
        (1..=path.len())
            .rev()
            .find(|length| self.files.contains_key(&path[..*length]))
            .map(|length| path[..length].to_vec())
    }

    /// The arrows from each module to the modules whose items it uses, and to those through which it takes
    /// them, but for the folders it lies in: they hand on what their files have.
    fn arrows(&self) -> BTreeMap<Names, BTreeSet<Names>> {
        let targets = |module: &Names, paths: &BTreeSet<Names>| -> BTreeSet<Names> {
            let owners = paths.iter().filter_map(|path| self.owner(path));
            let named = paths.iter().filter_map(|path| self.named(path));
            let named = named.filter(|named| !module.starts_with(named));
            let targets = owners.chain(named);
            targets.filter(|target| target != module).collect()
        };
        self.imports
            .iter()
            .map(|(module, paths)| (module.clone(), targets(module, paths)))
            .collect()
    }
}

/// A file's code up to its tests, without comments and without the contents of strings.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut remaining = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inner) = rest.strip_prefix("r#\"") {
            3 + inner.find("\"#").expect("a raw string ends") + 2
        } else if letter == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if let Some(inner) = rest.strip_prefix("'\\") {
            2 + inner.find('\'').expect("a character ends").max(1) + 1
        } else {
            remaining.push(letter);
            letter.len_utf8()
        };
        rest = &rest[skipped..];
    }
    remaining
}

/// The length of the string that begins here, with its quotes.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    panic!("a string does not end: {}", text.lines().next().unwrap());
}

/// The text before `use` in a statement, and the tree after it.
fn split_use(statement: &str) -> Option<(&str, &str)> {
    let at = statement.rfind("use ").filter(|at| {
        let before = statement[..*at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace())
    })?;
    let tree = statement[at + 4..].trim_end_matches(';');
    let plain = tree
        .chars()
        .all(|c| c.is_alphanumeric() || "_:{}, \n*".contains(c));
    plain.then_some((&statement[..at], tree))
}

/// The paths of a `use` tree, each with its alias.
fn paths_of(tree: &str) -> Vec<(Names, Option<String>)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias.trim().to_string())),
            None => (tree, None),
        };
        let names = path.split("::").map(|name| name.trim().to_string());
        let names: Names = names
            .filter(|name| !name.is_empty() && name != "*")
            .collect();
        return if names.is_empty() {
            Vec::new()
        } else {
            vec![(names, alias)]
        };
    };
    let start: Names = tree[..open]
        .split("::")
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let mut depth = 0;
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.flat_map(paths_of).map(|(path, alias)| {
        let path: Names = path.into_iter().filter(|name| name != "self").collect();
        ([start.clone(), path].concat(), alias)
    });
    parts.collect()
}

/// Paths of at least two names that stand in code, such as `super::out::Out`.
fn inline_paths(text: &str) -> Vec<Names> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let paths = words.filter(|word| word.contains("::") && !word.starts_with(':'));
    let names = paths.map(|word| {
        word.split("::")
            .filter(|name| !name.is_empty())
            .map(String::from)
            .collect()
    });
    names.filter(|names: &Names| names.len() > 1).collect()
}

#[test]
fn imports_go_up_the_list_of_layers_only() {
    let tree = Tree::read();
    let passed_on = |module: &Names| {
        let items = tree.reexports.get(module).into_iter();
        items.flat_map(BTreeMap::values)
    };
    let arrows = tree.arrows();
    for module in tree.files.keys() {
        let mut targets = arrows.get(module).cloned().unwrap_or_default();
        targets.extend(passed_on(module).filter_map(|path| tree.owner(path)));
        let layer = |module: &Names| {
            LAYERS
                .iter()
                .position(|layer| module.first().is_some_and(|own| own == layer))
        };
        let Some(own) = layer(module) else {
            assert!(module.is_empty(), "{} is in no layer", module.join("/"));
            continue;
        };
        for target in targets {
            let Some(used) = layer(&target) else {
                continue;
            };
            assert!(
                used <= own,
                "{} imports {}",
                tree.files[module],
                tree.files[&target]
            );
            let system = LAYERS[own] == "system" && used == own;
            assert!(
                !system || module.get(1) == target.get(1),
                "{} imports another part of system: {}",
                tree.files[module],
                tree.files[&target]
            );
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let tree = Tree::read();
    let arrows = tree.arrows();
    assert!(
        arrows.len() > 200,
        "only {} files with imports were found",
        arrows.len()
    );
    // Files that import nothing that is left are taken away until only circles are left.
    let mut left: BTreeSet<&Names> = arrows.keys().collect();
    loop {
        let before = left.len();
        let remaining = left
            .iter()
            .copied()
            .filter(|module| arrows[*module].iter().any(|target| left.contains(target)));
        left = remaining.collect();
        if left.len() == before {
            break;
        }
    }
    let Some(first) = left.first().copied() else {
        return;
    };
    let mut way = vec![first];
    loop {
        let last = way[way.len() - 1];
        let next = arrows[last]
            .iter()
            .find(|target| left.contains(target))
            .unwrap();
        let seen = way.iter().position(|module| *module == next);
        way.push(next);
        if let Some(start) = seen {
            let files: Vec<&str> = way[start..]
                .iter()
                .map(|module| tree.files[*module].as_str())
                .collect();
            panic!("a circle of imports: {}", files.join(" -> "));
        }
    }
}

/// The room of a module: a folder of its layer, or the layer itself for the files that lie in it.
fn room(module: &Names, tree: &Tree) -> String {
    let in_folder = module.len() > 2 || tree.files[module].ends_with("/mod.rs");
    let depth = if in_folder { 2 } else { 1 };
    module[..depth.min(module.len())].join("/")
}

/// The picture of `docs/ARCHITECTURE.md`: a line for each room with the rooms that it imports.
fn picture(tree: &Tree) -> String {
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, targets) in tree.arrows() {
        if module.is_empty() {
            continue;
        }
        let own = room(&module, tree);
        let others = targets.iter().filter(|target| !target.is_empty());
        let others = others.map(|target| room(target, tree));
        let others: Vec<String> = others.filter(|other| *other != own).collect();
        rooms.entry(own).or_default().extend(others);
    }
    let rank = |room: &str| {
        let layer = room.split('/').next().unwrap();
        LAYERS.iter().position(|known| *known == layer).unwrap()
    };
    let mut lines = String::new();
    for layer in LAYERS.iter().rev() {
        for (room, targets) in rooms
            .iter()
            .filter(|(room, _)| room.split('/').next() == Some(layer))
        {
            let mut targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            targets.sort_by_key(|target| (std::cmp::Reverse(rank(target)), *target));
            lines += format!("{room:<22} -> {}", targets.join(" ")).trim_end_matches(" -> ");
            lines += "\n";
        }
        lines += "\n";
    }
    lines.trim_end().to_string() + "\n"
}

#[test]
fn the_picture_of_the_architecture_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- rooms -->\n```text\n").unwrap();
    let (_, after) = rest.split_once("```\n").unwrap();
    let fresh = format!(
        "{before}<!-- rooms -->\n```text\n{}```\n{after}",
        picture(&Tree::read())
    );
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, fresh).unwrap();
        return;
    }
    assert!(
        text == fresh,
        "docs/ARCHITECTURE.md is stale: run UPDATE=1 cargo test --release picture"
    );
}
