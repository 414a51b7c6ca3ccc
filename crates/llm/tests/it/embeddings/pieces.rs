//! The splitter against what the `tokenizers` library says for the same model (all-MiniLM-L6-v2), piece by piece.

use llm::embeddings::pieces::each_piece;
use llm::embeddings::table::BUILTIN;
use proptest::prelude::*;

fn pieces(text: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    each_piece(&BUILTIN, text, |place| {
        found.push(std::str::from_utf8(BUILTIN.piece(place)).expect("pieces are UTF-8"));
    });
    found
}

#[test]
fn texts_split_as_in_bert() {
    let table: [(&str, &str); 20] = [
        ("The quick brown fox.", "the quick brown fox ."),
        (
            "unaffable embeddings, re-embedding!",
            "una ##ffa ##ble em ##bed ##ding ##s , re - em ##bed ##ding !",
        ),
        ("Café naïve RÉSUMÉ Ångström", "cafe naive resume ang ##strom"),
        ("don't e-mail bob@example.com $5.00", "don ' t e - mail bob @ example . com $ 5 . 00"),
        ("東京 is 日本's capital", "東 京 is 日 本 ' s capital"),
        ("한국어 Привет мир", "ᄒ ##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ ##ᄋ ##ᅥ п ##р ##и ##в ##е ##т м ##и ##р"),
        ("zero\u{200b}width\u{ad}soft\0nul\u{fffd}rep", "zero ##wi ##dt ##hs ##oft ##nu ##lr ##ep"),
        ("tabs\tand\nlines\r\nend", "tab ##s and lines end"),
        ("İstanbul ΣΊΣΥΦΟΣ Straße ﬁne", "istanbul σ ##ι ##σ ##υ ##φ ##ο ##σ st ##raße ﬁ ##ne"),
        ("“quotes” — dash… 50%", "“ quotes ” — dash … 50 %"),
        ("🙂 emoji 👩‍👩‍👧", "em ##oj ##i"),
        ("ｆｕｌｌ ｗｉｄｔｈ ½", "½"),
        ("नमस्ते दुनिया", "न ##म ##स ##त द ##न ##ि ##य ##ा"),
        ("", ""),
        ("  \n ", ""),
        ("[ cls ] # # ing ##ing", "[ cl ##s ] # # ing # # ing"),
        ("a\u{300}\u{301}\u{301}b\u{489}c", ""),
        ("line\u{2028}para\u{2029}nbsp\u{a0}x\u{85}y\u{b}z", "line para n ##bs ##p x ##y ##z"),
        (
            "supercalifragilisticexpialidocious",
            "super ##cal ##if ##rag ##ilis ##tic ##ex ##pia ##lid ##oc ##ious",
        ),
        ("2026-04-27T13:24:48Z", "202 ##6 - 04 - 27 ##t ##13 : 24 : 48 ##z"),
    ];
    for (text, expected) in table {
        assert_eq!(pieces(text).join(" "), expected, "{text:?}");
    }
}

#[test]
fn a_word_of_a_hundred_characters_is_split_and_a_longer_one_is_none() {
    let hundred = pieces(&"x".repeat(100));
    assert_eq!((hundred.len(), hundred[0], hundred[49]), (50, "xx", "##xx"));
    assert_eq!(pieces(&format!("{} b", "a".repeat(101))), ["b"]);
    assert_eq!(pieces(&format!("{} b", "é".repeat(100_000))), ["b"]);
}

#[test]
fn the_models_own_marks_cannot_be_written_into_a_text() {
    assert_eq!(pieces("[CLS] [unused1]").join(" "), "[ cl ##s ] [ unused ##1 ]");
}

proptest! {
    #[test]
    fn whatever_the_text_the_pieces_are_of_the_table_and_of_the_text(text in hostile()) {
        let found = pieces(&text);
        // Lower case and taking apart can make a character longer, never by more than this.
        let bytes: usize = found.iter().map(|p| p.strip_prefix("##").unwrap_or(p).len()).sum();
        prop_assert!(bytes <= 16 * text.len());
    }

    #[test]
    fn blanks_and_controls_around_words_change_nothing(words in prop::collection::vec("[a-z]{1,12}", 1..8)) {
        let plain = words.join(" ");
        let odd = format!("\u{feff} {}\u{200b} \t", words.join("\u{3000}\r\n"));
        prop_assert_eq!(pieces(&plain), pieces(&odd));
    }
}

/// Texts that are not meant kindly: any character, marks without a letter, endless words, half markup.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "\\PC{0,300}",
        "[\u{300}-\u{36f}a-c]{0,400}",
        "[\u{ac00}-\u{d7a3}\u{fdfa}\u{1e9b}\u{130}]{0,200}",
        "[#\\[\\]\u{0}-\u{20}]{0,300}",
    ]
}
