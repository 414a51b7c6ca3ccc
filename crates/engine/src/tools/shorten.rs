//! What is left of an answer that is too long for the model: head and tail of a text, the first items of a list.

use serde_json::Value;

/// Room for the note itself; the result stays within the limit with it.
const NOTE_MAX: usize = 80;

/// `None` when the text fits into `max` bytes, else its head and tail, cut between characters and, where
/// one is near, between lines. Two thirds of the room go to the head.
pub fn head_and_tail(text: &str, max: usize) -> Option<String> {
    if text.len() <= max {
        return None;
    }
    let room = max.saturating_sub(NOTE_MAX);
    let head = text.floor_char_boundary(room / 3 * 2);
    let tail = text.ceil_char_boundary(text.len() - (room - head).min(text.len() - head));
    let (head, tail) = (line_end(text, head), line_start(text, tail));
    let missing = tail - head;
    Some(format!("{}\n[… {missing} of {} bytes left out …]\n{}", &text[..head], text.len(), &text[tail..]))
}

/// Moves a cut back to the end of a line, if that loses less than a quarter.
fn line_end(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').filter(|&n| n >= at / 4 * 3).unwrap_or(at)
}

/// Moves a cut forward to the start of a line, if that loses less than a quarter.
fn line_start(text: &str, at: usize) -> usize {
    let length = text.len() - at;
    text[at..].find('\n').filter(|&n| n <= length / 4).map_or(at, |n| at + n + 1)
}

/// How many items of a list fit into `max` bytes as JSON, each whole: half an item is none. The first always does.
pub fn fitting(items: &[Value], max: usize) -> usize {
    let mut bytes = 0_usize;
    let fit = items.iter().take_while(|item| {
        bytes = bytes.saturating_add(item.to_string().len() + 1);
        bytes <= max
    });
    fit.count().max(1).min(items.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_list_that_does_not_fit_loses_its_last_items_and_never_its_first() {
        let items: Vec<Value> = ["a", "b", "c"].iter().map(|text| json!(text.repeat(10))).collect();
        let table = [(1000, 3), (26, 2), (25, 1), (1, 1)];
        assert_eq!(table.map(|(max, _)| fitting(&items, max)), table.map(|(_, fit)| fit));
        assert_eq!(fitting(&[], 1), 0);
    }

    #[test]
    fn short_texts_are_left_alone_and_long_ones_lose_their_middle() {
        assert_eq!(head_and_tail("abc", 3), None);
        let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let short = head_and_tail(&text, 1000).unwrap();
        assert!(short.starts_with("line 0\n") && short.ends_with("line 999\n"), "{short}");
        assert!(short.contains("bytes left out"));
    }

    proptest! {
        #[test]
        fn the_result_fits_and_is_made_of_the_text(text in "\\PC{0,400}", max in 100usize..300) {
            if let Some(short) = head_and_tail(&text, max) {
                prop_assert!(short.len() <= max, "{} > {max}", short.len());
                prop_assert!(text.starts_with(short.split("\n[…").next().unwrap()));
            } else {
                prop_assert!(text.len() <= max);
            }
        }
    }
}
