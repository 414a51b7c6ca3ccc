//! How many tokens a model's context holds, by its name: a table, because no provider API tells it in a
//! way that works for all of them. LLM_CONTEXT_WINDOW overrides it.

/// The window of a model that is not in the table. Larger would overflow small models before compaction
/// starts; smaller would compact large ones for nothing.
pub const DEFAULT_WINDOW: u32 = 128_000;

/// First match wins: more specific beginnings stand first. Windows are total tokens, input and output.
const TABLE: &[(&str, u32)] = &[
    // OpenAI
    ("gpt-3.5", 16_385),
    ("gpt-4-32k", 32_768),
    ("gpt-4-turbo", 128_000),
    ("gpt-4-0", 8_192),
    ("gpt-4.1", 1_047_576),
    ("gpt-4.5", 128_000),
    ("gpt-4o", 128_000),
    ("gpt-5-chat", 128_000),
    ("gpt-5", 400_000),
    ("gpt-oss", 131_072),
    ("o1-mini", 128_000),
    ("o1-preview", 128_000),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o4", 200_000),
    // Anthropic
    ("claude", 200_000),
    // Google
    ("gemini-1.5-pro", 2_097_152),
    ("gemini", 1_048_576),
    ("gemma", 128_000),
    // Common open models behind compatible servers
    ("deepseek", 128_000),
    ("kimi-k2", 256_000),
    ("qwen3", 131_072),
    ("llama-3", 128_000),
    ("llama3", 128_000),
    ("mistral-large", 128_000),
    ("mistral", 32_768),
    // Ours
    ("offline", 128_000),
];

/// Names that must match whole, because longer names that begin with them differ.
const EXACT: &[(&str, u32)] = &[("gpt-4", 8_192)];

/// The context window of a model in tokens. A vendor prefix (`openai/gpt-4o`, `models/gemini-…`) is ignored.
pub fn context_window(model: &str) -> u32 {
    let bare = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let exact = EXACT.iter().find(|(name, _)| *name == bare);
    let begins = || TABLE.iter().find(|(start, _)| bare.starts_with(start));
    exact.or_else(begins).map_or(DEFAULT_WINDOW, |(_, window)| *window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_have_their_window_and_others_the_default() {
        assert_eq!(context_window("gpt-4o-mini"), 128_000);
        assert_eq!(context_window("gpt-4"), 8_192);
        assert_eq!(context_window("openai/gpt-4.1-mini"), 1_047_576);
        assert_eq!(context_window("claude-sonnet-5-5"), 200_000);
        assert_eq!(context_window("models/Gemini-3.8-flash"), 1_048_576);
        assert_eq!(context_window("my-own-model"), DEFAULT_WINDOW);
    }

    #[test]
    fn no_row_of_the_table_is_hidden_by_an_earlier_one() {
        for (i, (name, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..i].iter().any(|(earlier, _)| name.starts_with(earlier)), "{name}");
        }
    }
}
