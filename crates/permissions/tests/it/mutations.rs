//! The claims of this crate's fuzz targets, held against their seeds and some thousand mutations of them.

#[path = "../../../../fuzz/claims/corpus.rs"]
pub mod corpus;
#[path = "../../../../fuzz/claims/shell.rs"]
mod shell;

/// Mutations of one target. More make every test run longer; fewer leave the search to cargo-fuzz.
const MUTATIONS: usize = 5_000;

#[test]
fn no_mutation_of_a_command_breaks_the_analyser() {
    corpus::held("shell", MUTATIONS, shell::holds);
}
