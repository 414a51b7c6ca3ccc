//! JSON Schemas that strangers wrote, judged before they are used.
//!
//! A schema is a small program: it can branch, refer to itself, and hold patterns. Forty lines are enough to keep a
//! validator busy for a year. So a schema is read as a graph ([`graph`]), the work of applying it is worked out from
//! the graph alone ([`work`]), and only then is it compiled ([`Schema`]). Before every validation the work for that very
//! value is known; a value that would cost too much is refused without being looked at.
//!
//! Nothing here waits, and nothing here needs a time limit. It refuses: references out of the document, references that
//! come back without having looked at a part of the value, patterns that need backtracking, and too much of anything.
//!
//! The invariant: what [`Schema::new`] accepts takes at most [`WORK_MAX`] units for any value.

mod graph;
mod schema;
mod work;

pub use schema::{PATTERN_MAX_BYTES, STACK_BYTES, Schema};
pub use work::Cost;

use serde_json::Value;

/// Nesting of a schema. Deeper ones are refused by providers, and validators recurse. (specification 14.6)
pub const DEPTH_MAX: usize = 32;
/// Objects inside one schema; more makes every validation slow. (specification 14.6)
pub const SUBSCHEMAS_MAX: usize = 2000;
/// How often the schemas inside one schema may look at one and the same place of a value, references followed. More
/// is what branching references grow to; less would refuse the large unions that generated schemas have.
pub const VISITS_MAX: u64 = 4000;
/// References and combinations one inside the other before a part of the value is looked at. More costs a validator
/// its stack; less would refuse layered generated schemas.
pub const LAYERS_MAX: usize = 64;
/// Entries of the tables that the work is worked out with. More would make the judgement itself the attack.
pub const TABLE_MAX: usize = 30_000;
/// Different patterns in one schema. Each is a compiled automaton; more would fill the memory.
pub const PATTERNS_MAX: usize = 32;
/// Units of work for one validation: about a second at most. Less would refuse honest large values.
pub const WORK_MAX: u64 = 10_000_000;
/// Nesting of a value that is looked at. More would cost a validator its stack; a JSON parser stops here, too.
pub const HEIGHT_MAX: usize = 128;

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Whether a schema can be used: small enough, self-contained, of bounded work, and a JSON Schema at all.
pub fn check(schema: &Value) -> Result<(), Refused> {
    Schema::new(schema).map(drop)
}
