//! Running one command: a function of this text, or what the table of commands knows.
//!
//! The invariant: a function that nobody seems to call is walked as well.

use super::Walker;
use crate::commands;
use crate::state::Function;
use crate::words::{Field, Value};
use std::sync::Arc;

impl Walker<'_> {
    /// Runs one command: a function, or what the table knows of it.
    pub fn run(&mut self, arguments: &[Field]) {
        if !self.step() {
            return;
        }
        self.ran += 1;
        let Some((name, rest)) = arguments.split_first() else { return };
        let Some(name) = name.literal().map(str::to_owned) else {
            self.harmless = false;
            self.dynamic();
            commands::guess(self, &name.text, rest);
            return commands::mention(self, arguments);
        };
        match self.state.functions.get(&name).cloned() {
            Some(functions) => self.call(&name, &functions, rest),
            None => commands::run(self, &name, rest),
        }
    }

    fn call(&mut self, name: &str, functions: &[Function], arguments: &[Field]) {
        self.called.insert(name.to_owned());
        self.harmless = false;
        if self.nesting == 0 {
            return self.meet_limit();
        }
        let many = arguments.iter().any(|f| f.many);
        let given = if many {
            Value::Unknown
        } else {
            Value::Known(arguments.iter().map(|f| f.text.clone()).collect())
        };
        let kept = std::mem::replace(&mut self.state.positional, given);
        self.nesting -= 1;
        for function in functions {
            let body = Arc::clone(&function.body);
            for redirect in body.1.iter().flat_map(|r| &r.0) {
                self.redirect(&function.tree, redirect);
            }
            self.compound(&function.tree, &body.0);
        }
        self.nesting += 1;
        self.state.positional = kept;
    }

    /// Functions nobody seemed to call may still be called: by a trap, or by a computed name.
    pub(super) fn uncalled_functions(&mut self) {
        for (name, function) in self.defined.clone() {
            if !self.called.contains(&name) {
                self.state.functions.remove(&name);
                self.call(&name, &[function], &[Field::unknown()]);
            }
        }
    }
}
