//! A schema as a graph: which schemas look at the same place of a value, and which look at its parts.
//!
//! Only what is reachable from the root counts; the rest is never applied. The walk knows the keywords of the drafts 4
//! to 2020-12 at once: a keyword that the draft in use ignores costs nothing but an estimate that is too high.
//!
//! It refuses references out of the document and resources inside the document (`$id` below the root), because there a
//! reference means something else to the validator than to this walk.

use crate::Refused;
use jsonschema::Draft;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// What one pattern counts for against what any other keyword counts for: it reads its text byte by byte.
const PATTERN_WEIGHT: u64 = 16;

/// Which part of a value an edge leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The member of this name.
    Name(String),
    /// Every member, perhaps.
    Member,
    /// The item with this index.
    Index(usize),
    /// Every item, perhaps.
    Item,
    /// The names of the members.
    Key,
}

/// One schema of the document.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Schemas that look at the same place.
    pub same: Vec<usize>,
    /// Schemas that look at parts.
    pub parts: Vec<(Part, usize)>,
    /// What its own keywords cost at one place.
    pub weight: u64,
    /// It asks what its neighbours have looked at, for which the validator runs them again.
    pub unevaluated: bool,
}

/// Every reachable schema; the root is the first.
#[derive(Debug)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    /// The different patterns in it.
    pub patterns: usize,
}

/// Reads a document whose root has neither `$id` nor `$schema`.
pub(crate) fn read(root: &Value, draft: Draft) -> Result<Graph, Refused> {
    let mut walk = Walk {
        root,
        draft,
        nodes: Vec::new(),
        known: HashMap::new(),
        todo: Vec::new(),
        anchors: HashMap::new(),
        patterns: BTreeSet::new(),
        deep: None,
    };
    walk.collect_anchors(root);
    walk.node(root)?;
    while let Some((id, value)) = walk.todo.pop() {
        if let Value::Object(map) = value {
            walk.read(id, map)?;
        }
    }
    Ok(Graph { nodes: walk.nodes, patterns: walk.patterns.len() })
}

struct Walk<'a> {
    root: &'a Value,
    draft: Draft,
    nodes: Vec<Node>,
    known: HashMap<*const Value, usize>,
    todo: Vec<(usize, &'a Value)>,
    /// `None`: more than one schema has the name.
    anchors: HashMap<&'a str, Option<&'a Value>>,
    patterns: BTreeSet<&'a str>,
    /// Stands for looking at a whole value down to its leaves.
    deep: Option<usize>,
}

impl<'a> Walk<'a> {
    fn collect_anchors(&mut self, value: &'a Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.collect_anchors(item)),
            Value::Object(map) if self.own_base(value) => {
                for keyword in ["$anchor", "$dynamicAnchor"] {
                    let Some(name) = map.get(keyword).and_then(Value::as_str) else { continue };
                    let here = std::ptr::from_ref(value);
                    self.anchors
                        .entry(name)
                        .and_modify(|known| *known = known.filter(|old| std::ptr::eq(*old, here)))
                        .or_insert(Some(value));
                }
                map.values().for_each(|inner| self.collect_anchors(inner));
            }
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// False for an object that is a resource, or of a dialect, of its own.
    fn own_base(&self, value: &Value) -> bool {
        let text = |keyword: &str| value.get(keyword).is_some_and(Value::is_string);
        let named = text("$id") || (self.draft == Draft::Draft4 && text("id"));
        let foreign = text("$schema") && Draft::default().detect(value) != self.draft;
        !named && !foreign
    }

    fn passable(&self, value: &Value) -> Result<(), Refused> {
        match self.own_base(value) {
            true => Ok(()),
            false => Err(Refused("`$id` and another `$schema` may stand at the root only".to_owned())),
        }
    }

    fn node(&mut self, value: &'a Value) -> Result<usize, Refused> {
        if let Some(id) = self.known.get(&std::ptr::from_ref(value)) {
            return Ok(*id);
        }
        self.passable(value)?;
        let id = self.add(1);
        self.known.insert(std::ptr::from_ref(value), id);
        self.todo.push((id, value));
        Ok(id)
    }

    fn add(&mut self, weight: u64) -> usize {
        self.nodes.push(Node { weight, ..Node::default() });
        self.nodes.len() - 1
    }

    fn same(&mut self, id: usize, value: &'a Value) -> Result<(), Refused> {
        let target = self.node(value)?;
        self.nodes[id].same.push(target);
        Ok(())
    }

    fn part(&mut self, id: usize, part: Part, value: &'a Value) -> Result<(), Refused> {
        let target = self.node(value)?;
        self.nodes[id].parts.push((part, target));
        Ok(())
    }

    fn read(&mut self, id: usize, map: &'a Map<String, Value>) -> Result<(), Refused> {
        for (keyword, value) in map {
            self.nodes[id].weight += 1;
            match (keyword.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                    let target = self.target(reference)?;
                    self.same(id, target)?;
                }
                ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                    for one in list {
                        self.same(id, one)?;
                    }
                }
                ("not" | "if" | "then" | "else" | "contentSchema", one) => self.same(id, one)?,
                ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                    for one in all.values() {
                        match one {
                            // names of members, not a schema
                            Value::Array(names) => self.nodes[id].weight += names.len() as u64,
                            _ => self.same(id, one)?,
                        }
                    }
                }
                ("properties", Value::Object(all)) => {
                    for (name, one) in all {
                        self.part(id, Part::Name(name.clone()), one)?;
                    }
                }
                ("patternProperties", Value::Object(all)) => {
                    for (pattern, one) in all {
                        self.patterns.insert(pattern);
                        self.part(id, Part::Member, one)?;
                    }
                    let names = self.add(PATTERN_WEIGHT * all.len() as u64);
                    self.nodes[id].parts.push((Part::Key, names));
                }
                ("additionalProperties", one) => self.part(id, Part::Member, one)?,
                ("propertyNames", one) => self.part(id, Part::Key, one)?,
                ("items", Value::Array(list)) | ("prefixItems", Value::Array(list)) => {
                    for (index, one) in list.iter().enumerate() {
                        self.part(id, Part::Index(index), one)?;
                    }
                }
                ("items" | "additionalItems" | "contains", one) => self.part(id, Part::Item, one)?,
                ("unevaluatedProperties", one) => {
                    self.nodes[id].unevaluated = true;
                    self.part(id, Part::Member, one)?;
                }
                ("unevaluatedItems", one) => {
                    self.nodes[id].unevaluated = true;
                    self.part(id, Part::Item, one)?;
                }
                ("pattern", Value::String(pattern)) => {
                    self.patterns.insert(pattern);
                    self.nodes[id].weight += PATTERN_WEIGHT;
                }
                ("uniqueItems", Value::Bool(true)) => {
                    let deep = self.deep();
                    self.nodes[id].parts.push((Part::Item, deep));
                }
                ("enum" | "const" | "required" | "type" | "dependentRequired", value) => {
                    self.nodes[id].weight += size(value);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn deep(&mut self) -> usize {
        if let Some(id) = self.deep {
            return id;
        }
        let id = self.add(2);
        self.nodes[id].parts = vec![(Part::Member, id), (Part::Item, id)];
        self.deep = Some(id);
        id
    }

    fn target(&self, reference: &str) -> Result<&'a Value, Refused> {
        let shown: String = reference.chars().take(80).collect();
        let nowhere = || Refused(format!("`$ref` to `{shown}` leads nowhere"));
        let Some(fragment) = reference.strip_prefix('#') else {
            return Err(Refused(format!("`$ref` must point inside the schema (`#/…`), not to `{shown}`")));
        };
        let fragment = percent_encoding::percent_decode_str(fragment).decode_utf8().map_err(|_| nowhere())?;
        if fragment.is_empty() {
            return Ok(self.root);
        }
        let Some(pointer) = fragment.strip_prefix('/') else {
            return match self.anchors.get(&*fragment) {
                Some(Some(value)) => Ok(value),
                Some(None) => {
                    Err(Refused(format!("`$ref` to `{shown}`: more than one schema has that name")))
                }
                None => Err(nowhere()),
            };
        };
        let mut at = self.root;
        for step in pointer.split('/') {
            let step = step.replace("~1", "/").replace("~0", "~");
            at = match at {
                Value::Object(map) => map.get(&step),
                Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            }
            .ok_or_else(nowhere)?;
            self.passable(at)?;
        }
        Ok(at)
    }
}

/// How many values there are in a value.
fn size(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<u64>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<u64>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}
