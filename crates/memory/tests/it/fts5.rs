//! The real FTS5 as an oracle: our words are its words, our stems its stems, our queries always valid.

use memory::query::{Counted, Reading, match_expression, reading, terms, weight};
use memory::retrieval::ROWS_WEIGHED;
use memory::stem::stem;
use memory::tokens::tokens;
use proptest::prelude::*;
use rusqlite::Connection;

/// An index as the brain has it.
fn index(rows: &[&str]) -> Connection {
    let db = Connection::open_in_memory().expect("a database in memory");
    db.execute_batch(
        "CREATE VIRTUAL TABLE t USING fts5(x, tokenize = 'porter unicode61 remove_diacritics 2');
         CREATE VIRTUAL TABLE plain USING fts5(x, tokenize = 'unicode61 remove_diacritics 2');
         CREATE VIRTUAL TABLE words USING fts5vocab(t, instance);
         CREATE VIRTUAL TABLE plain_words USING fts5vocab(plain, instance);",
    )
    .expect("FTS5 is built in");
    for (at, row) in rows.iter().enumerate() {
        for table in ["t", "plain"] {
            db.execute(&format!("INSERT INTO {table} (rowid, x) VALUES (?1, ?2)"), (at as i64 + 1, row))
                .expect("a row");
        }
    }
    db
}

fn words(db: &Connection, table: &str) -> Vec<String> {
    let mut statement = db
        .prepare(&format!("SELECT CAST(term AS BLOB) FROM {table} ORDER BY doc, offset"))
        .expect("a vocabulary");
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).expect("terms");
    rows.map(|term| String::from_utf8_lossy(&term.expect("a term")).into_owned()).collect()
}

/// Which row numbers an expression finds.
fn found(db: &Connection, expression: &str) -> Vec<i64> {
    let mut statement = db.prepare("SELECT rowid FROM t WHERE t MATCH ?1 ORDER BY rowid").expect("a query");
    let rows = statement.query_map([expression], |row| row.get(0)).expect("a valid expression");
    rows.map(|row| row.expect("a row")).collect()
}

/// How well a row fits an expression.
fn bm25(db: &Connection, expression: &str, row: i64) -> f64 {
    let sql = "SELECT -bm25(t) FROM t WHERE t MATCH ?1 AND rowid = ?2";
    db.query_row(sql, (expression, row), |r| r.get(0)).expect("the row is found")
}

#[test]
fn words_weigh_together_what_a_row_of_usual_length_gets_for_all_of_them() {
    let rows: Vec<String> = (0..60)
        .map(|n| {
            format!(
                "filler{n} {} {}",
                if n < 6 { "sister" } else { "noise" },
                if n < 1 { "cello" } else { "rest" }
            )
        })
        .collect();
    let db = index(&rows.iter().map(String::as_str).collect::<Vec<_>>());
    let counted = |word: &str, rows| Counted { term: terms(word).remove(0), rows };
    let words = [counted("cello", 1), counted("sister", 6)];
    let whole = weight(&words, 60);
    assert!((bm25(&db, r#""cello" OR "sister""#, 1) - whole).abs() < 0.01 * whole, "{whole}");
    let half = weight(&words[1..], 60);
    assert!((bm25(&db, r#""cello" OR "sister""#, 2) - half).abs() < 0.01 * half, "{half}");
}

/// Words built from real stems and endings meet every rule of the stemmer, those of a dictionary only some.
fn english() -> impl Strategy<Value = String> {
    let endings = [
        "", "s", "es", "ies", "sses", "ed", "eed", "ing", "y", "ational", "tional", "enci", "anci", "izer",
        "logi", "bli", "alli", "entli", "eli", "ousli", "ization", "ation", "ator", "alism", "iveness",
        "fulness", "ousness", "aliti", "iviti", "biliti", "ical", "ness", "icate", "iciti", "ful", "ative",
        "alize", "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion",
        "sion", "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize", "e", "le", "ll", "ated", "bling",
        "ized", "tting", "lling", "ssed", "zzing",
    ];
    (
        "[a-z]{0,7}[aeiouy]?[a-z]{0,2}",
        prop::sample::select(endings.to_vec()),
        prop::sample::select(endings.to_vec()),
    )
        .prop_map(|(head, one, two)| format!("{head}{one}{two}"))
        .prop_filter("a word", |word| !word.is_empty())
}

#[test]
fn every_letter_of_every_script_is_a_word_where_it_is_one_in_the_index() {
    // FTS5's tables are of an older Unicode than Rust's: to it, what is not yet assigned is part of a word. Only
    // characters that both know are compared.
    const NEWER_LETTER: char = '\u{37F}';
    let is_newer = |c: char, expected: &[String]| {
        c == NEWER_LETTER || (expected.len() == 1 && expected[0].contains(c) && !c.is_alphanumeric())
    };
    let planes =
        [0x21..0x0500u32, 0x0531..0x0600, 0x1E00..0x1F00, 0x3041..0x30FF, 0x4E00..0x5000, 0xAC00..0xAD00];
    let mut differences = Vec::new();
    for c in planes.into_iter().flatten().filter_map(char::from_u32) {
        let text = format!("x{c}y");
        let (expected, ours) = (words(&index(&[&text]), "plain_words"), tokens(&text));
        if expected != ours && !is_newer(c, &expected) {
            differences.push(format!("U+{:04X} {c}: index {expected:?}, ours {ours:?}", c as u32));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn a_question_finds_what_shares_a_word_with_it() {
    let db = index(&["The deployment failed on 2026-04-27 Monday April 2026", "Café in München", "tea"]);
    let ask = |question: &str| match_expression(&terms(question)).map(|e| found(&db, &e)).unwrap_or_default();
    assert_eq!(ask("Which deployments fail?"), [1]);
    assert_eq!(ask("what happened in april?"), [1]);
    assert_eq!(ask("CAFE munchen"), [2]);
    assert_eq!(ask("the of and"), Vec::<i64>::new());
    assert_eq!(ask("tea\" OR x:* NOT ("), [3]);
}

#[test]
fn common_words_find_rows_together_and_move_what_others_find() {
    let filler = ["gamma delta"; 60];
    let texts = ["rare", "rare common", "common", "usual", "rare other", "usual common"];
    let db = index(&[&texts[..], &filler[..]].concat());
    let counts = [3, ROWS_WEIGHED, ROWS_WEIGHED];
    let words: Vec<Counted> = terms("rare common usual")
        .into_iter()
        .zip(counts)
        .map(|(term, rows)| Counted { term, rows })
        .collect();
    let Some(Reading::Newest { finding, weighing, filling }) = reading(&words) else {
        panic!("too many rows")
    };
    assert_eq!(found(&db, &finding), [1, 2, 5, 6]);
    assert_eq!(found(&db, &weighing), [1, 2, 5, 6]);
    assert_eq!(found(&db, &filling.expect("a word that is left")), [2, 3, 6]);
    let best: i64 = db
        .query_row(
            "SELECT rowid FROM t WHERE t MATCH ?1 AND rowid < 6 ORDER BY bm25(t) LIMIT 1",
            [weighing],
            |r| r.get(0),
        )
        .expect("rows");
    assert_eq!(best, 2, "what has two of the words stands before what has one");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn stems_are_those_of_the_index(many in prop::collection::vec(english(), 200)) {
        let text = many.join(" ");
        let expected = words(&index(&[&text]), "words");
        let ours: Vec<String> = tokens(&text).iter().map(|word| stem(word)).collect();
        for ((word, expected), ours) in many.iter().zip(&expected).zip(&ours) {
            prop_assert_eq!(expected, ours, "{}", word);
        }
        prop_assert_eq!(expected.len(), ours.len());
    }

    #[test]
    fn no_text_is_read_as_an_operator(
        text in prop_oneof![any::<String>(), "([a-c]|\"|\\*|\\(|\\)|:|\\^|-|\\+|NEAR|AND|OR|NOT|\\{|\\}|,| |'|\u{0}){0,40}"],
    ) {
        let db = index(&["a b c near"]);
        if let Some(expression) = match_expression(&terms(&text)) {
            found(&db, &expression);
        }
    }
}
