#[test]
fn probe() {
    use llm::embeddings::local::vector;
    let pairs = [
        ("drink\nThe user prefers green tea", "drink\nThe user prefers black tea"),
        ("drink\nThe user prefers green tea", "drink\nThe user prefers coffee"),
        ("city\nThe user lives in Pune", "city\nThe user lives in Berlin"),
        ("Anna\nAnna is the sister of Ben", "Anna\nAnna is the mother of Ben"),
        ("ski\nA skiing holiday in Chamonix", "ski\nThe user owns skis and likes Chamonix"),
        ("first outage\nThe deployment of the shop failed", "second outage\nThe deployment of the shop failed"),
        ("style\nThe user wants short answers in English", "style\nThe user wants long answers in English"),
        ("style\nThe user wants short answers in English", "style\nAnswers in English should be short for the user"),
        ("build\nRun the suite before every push to the main branch of the repository", "build\nRun the suite after every push to the main branch of the repository"),
        ("build\nRun the suite before every push to the main branch of the repository", "build\nRun the linter before every push to the main branch of the repository"),
        ("meeting\nThe weekly meeting of the platform team is held in the large room on Monday", "meeting\nThe weekly meeting of the platform team is held in the small room on Monday"),
        ("meeting\nThe weekly meeting of the platform team is held in the large room on Monday", "meeting\nThe weekly meeting of the platform team is held in the large room on Friday"),
        ("x\nThe shop opens at nine", "x\nThe shop opens at nine."),
        ("puppy", "pets\nThe user has a dog called Bob"),
        ("puppy", "cat\nThe dog is called Bob"),
        ("puppy", "work\nThe invoice is due on Friday"),
        ("pet", "pets\nThe user has a dog called Bob"),
    ];
    for (a, b) in pairs {
        let c = ::memory::vector::cosine(&vector(a), &vector(b));
        let d = ::memory::vector::cosine(&vector(&format!("{a}\n2026-11-22 Sunday November 2026")), &vector(&format!("{b}\n2026-11-22 Sunday November 2026")));
        let e = ::memory::vector::cosine(&vector(a), &vector(&format!("{b}\n2026-11-22 Sunday November 2026")));
        println!("{c:?} with dates {d:?} query {e:?} tri {:.2} stems {:.2} | {a:?} | {b:?}", ::memory::likeness::trigram_jaccard(a, b), ::memory::likeness::stem_jaccard(a, b));
    }
}
