//! The built-in table as an embedder: the same bits everywhere, and an answer to every text.

use llm::embeddings::local::{Local, vector};
use llm::embeddings::table::DIMS;
use llm::embeddings::{Embedder, EmbeddingConfig, build};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// A vector's bytes, by their hash.
fn print(vectors: &[Vec<f32>]) -> String {
    let mut hash = Sha256::new();
    vectors.iter().flatten().for_each(|x| hash.update(x.to_le_bytes()));
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn the_same_text_gives_the_same_bits_on_every_machine() {
    let texts =
        ["The cat sat on the mat.", "Ada's physician put her on penicillin.", "東京 Привет café 🙂", "7"];
    let vectors: Vec<Vec<f32>> = texts.iter().map(|t| vector(t)).collect();
    // Changes with the table. Then its edition must change as well, so that brains are embedded anew.
    assert_eq!(
        (Local.space().as_str(), print(&vectors).as_str()),
        ("local:builtin-1:256", "1e400e452ad4721c")
    );
}

#[test]
fn a_text_without_a_known_word_is_near_to_nothing() {
    for text in ["", " \n\t", "🙂🙂", "\u{0}\u{200b}", &"q".repeat(500)] {
        assert_eq!(vector(text), vec![0.0; DIMS], "{text:?}");
    }
}

#[test]
fn what_is_beyond_the_limit_does_not_count() {
    let long = "note ".repeat(5_600);
    assert_eq!(long.len(), 28_000);
    assert_eq!(vector(&format!("{long} submarine")), vector(&long));
    assert_ne!(vector("note submarine"), vector("note"));
}

#[tokio::test]
async fn many_texts_at_once_get_what_each_gets_alone() {
    let local = build(EmbeddingConfig::Local);
    let mut texts: Vec<String> =
        (0..200).map(|n| format!("Letter number {n} to the harbour master.")).collect();
    texts.insert(7, String::new());
    texts.insert(9, "pier ".repeat(10_000));
    let together = local.embed(&texts).await.expect("the table never fails");
    let alone: Vec<Vec<f32>> =
        texts.iter().map(|t| local.at_once(t).expect("the table answers at once")).collect();
    assert_eq!(together, alone);
    assert_eq!(local.embed(&[]).await, Ok(vec![]));
    assert_eq!((local.model(), local.dim()), ("builtin", 256));
}

proptest! {
    #[test]
    fn every_text_has_a_vector_of_length_one_or_nought(text in prop_oneof![any::<String>(), "\\PC{0,400}", "[ a-z.]{0,400}"]) {
        let vector = vector(&text);
        prop_assert_eq!(vector.len(), DIMS);
        prop_assert!(vector.iter().all(|x| x.is_finite()));
        let length = length(&vector);
        prop_assert!(length == 0.0 || (length - 1.0).abs() < 1e-4, "{}", length);
    }
}
