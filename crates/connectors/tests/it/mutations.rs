//! The claims of this crate's fuzz targets, held against their seeds and some thousand mutations of them.

#[path = "../../../../fuzz/claims/corpus.rs"]
mod corpus;
#[path = "../../../../fuzz/claims/mcp.rs"]
mod mcp;

/// Mutations of one target. More make every test run longer; fewer leave the search to cargo-fuzz.
const MUTATIONS: usize = 5_000;

#[test]
fn no_mutation_of_a_servers_frame_breaks_the_reader_or_its_limits() {
    corpus::held("mcp", MUTATIONS, mcp::holds);
}

#[test]
fn the_seeds_are_read_as_what_they_are() {
    use rmcp::model::{ServerJsonRpcMessage, ServerResult};
    let result = |seed: &str| match serde_json::from_str(seed).expect("a seed is a message") {
        ServerJsonRpcMessage::Response(response) => response.result,
        other => panic!("no response: {other:?}"),
    };
    let tools = result(include_str!("../../../../fuzz/corpus/mcp/tools"));
    assert!(matches!(&tools, ServerResult::ListToolsResult(slice) if slice.tools.len() == 2), "{tools:?}");
    for seed in [
        include_str!("../../../../fuzz/corpus/mcp/call_text"),
        include_str!("../../../../fuzz/corpus/mcp/call_mixed"),
    ] {
        assert!(matches!(result(seed), ServerResult::CallToolResult(_)), "{seed}");
    }
}
