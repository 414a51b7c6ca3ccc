//! A simple command: its assignments, its redirections, its words, and every command these may form.
//!
//! The invariant: assignments in front of a command hold for that command only.

use super::Walker;
use crate::state::Input;
use crate::tree::Tree;
use crate::words::{Field, Use, Value};
use brush_parser::ast;
use std::sync::Arc;

/// Commands formed from words with several possible values before only every value counts. More multiplies the steps.
const MAX_COMBINATIONS: usize = 32;

impl Walker<'_> {
    pub(super) fn simple(&mut self, tree: &Arc<Tree>, command: &ast::SimpleCommand) {
        let before_input = self.state.input.clone();
        let items = command.prefix.iter().flat_map(|p| &p.0);
        let mut assigned: Vec<(String, Value)> = Vec::new();
        for item in items {
            match item {
                ast::CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(tree, redirect),
                ast::CommandPrefixOrSuffixItem::AssignmentWord(assignment, _) => {
                    self.harmless = false;
                    let (name, value) = self.assigned(tree, assignment);
                    if command.word_or_name.is_none() {
                        self.assign(&name, value);
                    } else {
                        assigned.push((name, value));
                    }
                }
                ast::CommandPrefixOrSuffixItem::Word(_)
                | ast::CommandPrefixOrSuffixItem::ProcessSubstitution(..) => self.meet_limit(),
            }
        }
        let Some(name) = &command.word_or_name else {
            self.state.input = before_input;
            return;
        };
        let mut columns = vec![self.possibilities(&tree.word(name))];
        for item in command.suffix.iter().flat_map(|s| &s.0) {
            match item {
                ast::CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(tree, redirect),
                ast::CommandPrefixOrSuffixItem::Word(word) => {
                    columns.push(self.possibilities(&tree.word(word)));
                }
                ast::CommandPrefixOrSuffixItem::AssignmentWord(assignment, word) => {
                    if matches!(assignment.value, ast::AssignmentValue::Array(_)) {
                        let (name, value) = self.assigned(tree, assignment);
                        self.assign(&name, value);
                    } else {
                        columns.push(self.possibilities(&tree.word(word)));
                    }
                }
                ast::CommandPrefixOrSuffixItem::ProcessSubstitution(..) => self.meet_limit(),
            }
        }
        let kept_names: Vec<String> = assigned.iter().map(|(name, _)| name.clone()).collect();
        let kept: Vec<(String, Option<Value>)> = assigned
            .iter()
            .map(|(name, _)| (name.clone(), self.state.variables.get(name).cloned()))
            .collect();
        let exported = self.state.exported.clone();
        for (name, value) in assigned {
            self.state.exported.insert(name.clone());
            self.state.variables.insert(name, value);
        }
        self.output = Input::Unknown;
        let mut texts: Option<Vec<String>> = Some(Vec::new());
        let commands = combinations(&columns);
        for arguments in &commands {
            self.output = Input::Unknown;
            self.run(arguments);
            texts = match (&self.output, texts) {
                (Input::Text(text), Some(mut texts)) => {
                    texts.push(text.clone());
                    Some(texts)
                }
                (_, _) => None,
            };
        }
        if commands.len() > 1 {
            // One of several texts: a reader of lines may get any of them.
            self.output = texts.map_or(Input::Unknown, |texts| Input::Text(texts.join("\n")));
        }
        for (name, value) in kept {
            match value {
                Some(value) => self.state.variables.insert(name, value),
                None => self.state.variables.remove(&name),
            };
        }
        if !kept_names.is_empty() {
            self.state.exported = exported;
        }
        self.state.input = before_input;
    }

    fn assigned(&mut self, tree: &Arc<Tree>, assignment: &ast::Assignment) -> (String, Value) {
        let (name, element) = match &assignment.name {
            ast::AssignmentName::VariableName(name) => (name.clone(), false),
            ast::AssignmentName::ArrayElementName(name, _) => (name.clone(), true),
        };
        let value = match &assignment.value {
            ast::AssignmentValue::Scalar(word) => {
                let word = tree.word(word);
                let value = self.value(&word);
                if element || word.is_element { Value::Unknown } else { value }
            }
            ast::AssignmentValue::Array(elements) => {
                let words: Vec<_> = elements.iter().map(|(_, w)| tree.word(w)).collect();
                let fields: Vec<Field> = words.iter().flat_map(|w| self.fields(w, Use::Arguments)).collect();
                if fields.len() > crate::words::MAX_FIELDS {
                    Value::Unknown
                } else {
                    Value::Known(fields.into_iter().map(|f| f.text).collect())
                }
            }
        };
        if !assignment.append {
            return (name, value);
        }
        let before = self.variable(&name);
        let array = matches!(assignment.value, ast::AssignmentValue::Array(_));
        let value = match (before, value) {
            (Value::Known(a), Value::Known(b)) if array => Value::Known(a).or(Value::Known(b)),
            (Value::Known(a), Value::Known(b)) if a.len() * b.len() <= crate::words::MAX_VALUES => {
                let joined: Vec<String> =
                    a.iter().flat_map(|x| b.iter().map(move |y| format!("{x}{y}"))).collect();
                let long = joined.iter().any(|v| v.len() > crate::words::MAX_FIELD_CHARS);
                if long { Value::Unknown } else { Value::Known(joined) }
            }
            (_, _) => Value::Unknown,
        };
        (name, value)
    }
}

/// Commands that words with several possible values may form: all of them when they are few, else enough of them that
/// every value stands in its place once.
fn combinations(columns: &[Vec<Vec<Field>>]) -> Vec<Vec<Field>> {
    let all = columns.iter().try_fold(1usize, |product, c| product.checked_mul(c.len().max(1)));
    let row = |choice: &dyn Fn(usize) -> usize| -> Vec<Field> {
        columns.iter().enumerate().filter_map(|(at, c)| c.get(choice(at))).flatten().cloned().collect()
    };
    if let Some(all) = all.filter(|all| *all <= MAX_COMBINATIONS) {
        return (0..all)
            .map(|number| {
                let mut left = number;
                let digits: Vec<usize> = columns
                    .iter()
                    .map(|c| {
                        let digit = left % c.len().max(1);
                        left /= c.len().max(1);
                        digit
                    })
                    .collect();
                row(&|at| digits[at])
            })
            .collect();
    }
    let mut rows = vec![row(&|_| 0)];
    for (column, values) in columns.iter().enumerate() {
        rows.extend((1..values.len()).map(|value| row(&|at| if at == column { value } else { 0 })));
    }
    rows
}
