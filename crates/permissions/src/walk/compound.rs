//! Lists, pipelines and compound commands: in which order commands may run, and which state each leaves.
//!
//! Every way through an `if`, a `case` or an `||` is walked and the states are joined; a loop is walked until
//! nothing changes. The invariant: a `cd` that may have failed leaves both directories possible.

use super::Walker;
use crate::state::{Function, Input};
use crate::tree::Tree;
use crate::words::{Field, Use, Value};
use brush_parser::ast;
use std::path::PathBuf;
use std::sync::Arc;

impl Walker<'_> {
    pub(super) fn list(&mut self, tree: &Arc<Tree>, list: &ast::CompoundList) {
        for ast::CompoundListItem(item, separator) in &list.0 {
            match separator {
                ast::SeparatorOperator::Async => self.apart(|w| w.and_or(tree, item)),
                ast::SeparatorOperator::Sequence => self.and_or(tree, item),
            }
        }
    }

    fn and_or(&mut self, tree: &Arc<Tree>, list: &ast::AndOrList) {
        let before = self.state.directories.clone();
        let before_named = self.state.named.clone();
        self.pipeline(tree, &list.first);
        if !list.additional.is_empty() {
            let mut possible = self.state.clone();
            for next in &list.additional {
                let pipeline = match next {
                    ast::AndOr::And(pipeline) => pipeline,
                    ast::AndOr::Or(pipeline) => {
                        self.state.join(possible.clone());
                        self.state.also_in(before.clone());
                        self.state.also_named(before_named.clone());
                        pipeline
                    }
                };
                self.pipeline(tree, pipeline);
                possible.join(self.state.clone());
            }
            self.state = possible;
        }
        // A `cd` into something that is not certainly there may have failed.
        let arrived = |d: &PathBuf| self.world.is_directory(d) && !self.removed;
        if self.state.directories != before && !self.state.directories.iter().all(arrived) {
            self.state.also_in(before);
            self.state.also_named(before_named);
        }
    }

    fn pipeline(&mut self, tree: &Arc<Tree>, pipeline: &ast::Pipeline) {
        if let [only] = pipeline.seq.as_slice() {
            self.command(tree, only);
            return;
        }
        let mut input = self.state.input.clone();
        for command in &pipeline.seq {
            let from = std::mem::replace(&mut input, Input::Unknown);
            input = self.apart(|w| {
                w.state.input = from;
                w.output = Input::Unknown;
                w.command(tree, command);
                std::mem::replace(&mut w.output, Input::Unknown)
            });
        }
        self.output = input;
    }

    fn command(&mut self, tree: &Arc<Tree>, command: &ast::Command) {
        if !self.step() {
            return;
        }
        match command {
            ast::Command::Simple(simple) => self.simple(tree, simple),
            ast::Command::Compound(compound, redirects) => {
                let input = self.state.input.clone();
                for redirect in redirects.iter().flat_map(|r| &r.0) {
                    self.redirect(tree, redirect);
                }
                self.compound(tree, compound);
                self.output = Input::Unknown;
                self.state.input = input;
            }
            ast::Command::Function(function) => {
                let name = self.fields(&tree.word(&function.fname), Use::Single);
                let Some(name) = name.first().and_then(Field::literal).map(str::to_owned) else {
                    return self.dynamic();
                };
                let kept = Function { tree: Arc::clone(tree), body: Arc::new(function.body.clone()) };
                self.defined.insert(name.clone(), kept.clone());
                self.state.functions.insert(name, vec![kept]);
                self.harmless = false;
            }
            // The lexer hands these over as simple commands.
            ast::Command::ExtendedTest(..) => self.meet_limit(),
        }
    }

    pub(super) fn compound(&mut self, tree: &Arc<Tree>, command: &ast::CompoundCommand) {
        match command {
            ast::CompoundCommand::Arithmetic(arithmetic) => {
                // The lexer has found that this is no arithmetic: bash takes it as two subshells.
                let source = tree.source(&arithmetic.loc).to_owned();
                match source.strip_prefix('(').and_then(|s| s.strip_suffix(')')) {
                    Some(inner) => self.substitution(inner),
                    None => self.meet_limit(),
                }
            }
            ast::CompoundCommand::ArithmeticForClause(_) => self.meet_limit(),
            ast::CompoundCommand::BraceGroup(group) => self.list(tree, &group.list),
            ast::CompoundCommand::Subshell(shell) => self.apart(|w| w.list(tree, &shell.list)),
            ast::CompoundCommand::ForClause(clause) => {
                let values = match &clause.values {
                    Some(words) => {
                        let words: Vec<_> = words.iter().map(|w| tree.word(w)).collect();
                        let fields: Vec<Field> =
                            words.iter().flat_map(|w| self.fields(w, Use::Arguments)).collect();
                        Value::Known(fields.into_iter().map(|f| f.text).collect())
                    }
                    None => self.positional(),
                };
                let values = match values {
                    Value::Known(values) if values.len() > crate::words::MAX_FIELDS => Value::Unknown,
                    values => values,
                };
                let name = tree.word(&ast::Word::new(&clause.variable_name));
                let name = name.bare().map(str::to_owned).unwrap_or_default();
                self.repeat(|w| {
                    w.assign(&name, values.clone());
                    w.list(tree, &clause.body.list);
                });
            }
            ast::CompoundCommand::CaseClause(clause) => {
                self.value(&tree.word(&clause.value));
                let before = self.state.clone();
                let mut possible = before.clone();
                for item in &clause.cases {
                    for pattern in &item.patterns {
                        self.value(&tree.word(pattern));
                    }
                    if let Some(list) = &item.cmd {
                        // It may be entered from above, too (`;&`).
                        self.state = possible.clone();
                        self.list(tree, list);
                        possible.join(self.state.clone());
                    }
                }
                self.state = possible;
            }
            ast::CompoundCommand::IfClause(clause) => {
                self.list(tree, &clause.condition);
                let mut otherwise = self.state.clone();
                self.list(tree, &clause.then);
                let mut possible = self.state.clone();
                let mut complete = false;
                for part in clause.elses.iter().flatten() {
                    self.state = otherwise.clone();
                    match &part.condition {
                        Some(condition) => {
                            self.list(tree, condition);
                            otherwise = self.state.clone();
                        }
                        None => complete = true,
                    }
                    self.list(tree, &part.body);
                    possible.join(self.state.clone());
                }
                if !complete {
                    possible.join(otherwise);
                }
                self.state = possible;
            }
            ast::CompoundCommand::WhileClause(clause) | ast::CompoundCommand::UntilClause(clause) => {
                self.repeat(|w| {
                    w.list(tree, &clause.0);
                    w.list(tree, &clause.1.list);
                });
            }
            ast::CompoundCommand::Coprocess(coprocess) => {
                self.apart(|w| {
                    w.state.input = Input::Unknown;
                    w.command(tree, &coprocess.body);
                });
            }
        }
    }

    /// Walks a body that may run any number of times, until walking it again changes nothing.
    pub fn repeat(&mut self, mut body: impl FnMut(&mut Self)) {
        for pass in 0..3 {
            let before = self.state.clone();
            body(self);
            self.state.join(before.clone());
            if self.state.same_as(&before) || !self.step() {
                return;
            }
            if pass > 0 {
                self.state.forget_changes(&before);
            }
        }
    }
}
