//! What can be taken out of a history, and in which order: pure, over positions and sizes.
//!
//! A history is cut into turns; the last one is the turn that runs. A boundary lies only where no call is parted from
//! its result, and the message that opens a turn stays as long as anything of the turn does.

use crate::turn::compact::cut::{Cut, Cuts};
use crate::turn::context;
use brain::messages::Message;
use contract::conversation::{Block, Role};
use contract::{MessageId, TurnId};
use std::collections::BTreeMap;

/// Tokens a cut must free to be worth its place in the row.
const LEAST_FREED: u64 = 16;

/// One turn's stretch of the history, as indexes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: usize,
    last: usize,
}

/// A history cut into turns.
pub struct Layout<'a> {
    list: &'a [Message],
    /// The running turn: only its reasoning is shown.
    turn: &'a TurnId,
    stretches: Vec<Stretch>,
}

/// How much of the history is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Messages up to this position are represented by a summary or a note.
    pub boundary: i64,
    /// What of the others is shown cut.
    pub cuts: Cuts,
}

/// Calls to be shown cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// Which, and how much of them.
    pub cuts: Cuts,
    /// The position of the last of them.
    pub up_to: i64,
}

impl<'a> Layout<'a> {
    /// Cuts a history into turns; the running one begins with its `current` message.
    pub fn new(list: &'a [Message], current: &MessageId, turn: &'a TurnId) -> Self {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut before = None;
        for (n, message) in list.iter().enumerate() {
            let begins = before != Some(&message.turn_id) && message.role == Role::User;
            match stretches.last_mut() {
                Some(last) if !begins && message.message_id != *current => last.last = n,
                _ => stretches.push(Stretch { first: n, last: n }),
            }
            before = Some(&message.turn_id);
        }
        Self { list, turn, stretches }
    }

    /// True while the message at `n` is shown.
    fn is_shown(&self, n: usize, boundary: i64) -> bool {
        self.list[n].position > boundary
            || self.stretches.iter().any(|s| s.first == n && self.list[s.last].position > boundary)
    }

    /// Messages up to `up_to` that are shown now.
    pub fn shown_up_to(&self, view: &View, up_to: i64) -> Vec<&'a Message> {
        let list = self.list.iter().enumerate();
        list.filter(|(n, m)| m.position <= up_to && self.is_shown(*n, view.boundary))
            .map(|(_, m)| m)
            .collect()
    }

    fn size(&self, message: &Message, cuts: &Cuts) -> u64 {
        let blocks = message.content.iter().filter_map(|b| context::shown(b, message, self.turn, cuts));
        context::estimate_blocks(&blocks.collect::<Vec<_>>())
    }

    /// Estimated tokens of everything that is shown.
    pub fn weight(&self, view: &View) -> u64 {
        let shown = (0..self.list.len()).filter(|n| self.is_shown(*n, view.boundary));
        shown.map(|n| self.size(&self.list[n], &view.cuts)).sum()
    }

    /// Estimated tokens of the message that is being answered.
    pub fn opening(&self) -> u64 {
        self.stretches.last().map_or(0, |s| self.size(&self.list[s.first], &Cuts::default()))
    }

    /// The last tool message whose results the model has already answered.
    pub fn answered(&self) -> Option<i64> {
        let last = self.list.iter().rposition(|m| m.role == Role::Assistant)?;
        self.list[..last].iter().rev().find(|m| m.role == Role::Tool).map(|m| m.position)
    }

    /// The last tool message.
    pub fn newest(&self) -> Option<i64> {
        self.list.iter().rev().find(|m| m.role == Role::Tool).map(|m| m.position)
    }

    /// The last position outside the newest `keep` turns.
    pub fn before_pinned(&self, keep: usize) -> Option<i64> {
        let pinned = self.stretches.len().checked_sub(keep.max(1))?;
        pinned.checked_sub(1).map(|n| self.list[self.stretches[n].last].position)
    }

    /// Results up to a position to be cut, the largest gain first, as many as `need` tokens ask for.
    pub fn pick(&self, view: &View, up_to: i64, cut: Cut, need: u64) -> Option<Picked> {
        let mut gains: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
        for message in self.shown_up_to(view, up_to) {
            for block in &message.content {
                let id = match block {
                    Block::ToolResult { tool_use_id, .. } => tool_use_id,
                    Block::ToolUse { id, .. } if cut == Cut::Bare => id,
                    _ => continue,
                };
                if view.cuts.of(id) >= Some(cut) {
                    continue;
                }
                let now = view.cuts.apply(block).map_or_else(|| size_of(block), |b| size_of(&b));
                let gain = now.saturating_sub(size_of(&super::cut::cut(block, cut)));
                let entry = gains.entry(id).or_insert((0, message.position));
                *entry = (entry.0 + gain, entry.1.max(message.position));
            }
        }
        let mut gains: Vec<(&str, u64, i64)> = gains
            .into_iter()
            .filter(|(_, (g, _))| *g >= LEAST_FREED)
            .map(|(id, (g, p))| (id, g, p))
            .collect();
        gains.sort_by_key(|(_, gain, position)| (std::cmp::Reverse(*gain), *position));
        let mut picked = Picked { cuts: Cuts::default(), up_to: -1 };
        let mut freed = 0;
        for (id, gain, position) in gains {
            if freed >= need {
                break;
            }
            picked.cuts.add(id, cut);
            picked.up_to = picked.up_to.max(position);
            freed += gain;
        }
        (!picked.cuts.is_empty()).then_some(picked)
    }

    /// The boundary that gives up the oldest turns, as few as free `need` tokens, and never the newest `keep`.
    pub fn without_turns(&self, view: &View, keep: usize, need: u64) -> Option<i64> {
        let free = self.stretches.len().saturating_sub(keep.max(1));
        let ends = self.stretches[..free].iter().map(|s| s.last);
        self.boundary_at(view, ends, need)
    }

    /// The boundary that gives up the oldest steps of the running turn, as few as free `need` tokens, and never what
    /// the model has said and read last.
    pub fn without_steps(&self, view: &View, need: u64) -> Option<i64> {
        let running = self.stretches.last()?;
        let last = self.list.iter().rposition(|m| m.role == Role::Assistant)?;
        let ends = (running.first + 1..last).filter(|n| match self.list[*n].role {
            Role::Tool => true,
            Role::Assistant => !self.list[*n].content.iter().any(|b| matches!(b, Block::ToolUse { .. })),
            Role::User => false,
        });
        self.boundary_at(view, ends, need)
    }

    /// The first of these ends that frees enough, or the last.
    fn boundary_at(&self, view: &View, ends: impl Iterator<Item = usize>, need: u64) -> Option<i64> {
        let whole = self.weight(view);
        let mut found = None;
        for end in ends {
            let boundary = self.list[end].position;
            if boundary <= view.boundary {
                continue;
            }
            found = Some(boundary);
            let left = self.weight(&View { boundary, cuts: view.cuts.clone() });
            if whole.saturating_sub(left) >= need {
                break;
            }
        }
        found
    }
}

fn size_of(block: &Block) -> u64 {
    context::estimate_blocks(std::slice::from_ref(block))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
