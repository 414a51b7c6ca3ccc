//! core_soul.json: the template of the soul. (specification 8.5)

use super::agent::{JSON_MAX, load};
use super::document::{Object, parse};
use super::files::Files;
use super::problem::Problem;
use brain::soul::Soul;

/// The file.
pub const FILE: &str = "core_soul.json";
/// Characters of the identity. (specification 8.5)
const IDENTITY_MAX: usize = 4000;
/// Values, and patterns. (specification 8.5)
const LIST_MAX: usize = 50;
/// Characters of one of them. (specification 8.5)
const ITEM_MAX: usize = 500;

/// Reads the template.
pub fn read(files: &dyn Files, problems: &mut Vec<Problem>) -> Option<Soul> {
    let map = match load(FILE, files, JSON_MAX).and_then(|bytes| parse(FILE, &bytes)) {
        Ok(map) => map,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let before = problems.len();
    let mut o = Object::new(FILE, "", &map, problems);
    let identity = o.text("identity", 0, IDENTITY_MAX).unwrap_or_default();
    let values = o.texts("values", LIST_MAX, ITEM_MAX).unwrap_or_default();
    let patterns = o.texts("patterns", LIST_MAX, ITEM_MAX).unwrap_or_default();
    o.finish();
    let bad = problems[before..].iter().any(Problem::is_error);
    (!bad).then_some(Soul { identity, values, patterns })
}
