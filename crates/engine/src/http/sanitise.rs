//! Making incoming text harmless: one normal form, no invisible instructions.

use unicode_normalization::UnicodeNormalization;

/// Removes what people cannot see but models read or terminals obey: C0/C1 controls except tab, LF and CR,
/// Unicode tag characters, bidirectional overrides; then NFC. (specification 3.0)
pub fn text(input: &str) -> String {
    input.chars().filter(|c| !is_hidden(*c)).nfc().collect()
}

fn is_hidden(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{E0000}'..='\u{E007F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

/// The same for every text inside a JSON value, names included.
pub fn value(input: &mut serde_json::Value) {
    match input {
        serde_json::Value::String(s) => *s = text(s),
        serde_json::Value::Array(items) => items.iter_mut().for_each(value),
        serde_json::Value::Object(map) => {
            for (name, mut inner) in std::mem::take(map) {
                value(&mut inner);
                map.insert(text(&name), inner);
            }
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invisible_instructions_and_overrides_are_removed() {
        assert_eq!(text("a\u{E0041}b\u{202E}c\u{0007}d\te\r\nf"), "abcd\te\r\nf");
        assert_eq!(text("e\u{301}"), "é");
        let mut inside = serde_json::json!({"a\u{E0041}": ["b\u{202E}", {"c\u{7}": 1}]});
        value(&mut inside);
        assert_eq!(inside, serde_json::json!({"a": ["b", {"c": 1}]}));
    }

    proptest! {
        #[test]
        fn sanitising_twice_changes_nothing(input in ".*") {
            let once = text(&input);
            prop_assert_eq!(text(&once), once);
        }
    }
}
