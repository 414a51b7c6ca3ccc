//! The claims of this crate's fuzz targets, held against their seeds and some thousand mutations of them.

#[path = "../../../../fuzz/claims/corpus.rs"]
mod corpus;
#[path = "../../../../fuzz/claims/decoder.rs"]
mod decoder;
#[path = "../../../../fuzz/claims/sse.rs"]
mod sse;

/// Mutations of one target. More make every test run longer; fewer leave the search to cargo-fuzz.
const MUTATIONS: usize = 5_000;

#[test]
fn mutated_event_streams_give_the_same_events_however_they_are_cut() {
    corpus::held("sse", MUTATIONS, sse::holds);
}

#[test]
fn mutated_streams_of_every_provider_give_blocks_in_their_order_or_an_error() {
    corpus::held("decoder", MUTATIONS, decoder::holds);
}
