//! Recorded streams, decoded whole and cut at every place.

use crate::talk::lines;
use llm::names::{Dots, NameMap};
use llm::wire::{Decode, DecodeError};
use llm::{ErrorKind, Piece, anthropic, gemini, openai, sse};
use proptest::prelude::*;

const OPENAI_TEXT: &str = include_str!("transcripts/openai_text.sse");
const OPENAI_PARALLEL: &str = include_str!("transcripts/openai_parallel_tools.sse");
const OPENAI_MIXED: &str = include_str!("transcripts/openai_mixed_tools.sse");
const OPENAI_COMPATIBLE: &str = include_str!("transcripts/openai_compatible.sse");
const ANTHROPIC_TEXT: &str = include_str!("transcripts/anthropic_text.sse");
const ANTHROPIC_TOOLS: &str = include_str!("transcripts/anthropic_thinking_tools.sse");
const ANTHROPIC_OVERLOADED: &str = include_str!("transcripts/anthropic_overloaded.sse");
const GEMINI_TEXT: &str = include_str!("transcripts/gemini_text.sse");
const GEMINI_TOOLS: &str = include_str!("transcripts/gemini_tools.sse");

/// Bytes an answer may bring: more than any transcript has.
const MOST: usize = 1 << 20;

fn names(dots: Dots) -> NameMap {
    NameMap::new(["slack.send", "read_file", "git_status"], dots)
}

fn run(mut decoder: impl Decode, chunks: &[&[u8]]) -> Result<Vec<Piece>, DecodeError> {
    let mut parser = sse::Parser::new();
    let mut pieces = Vec::new();
    let mut events = Vec::new();
    for chunk in chunks {
        parser.push(chunk, &mut events).expect("small");
    }
    parser.finish(&mut events);
    for event in &events {
        pieces.extend(decoder.push(event)?);
    }
    pieces.extend(decoder.finish()?);
    Ok(pieces)
}

fn replay(name: &str, chunks: &[&[u8]]) -> Result<Vec<Piece>, DecodeError> {
    match name.split('_').next() {
        Some("openai") => run(openai::Decoder::new(names(Dots::Forbidden), 77, MOST), chunks),
        Some("anthropic") => run(anthropic::Decoder::new(names(Dots::Forbidden), 77, MOST), chunks),
        _ => run(gemini::Decoder::new(names(Dots::Allowed), 77, MOST), chunks),
    }
}

fn told(name: &str, transcript: &str) -> Vec<String> {
    lines(&replay(name, &[transcript.as_bytes()]).expect("decodes"))
}

const WHOLE: &[(&str, &str)] = &[
    ("openai_text", OPENAI_TEXT),
    ("openai_parallel_tools", OPENAI_PARALLEL),
    ("openai_mixed_tools", OPENAI_MIXED),
    ("openai_compatible", OPENAI_COMPATIBLE),
    ("anthropic_text", ANTHROPIC_TEXT),
    ("anthropic_thinking_tools", ANTHROPIC_TOOLS),
    ("gemini_text", GEMINI_TEXT),
    ("gemini_tools", GEMINI_TOOLS),
];

#[test]
fn openai_text_with_cached_tokens() {
    assert_eq!(
        told("openai_text", OPENAI_TEXT),
        [
            "start Text",
            "text: Grüße aus Köln!\n\n✓ 完了",
            r#"end {"text":"Grüße aus Köln!\n\n✓ 完了","type":"text"}"#,
            "usage 1143/42/1024",
            "stop EndTurn",
        ]
    );
}

#[test]
fn openai_parallel_tools_keep_their_order_and_get_their_dots_back() {
    assert_eq!(
        told("openai_parallel", OPENAI_PARALLEL),
        [
            "start Text",
            "text: Let me look.",
            r#"end {"text":"Let me look.","type":"text"}"#,
            "start ToolUse",
            r##"end call slack.send {"channel":"#a","text":"hé"}"##,
            "start ToolUse",
            r#"end call read_file {"path":"/tmp/x"}"#,
            "start ToolUse",
            "end call git_status {}",
            "usage 1143/42/1024",
            "stop ToolUse",
        ]
    );
}

#[test]
fn openai_arguments_that_come_mixed_are_merged_by_index_and_missing_usage_is_estimated() {
    assert_eq!(
        told("openai_mixed", OPENAI_MIXED),
        [
            "start ToolUse",
            r#"end call read_file {"path":"/a"}"#,
            "start ToolUse",
            r#"end call read_file {"path":"/b"}"#,
            "usage 77/8/0 estimated",
            "stop ToolUse",
        ]
    );
}

#[test]
fn a_compatible_server_with_its_own_habits_is_understood() {
    // CRLF, comments, reasoning, every call at index 0, finish_reason "stop", no [DONE], no last blank line.
    assert_eq!(
        told("openai_compatible", OPENAI_COMPATIBLE),
        [
            "start Thinking",
            "thinking: I should call.",
            r#"end {"signature":{"field":"reasoning_content","provider":"openai"},"text":"I should call.","type":"thinking"}"#,
            "start ToolUse",
            r#"end call read_file {"path":"/a"}"#,
            "start ToolUse",
            r#"end call read_file {"path":"/b"}"#,
            "usage 77/12/0 estimated",
            "stop ToolUse",
        ]
    );
}

#[test]
fn anthropic_text_counts_cached_tokens_as_input() {
    assert_eq!(
        told("anthropic_text", ANTHROPIC_TEXT),
        [
            "start Text",
            "text: Hello",
            "usage 1125/1/1000",
            "text: ! Ünïcode ✓",
            r#"end {"text":"Hello! Ünïcode ✓","type":"text"}"#,
            "usage 1125/15/1000",
            "stop EndTurn",
        ]
    );
}

#[test]
fn anthropic_thinking_keeps_its_signature_and_tools_their_arguments() {
    assert_eq!(
        told("anthropic_tools", ANTHROPIC_TOOLS),
        [
            "start Thinking",
            "usage 472/2/0",
            "thinking: Let me think.",
            r#"end {"signature":{"provider":"anthropic","signature":"EqQBCgIYAhIM1gbcDa9G=="},"text":"Let me think.","type":"thinking"}"#,
            "start Thinking",
            r#"end {"signature":{"provider":"anthropic","redacted":"EmwKAhgBEgy3va3p"},"text":"","type":"thinking"}"#,
            "start Text",
            "text: I look.",
            r#"end {"text":"I look.","type":"text"}"#,
            "start ToolUse",
            r##"end call slack.send {"channel":"#a"}"##,
            "start ToolUse",
            "end call git_status {}",
            "usage 472/89/0",
            "stop ToolUse",
        ]
    );
}

#[test]
fn gemini_text_keeps_the_signature_of_its_last_part() {
    assert_eq!(
        told("gemini_text", GEMINI_TEXT),
        [
            "start Text",
            "text: Hallo Wörld, ok",
            r#"end {"text":"Hallo Wörld, ok","type":"text"}"#,
            "start Thinking",
            r#"end {"signature":{"of":"nothing","provider":"gemini","thoughtSignature":"Ct8BAdHtim8="},"text":"","type":"thinking"}"#,
            "usage 2000/42/1536",
            "stop EndTurn",
        ]
    );
}

#[test]
fn gemini_calls_keep_their_ids_and_signatures() {
    assert_eq!(
        told("gemini_tools", GEMINI_TOOLS),
        [
            "start Thinking",
            "thinking: **Plan**\n\nfirst this",
            r#"end {"text":"**Plan**\n\nfirst this","type":"thinking"}"#,
            "start ToolUse",
            r##"end call slack.send {"channel":"#a"} signed {"id":"fc-1","provider":"gemini","thoughtSignature":"EpEDCo4D=="}"##,
            "start ToolUse",
            "end call git_status {}",
            "usage 50/40/0",
            "stop ToolUse",
        ]
    );
}

#[test]
fn an_error_inside_a_stream_is_an_error() {
    let outcome = replay("anthropic", &[ANTHROPIC_OVERLOADED.as_bytes()]);
    assert!(
        matches!(outcome, Err(DecodeError::Refused(frame)) if frame["error"]["type"] == "overloaded_error")
    );
}

#[test]
fn a_transcript_cut_anywhere_between_events_is_never_a_whole_answer() {
    for (name, transcript) in WHOLE {
        let mut whole = 0;
        let end = if name.starts_with("gemini") { "\r\n\r\n" } else { "\n\n" };
        for (at, _) in transcript.match_indices(end) {
            let cut = replay(name, &[&transcript.as_bytes()[..at + end.len()]]);
            match cut {
                Ok(_) => whole += 1,
                Err(DecodeError::Failed(error)) => {
                    assert_eq!(error.kind, ErrorKind::Stream, "{name} at {at}")
                }
                Err(other) => panic!("{name} at {at}: {other:?}"),
            }
        }
        // With a stop reason the answer is whole even when usage, [DONE] or message_stop are missing.
        assert!(whole <= 3, "{name}: {whole} cuts looked whole");
    }
}

#[test]
fn every_single_cut_of_the_bytes_gives_the_same_pieces() {
    for (name, transcript) in WHOLE {
        let bytes = transcript.as_bytes();
        let whole = told(name, transcript);
        for at in 0..=bytes.len() {
            let cut = replay(name, &[&bytes[..at], &bytes[at..]]).expect("decodes");
            assert_eq!(lines(&cut), whole, "{name} cut at {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_pieces(
        which in 0..WHOLE.len(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (name, transcript) = WHOLE[which];
        let bytes = transcript.as_bytes();
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let chunks: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(lines(&replay(name, &chunks).expect("decodes")), told(name, transcript));
    }

    #[test]
    fn a_decoder_never_panics_whatever_it_is_told(
        which in 0..3_usize,
        frames in proptest::collection::vec(
            prop_oneof![
                Just(r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"x"}}]}}]}"#.to_owned()),
                Just(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"length"}]}"#.to_owned()),
                Just(r#"{"type":"content_block_start","content_block":{"type":"tool_use"}}"#.to_owned()),
                Just(r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"s"}}"#.to_owned()),
                Just(r#"{"type":"message_delta","delta":{"stop_reason":"odd"},"usage":{"output_tokens":-1}}"#.to_owned()),
                Just(r#"{"candidates":[{"content":{"parts":[{"functionCall":{}},{"thoughtSignature":"s"}]},"finishReason":"X"}]}"#.to_owned()),
                Just("[1,2]".to_owned()),
                Just("null".to_owned()),
                Just("[DONE]".to_owned()),
                ".{0,20}",
            ],
            0..8,
        ),
    ) {
        let text: String = frames.iter().map(|f| format!("data: {f}\n\n")).collect();
        let _ = replay(["openai", "anthropic", "gemini"][which], &[text.as_bytes()]);
    }
}
