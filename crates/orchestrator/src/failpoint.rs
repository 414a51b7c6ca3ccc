//! Places where a test makes the program fail: `<operation>.<step>.before` and `.after`. Absent from release builds.
//!
//! A whole process is told by the variable `ORCH_TEST_FAIL_POINT=<name>` to end by SIGKILL the first time it passes
//! the place; a test in the same process arms points through [`FailPoints::arm`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The process ends as by SIGKILL.
    Kill,
    /// The executor vanishes without a trace, as in a killed process.
    Vanish,
}

/// The armed points, and every point that was passed.
#[derive(Debug, Default)]
pub struct FailPoints {
    armed: Mutex<HashMap<String, Failure>>,
    passed: Mutex<BTreeSet<String>>,
}

impl FailPoints {
    /// Arms a point; it fires once.
    pub fn arm(&self, name: &str, failure: Failure) {
        if cfg!(debug_assertions) {
            self.armed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), failure);
        }
    }

    /// True until the point has fired.
    pub fn is_armed(&self, name: &str) -> bool {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Every point passed so far, armed or not.
    pub fn passed(&self) -> BTreeSet<String> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a point; true = the executor must vanish.
    pub(crate) fn pass(&self, operation: &str, step: &str, moment: &str) -> bool {
        if !cfg!(debug_assertions) {
            return false;
        }
        let name = format!("{operation}.{step}.{moment}");
        let failure = self.armed.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        match failure {
            Some(Failure::Kill) => {
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                true
            }
            Some(Failure::Vanish) => true,
            None => false,
        }
    }
}
