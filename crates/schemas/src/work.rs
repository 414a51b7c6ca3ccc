//! How much work a schema is, from its graph alone: for each nesting depth of a value the most that is spent on one
//! place of that depth, whatever the value is.
//!
//! Schemas that look at the same place are added up, every way to them counted. For the parts, the edges that can meet
//! the same part are added up, and of those that cannot (members of different names) the dearest counts. So a tree
//! schema costs as much at each place as at the root, while branching recursion grows with the depth and is seen to.
//!
//! It refuses a circle of schemas that look at the same place: applying them would never end.

use crate::graph::{Graph, Part};
use crate::{HEIGHT_MAX, LAYERS_MAX, Refused, TABLE_MAX, VISITS_MAX};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Bytes of text that count as much as one place.
const TEXT_UNIT: usize = 32;

/// What applying a schema costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// The most that is spent on one place, by its depth; beyond the end of the list the last entry counts.
    by_height: Vec<u64>,
    /// Schemas one inside the other at one place, at most.
    layers: usize,
}

/// What validating one value costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Units of work: keywords looked at, times the size of what they look at.
    pub units: u64,
    /// Calls one inside the other.
    pub stack: usize,
}

impl Work {
    /// Works it out.
    pub(crate) fn of(graph: &Graph) -> Result<Self, Refused> {
        let order = bottom_up(graph)?;
        let closures = closures(graph, &order)?;
        let layers = closures.iter().map(|c| c.layers).max().unwrap_or(1);
        let tables = tables(graph, &closures)?;
        let base: Vec<u64> = closures.iter().map(|c| c.weight(graph)).collect();
        let mut row = base.clone();
        let mut by_height = vec![row[0]];
        for _ in 1..=HEIGHT_MAX {
            let next: Vec<u64> = tables.iter().map(|table| table.dearest(&row, &base)).collect();
            if next == row {
                break;
            }
            by_height.push(next[0]);
            row = next;
        }
        Ok(Self { by_height, layers })
    }

    /// The cost of one value, without running anything.
    pub(crate) fn cost(&self, value: &Value) -> Cost {
        let (mut units, mut highest) = (0_u64, 0);
        let mut todo = vec![(value, 0_usize, 0_usize)];
        while let Some((value, height, name)) = todo.pop() {
            highest = highest.max(height);
            let text = match value {
                Value::String(text) => text.len(),
                Value::Array(items) => {
                    todo.extend(items.iter().map(|item| (item, height + 1, 0)));
                    0
                }
                Value::Object(map) => {
                    todo.extend(map.iter().map(|(name, inner)| (inner, height + 1, name.len())));
                    0
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            };
            let size = 1 + ((text + name) / TEXT_UNIT) as u64;
            units = units.saturating_add(size.saturating_mul(self.at(height)));
        }
        Cost { units, stack: (highest + 1) * self.layers }
    }

    fn at(&self, height: usize) -> u64 {
        let last = self.by_height.len() - 1;
        if height > HEIGHT_MAX { u64::MAX } else { self.by_height[height.min(last)] }
    }
}

/// The nodes so that those at the same place come before the one that leads to them.
fn bottom_up(graph: &Graph) -> Result<Vec<usize>, Refused> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Open,
        Done,
    }
    let mut seen = vec![Seen::No; graph.nodes.len()];
    let mut order = Vec::with_capacity(graph.nodes.len());
    for start in 0..graph.nodes.len() {
        if seen[start] != Seen::No {
            continue;
        }
        seen[start] = Seen::Open;
        let mut path = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let Some(target) = graph.nodes[*node].same.get(*next).copied() else {
                seen[*node] = Seen::Done;
                order.push(*node);
                path.pop();
                continue;
            };
            *next += 1;
            match seen[target] {
                Seen::Done => {}
                Seen::Open => {
                    let text = "a schema refers to itself without looking at a part of the value";
                    return Err(Refused(text.to_owned()));
                }
                Seen::No => {
                    seen[target] = Seen::Open;
                    path.push((target, 0));
                }
            }
        }
    }
    Ok(order)
}

/// Everything that looks at the same place once a schema does.
#[derive(Default)]
struct Closure {
    /// A schema, and how often it is run.
    runs: Vec<(usize, u64)>,
    /// How many of them stand one inside the other.
    layers: usize,
}

impl Closure {
    fn weight(&self, graph: &Graph) -> u64 {
        self.runs
            .iter()
            .fold(0, |sum, (id, times)| sum.saturating_add(times.saturating_mul(graph.nodes[*id].weight)))
    }
}

/// How often the neighbours of a node are run: once, or again for every layer below when it asks what they looked at.
fn factor(graph: &Graph, id: usize, layers: usize) -> u64 {
    if graph.nodes[id].unevaluated { 3 + layers as u64 } else { 1 }
}

fn closures(graph: &Graph, order: &[usize]) -> Result<Vec<Closure>, Refused> {
    let mut all: Vec<Closure> = graph.nodes.iter().map(|_| Closure::default()).collect();
    let mut entries = 0;
    for &id in order {
        let same = &graph.nodes[id].same;
        let layers = 1 + same.iter().map(|target| all[*target].layers).max().unwrap_or(0);
        if layers > LAYERS_MAX {
            return Err(Refused(format!(
                "more than {LAYERS_MAX} references and combinations inside one another"
            )));
        }
        let factor = factor(graph, id, layers);
        let mut runs: HashMap<usize, u64> = HashMap::from([(id, 1)]);
        let mut visits = 1_u64;
        for target in same {
            for (inner, times) in &all[*target].runs {
                let times = times.saturating_mul(factor);
                visits = visits.saturating_add(times);
                let known = runs.entry(*inner).or_insert(0);
                *known = known.saturating_add(times);
            }
        }
        if visits > VISITS_MAX {
            let text =
                format!("with its references followed, more than {VISITS_MAX} schemas look at one place");
            return Err(Refused(text));
        }
        entries += runs.len();
        if entries > TABLE_MAX {
            return Err(Refused("too entangled: its references lead to too many others".to_owned()));
        }
        all[id] = Closure { runs: runs.into_iter().collect(), layers };
    }
    Ok(all)
}

/// The edges to the parts of a place, from everything that looks at that place.
#[derive(Default)]
struct Table {
    names: Vec<Vec<(usize, u64)>>,
    members: Vec<(usize, u64)>,
    keys: Vec<(usize, u64)>,
    indices: Vec<Vec<(usize, u64)>>,
    items: Vec<(usize, u64)>,
}

impl Table {
    fn dearest(&self, row: &[u64], base: &[u64]) -> u64 {
        let sum = |edges: &[(usize, u64)], costs: &[u64]| {
            edges.iter().fold(0_u64, |sum, (id, times)| sum.saturating_add(times.saturating_mul(costs[*id])))
        };
        let dearest = |groups: &[Vec<(usize, u64)>]| groups.iter().map(|g| sum(g, row)).max().unwrap_or(0);
        let member = dearest(&self.names)
            .saturating_add(sum(&self.members, row))
            // a name is a text: it has no parts
            .saturating_add(sum(&self.keys, base));
        member.max(dearest(&self.indices).saturating_add(sum(&self.items, row)))
    }
}

fn tables(graph: &Graph, closures: &[Closure]) -> Result<Vec<Table>, Refused> {
    let mut entries = 0;
    let mut all = Vec::with_capacity(closures.len());
    let mut wanted = vec![false; graph.nodes.len()];
    wanted[0] = true;
    for (_, target) in graph.nodes.iter().flat_map(|node| &node.parts) {
        wanted[*target] = true;
    }
    for (start, closure) in closures.iter().enumerate() {
        let mut table = Table::default();
        let mut names: BTreeMap<&str, Vec<(usize, u64)>> = BTreeMap::new();
        let mut indices: BTreeMap<usize, Vec<(usize, u64)>> = BTreeMap::new();
        // of a schema that no part leads to, no part is ever asked for
        for &(id, times) in closure.runs.iter().filter(|_| wanted[start]) {
            let times = times.saturating_mul(factor(graph, id, closures[id].layers));
            entries += graph.nodes[id].parts.len();
            if entries > TABLE_MAX {
                return Err(Refused("too entangled: its references lead to too many others".to_owned()));
            }
            for (part, target) in &graph.nodes[id].parts {
                let edge = (*target, times);
                match part {
                    Part::Name(name) => names.entry(name).or_default().push(edge),
                    Part::Member => table.members.push(edge),
                    Part::Index(index) => indices.entry(*index).or_default().push(edge),
                    Part::Item => table.items.push(edge),
                    Part::Key => table.keys.push(edge),
                }
            }
        }
        table.names = names.into_values().collect();
        table.indices = indices.into_values().collect();
        all.push(table);
    }
    Ok(all)
}
