//! The claims of this crate's fuzz targets, held against their seeds and some thousand mutations of them.

#[path = "../../../../fuzz/claims/corpus.rs"]
mod corpus;
#[path = "../../../../fuzz/claims/catalog.rs"]
mod catalog;
#[path = "../../../../fuzz/claims/import.rs"]
mod import;

/// Mutations of one target. More make every test run longer; fewer leave the search to cargo-fuzz.
const MUTATIONS: usize = 3_000;

#[test]
fn no_mutation_of_a_catalog_file_panics_and_what_is_not_taken_is_explained() {
    corpus::held("catalog", MUTATIONS, catalog::holds);
}

#[test]
fn no_mutation_of_a_bundle_panics_and_what_is_refused_says_where() {
    corpus::held("import", MUTATIONS, import::holds);
}
