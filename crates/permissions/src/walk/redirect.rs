//! Redirections: which files a command reads and writes without naming them as arguments.
//!
//! The invariant: a target that is not certain is noted with everything it may be.

use super::Walker;
use crate::analysis::How;
use crate::lex;
use crate::state::Input;
use crate::tree::Tree;
use crate::words::{Field, Use, Value};
use brush_parser::ast;
use std::sync::Arc;

impl Walker<'_> {
    pub(super) fn redirect(&mut self, tree: &Arc<Tree>, redirect: &ast::IoRedirect) {
        match redirect {
            ast::IoRedirect::File(_, kind, target) => {
                let word = match target {
                    ast::IoFileRedirectTarget::Filename(word)
                    | ast::IoFileRedirectTarget::Duplicate(word) => tree.word(word),
                    ast::IoFileRedirectTarget::Fd(_) => return,
                    ast::IoFileRedirectTarget::ProcessSubstitution(..) => return self.meet_limit(),
                };
                let duplicates = matches!(target, ast::IoFileRedirectTarget::Duplicate(_));
                for field in self.fields(&word, Use::Arguments) {
                    let text = field.literal().unwrap_or("");
                    let descriptor = text == "-"
                        || (!text.is_empty()
                            && text.trim_end_matches('-').bytes().all(|b| b.is_ascii_digit()));
                    if duplicates && descriptor {
                        continue;
                    }
                    let how = match kind {
                        ast::IoFileRedirectKind::Read | ast::IoFileRedirectKind::DuplicateInput => How::Read,
                        ast::IoFileRedirectKind::Append => How::Append,
                        ast::IoFileRedirectKind::ReadAndWrite => How::Write,
                        ast::IoFileRedirectKind::Write
                        | ast::IoFileRedirectKind::Clobber
                        | ast::IoFileRedirectKind::DuplicateOutput => How::Truncate,
                    };
                    if how == How::Read {
                        self.state.input = Input::Unknown;
                    }
                    self.redirects_to(&field, how);
                }
            }
            ast::IoRedirect::OutputAndError(word, append) => {
                let word = tree.word(word);
                for field in self.fields(&word, Use::Arguments) {
                    self.redirects_to(&field, if *append { How::Append } else { How::Truncate });
                }
            }
            ast::IoRedirect::HereDocument(_, document) => {
                let word = tree.word(&document.doc);
                self.state.input = self.text_input(&word);
            }
            ast::IoRedirect::HereString(_, word) => {
                let word = tree.word(word);
                self.state.input = self.text_input(&word);
            }
        }
    }

    fn text_input(&mut self, word: &lex::Word) -> Input {
        match self.value(word) {
            Value::Known(values) => match values.as_slice() {
                [text] => Input::Text(text.clone()),
                _ => Input::Unknown,
            },
            Value::Unknown => Input::Unknown,
        }
    }

    fn redirects_to(&mut self, field: &Field, how: How) {
        let shown = field.shown();
        if let Some(rest) = shown.strip_prefix("/dev/tcp/").or_else(|| shown.strip_prefix("/dev/udp/")) {
            let (host, port) = rest.split_once('/').unwrap_or((rest, ""));
            self.found.hosts.insert(crate::policy::with_port(host, port.parse().ok()));
            self.harmless = false;
            return;
        }
        if how.changes() && shown != "/dev/null" {
            self.harmless = false;
        }
        self.touch(field, how);
    }
}
