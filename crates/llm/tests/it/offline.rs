//! The built-in rule set: what it answers, and that it always answers the same.

use crate::talk::*;
use contract::{Block, Source};
use llm::offline::rules::INTRODUCTION;
use llm::{
    CONTINUE_REQUEST, Message, Piece, Provider, ProviderConfig, ProviderKind, Request, Stop, Timeouts,
};
use serde_json::{Value, json};
use std::sync::Arc;

const ALL_TOOLS: &[&str] =
    &["ask_user", "bash", "file_search", "knowledge_search", "knowledge_write", "plan", "read_file"];

fn offline() -> Arc<dyn Provider> {
    llm::build(ProviderConfig {
        provider: ProviderKind::Offline,
        api_key: None,
        base_url: None,
        timeouts: Timeouts::default(),
    })
}

fn ask(tools: &[&str], messages: Vec<Message>) -> Request {
    Request { tools: tools.iter().map(|t| tool(t)).collect(), ..request("offline-1", messages) }
}

async fn answer(tools: &[&str], messages: Vec<Message>) -> String {
    text(&pieces(offline().complete(ask(tools, messages))).await)
}

/// The answer to a question of a new conversation into which these items were recalled.
async fn remembering(items: &str, question: &str) -> String {
    let content = vec![Block::text(format!("<memory>\n{items}\n</memory>")), Block::text(question)];
    answer(&[], vec![Message { role: contract::Role::User, content }]).await
}

fn item_of_turn(asked: &str, answered: &str) -> String {
    format!(
        "<item id=\"ep-1\" store=\"episodes\">\nAn earlier turn: what was asked, then what was answered\n{asked}\n{answered}\n</item>"
    )
}

fn item_of_fact(fact: &str) -> String {
    format!("<item id=\"fact-1\" store=\"knowledge\">\nit\n{fact}\n</item>")
}

async fn calls(tools: &[&str], said: &str) -> Vec<(String, Value)> {
    blocks(&pieces(offline().complete(ask(tools, vec![user(said)]))).await)
        .into_iter()
        .filter_map(|b| match b {
            Block::ToolUse { name, input, .. } => Some((name, input)),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_planner_s_question_is_answered_with_the_parts_of_its_goal() {
    let schema = json!({"title": "plan", "type": "object"});
    let asked = |said: &str| Request { output_schema: Some(schema.clone()), ..ask(&[], vec![user(said)]) };
    let said = "<goal>\npack the bag, then lock the door; take the train.\n</goal>\n<tools>\nbash\n</tools>";
    let plan: Value =
        serde_json::from_str(&text(&pieces(offline().complete(asked(said))).await)).expect("JSON");
    let titles: Vec<&str> =
        plan["steps"].as_array().expect("steps").iter().filter_map(|s| s["title"].as_str()).collect();
    assert_eq!(titles, ["pack the bag", "lock the door", "take the train"]);
    assert_eq!(plan["steps"][2], json!({"id": "3", "title": "take the train", "status": "open"}));
    // another structured answer, and a goal of nothing, stay the smallest instance
    for said in ["<goal>\n \n</goal>", "a goal"] {
        assert_eq!(text(&pieces(offline().complete(asked(said))).await), "{}", "{said}");
    }
}

#[tokio::test]
async fn each_rule_calls_its_tool() {
    for (said, name, input) in [
        ("run ls -la /tmp", "bash", json!({"command": "ls -la /tmp"})),
        ("Please run `git status`", "bash", json!({"command": "git status"})),
        ("READ /etc/hosts", "read_file", json!({"path": "/etc/hosts"})),
        ("search for lost keys?", "file_search", json!({"query": "lost keys"})),
        (
            "remember that my cat is Mia",
            "knowledge_write",
            json!({"subject": "my cat", "content": "my cat is Mia"}),
        ),
        ("What do you know about cats?", "knowledge_search", json!({"query": "cats"})),
        ("what do you know about me?", "knowledge_search", json!({"query": ""})),
        ("ask me what colour I like", "ask_user", json!({"question": "what colour I like"})),
        ("plan a trip to Rome", "plan", json!({"goal": "a trip to Rome"})),
    ] {
        assert_eq!(calls(ALL_TOOLS, said).await, [(name.to_owned(), input)], "{said}");
    }
    assert_eq!(calls(&["grep"], "search foo").await, [("grep".to_owned(), json!({"pattern": "foo"}))]);
}

#[tokio::test]
async fn a_rule_is_silent_when_its_tool_is_not_offered() {
    for said in [
        "run ls",
        "read /x",
        "search y",
        "remember that a is b",
        "what do you know about z",
        "ask me q",
        "plan p",
    ] {
        assert_eq!(calls(&[], said).await, [], "{said}");
    }
    assert!(
        answer(&[], vec![user("remember that a is b")])
            .await
            .contains("cannot write that to long-term memory")
    );
}

#[tokio::test]
async fn the_first_answer_says_what_it_is_and_later_ones_do_not_repeat_it() {
    let first = answer(ALL_TOOLS, vec![user("hello")]).await;
    assert!(first.starts_with(INTRODUCTION), "{first}");
    let second =
        answer(ALL_TOOLS, vec![user("hello"), assistant(vec![Block::text(first)]), user("well")]).await;
    assert!(!second.contains(INTRODUCTION) && second.contains("“well”"), "{second}");
}

#[tokio::test]
async fn it_knows_the_thread() {
    let said = |text: &str| vec![user("Hi. My name is Ada."), assistant(vec![Block::text("ok")]), user(text)];
    assert_eq!(
        answer(&[], said("what is my name?")).await,
        "Your name is Ada; you told me: “My name is Ada”."
    );
    assert!(answer(&[], said("What did I say?")).await.contains("“Hi. My name is Ada.”"));
    assert!(answer(&[], said("what is my colour?")).await.contains("have not told me your colour"));
}

#[tokio::test]
async fn it_uses_recalled_memory_but_does_not_take_it_for_speech() {
    let memory = "<memory>\n<item id=\"1\" source=\"user\">my favourite city is Lisbon</item>\n</memory>";
    let message = Message {
        role: contract::Role::User,
        content: vec![Block::text(memory), Block::text("what is my favourite city")],
    };
    let told = answer(&[], vec![message]).await;
    assert!(told.contains("Your favourite city is Lisbon"), "{told}");
}

#[tokio::test]
async fn what_an_item_says_is_quoted_not_what_it_is_about() {
    let memory = "<memory>\n<item id=\"fact-1\" source=\"user\">\noffice\nIt moved to 12 Baker Street.\n</item>\n</memory>";
    let content = vec![Block::text(memory), Block::text("Where is the office?")];
    let told = answer(&[], vec![Message { role: contract::Role::User, content }]).await;
    assert!(told.contains("in memory: “It moved to 12 Baker Street.”"), "{told}");
    let alone =
        "<memory>\n<item id=\"fact-1\">\n<quoted>\nthe office burned down\n</quoted>\n</item>\n</memory>";
    let content = vec![Block::text(alone), Block::text("Where is the office?")];
    let told = answer(&[], vec![Message { role: contract::Role::User, content }]).await;
    assert!(told.contains("as somebody else's words: “the office burned down”"), "{told}");
}

#[tokio::test]
async fn a_remembered_subject_is_short_whatever_is_said() {
    for said in ["x".repeat(5000), format!("{} is long", "word ".repeat(500)), "is it so".to_owned()] {
        let made = calls(ALL_TOOLS, &format!("remember that {said}")).await;
        let subject = made[0].1["subject"].as_str().expect("a subject");
        assert!((1..=200).contains(&subject.chars().count()), "{subject}");
        assert_eq!(made[0].1["content"], said);
    }
}

#[tokio::test]
async fn a_line_of_recalled_memory_is_one_statement_and_keeps_its_signs() {
    let sign =
        remembering("<item id=\"fact-1\">\nmy limit is a < 5 weeks\n</item>", "what is my limit?").await;
    assert!(sign.contains("Your limit is a < 5 weeks"), "{sign}");
}

#[tokio::test]
async fn results_of_tools_are_reported_in_a_sentence() {
    let after = |name: &str, input: Value, output: &str| {
        vec![
            user("go"),
            assistant(vec![call("call-1", name, input)]),
            results(vec![result("call-1", output)]),
        ]
    };
    for (name, input, output, expected) in [
        (
            "bash",
            json!({"command": "ls"}),
            r#"{"stdout":"a\nb\n","stderr":"","exit_code":0,"timed_out":false}"#,
            "I ran `ls`; it ended with exit code 0 and printed:\na\nb",
        ),
        (
            "bash",
            json!({"command": "true"}),
            r#"{"stdout":"","stderr":"","exit_code":0,"timed_out":false}"#,
            "and printed nothing.",
        ),
        ("read_file", json!({"path": "/x"}), r#"{"content":"hello\n","path":"/x"}"#, "This is in /x:\nhello"),
        (
            "knowledge_search",
            json!({"query": "cats"}),
            r#"[{"subject":"cat","content":"is Mia"}]"#,
            "This is what I know about cats:\n- cat: is Mia",
        ),
        ("knowledge_search", json!({"query": "cats"}), "[]", "I know nothing about cats yet."),
        ("knowledge_search", json!({"query": ""}), "[]", "I know nothing yet."),
        (
            "knowledge_search",
            json!({"query": ""}),
            r#"[{"subject":"cat","content":"is Mia","valid_until":"2026-04-27T12:34:56.000Z"}]"#,
            "This is what I know:\n- cat: is Mia (until 2026-04-27)",
        ),
        (
            "knowledge_write",
            json!({"content": "my cat is Mia"}),
            r#"{"status":"created","id":"fact-1","closed":[]}"#,
            "I will remember this: my cat is Mia",
        ),
        (
            "knowledge_write",
            json!({"content": "my cat is Mia"}),
            r#"{"status":"duplicate","id":"fact-1","closed":[]}"#,
            "I know that already: my cat is Mia",
        ),
        ("ask_user", json!({"question": "q"}), r#"{"answer":"blue","feedback":null}"#, "You answered: blue"),
        (
            "plan",
            json!({"goal": "g"}),
            r#"{"goal":"g","steps":[{"id":"1","title":"Pack","status":"open"}]}"#,
            "1. Pack",
        ),
        ("slack.send", json!({}), "sent", "The tool slack.send returned:\nsent"),
    ] {
        let told = answer(ALL_TOOLS, after(name, input, output)).await;
        assert!(told.contains(expected), "{told}");
        assert!(told.starts_with(INTRODUCTION), "the first text of the conversation introduces itself");
    }
}

#[tokio::test]
async fn a_failed_tool_is_told() {
    let failed = Block::ToolResult {
        tool_use_id: "call-1".into(),
        content: vec![Block::text("no such file")],
        is_error: true,
    };
    let messages = vec![
        user("read /x"),
        assistant(vec![call("call-1", "read_file", json!({"path": "/x"}))]),
        results(vec![failed]),
    ];
    assert!(answer(ALL_TOOLS, messages).await.contains("The tool read_file did not succeed: no such file"));
}

#[tokio::test]
async fn it_says_that_it_cannot_look_at_media() {
    let image = Block::Image { source: Source::Url { url: "https://e.org/a.png".into() } };
    let message = Message { role: contract::Role::User, content: vec![image, Block::text("what is this")] };
    assert!(answer(&[], vec![message]).await.contains("cannot look at (image)"));
}

#[tokio::test]
async fn with_a_schema_the_answer_is_the_smallest_valid_instance() {
    let schema = json!({"type": "object", "required": ["title"], "properties": {"title": {"type": "string", "minLength": 2}}});
    let request = Request { output_schema: Some(schema.clone()), ..ask(&[], vec![user("hi")]) };
    let told: Value =
        serde_json::from_str(&text(&pieces(offline().complete(request)).await)).expect("JSON only");
    assert!(jsonschema::is_valid(&schema, &told));
}

#[tokio::test]
async fn the_same_request_gives_the_same_pieces_and_usage_by_bytes() {
    let request = ask(ALL_TOOLS, vec![user("tell me something long")]);
    let first = pieces(offline().complete(request.clone())).await;
    assert_eq!(first, pieces(offline().complete(request)).await);
    let words = first.iter().filter(|p| matches!(p, Piece::Text(_))).count();
    assert!(words > 10, "word by word");
    let length = text(&first).len() as u64;
    let Some(Piece::Usage { usage, estimated: false }) = first.get(first.len() - 2) else {
        panic!("{first:?}")
    };
    assert_eq!(usage.output_tokens, length.div_ceil(4));
}

#[tokio::test]
async fn an_answer_cut_anywhere_is_continued_exactly() {
    let question =
        || vec![user("my name is Ada"), assistant(vec![Block::text("ok")]), user("what did I say?")];
    let whole = answer(&[], question()).await;
    for at in (0..whole.len()).filter(|at| whole.is_char_boundary(*at)) {
        let mut messages = question();
        if at > 0 {
            messages.extend([assistant(vec![Block::text(&whole[..at])]), user(CONTINUE_REQUEST)]);
        }
        assert_eq!(answer(&[], messages).await, whole[at..], "cut at {at}");
    }
    let (a, b) = (whole.floor_char_boundary(5), whole.floor_char_boundary(20));
    let mut twice = question();
    twice.extend([assistant(vec![Block::text(&whole[..a])]), user(CONTINUE_REQUEST)]);
    twice.extend([assistant(vec![Block::text(&whole[a..b])]), user(CONTINUE_REQUEST)]);
    assert_eq!(answer(&[], twice).await, whole[b..]);
}

#[tokio::test]
async fn the_output_limit_cuts_and_the_rest_can_be_asked_for() {
    let request = Request { max_tokens: 5, ..ask(ALL_TOOLS, vec![user("hello")]) };
    let first = pieces(offline().complete(request.clone())).await;
    assert_eq!(first.last(), Some(&Piece::Stop(Stop::MaxTokens)));
    let part = text(&first);
    assert!(part.len() <= 20);
    let rest =
        ask(ALL_TOOLS, vec![user("hello"), assistant(vec![Block::text(&part)]), user(CONTINUE_REQUEST)]);
    let whole = answer(ALL_TOOLS, vec![user("hello")]).await;
    assert_eq!(part + &text(&pieces(offline().complete(rest)).await), whole);
}

#[tokio::test]
async fn somebody_else_s_words_are_no_statement_of_the_person_and_own_answers_are_not_quoted_again() {
    let page = "<item id=\"fact-1\">\n<quoted>\nmy password is 4711\n</quoted>\n</item>";
    let said = remembering(page, "what is my password?").await;
    assert!(said.contains("You have not told me your password"), "{said}");
    let said = remembering(page, "anything on the password").await;
    assert!(said.contains("as somebody else's words: “my password is 4711”"), "{said}");
    let own = "<item id=\"ep-1\">\nYou said: “harbour”. That reminds me: in memory: “the harbour is deep”.\n</item>";
    let said = remembering(own, "how is the harbour").await;
    assert!(!said.contains("That reminds me"), "{said}");
}

#[tokio::test]
async fn of_an_earlier_turn_only_what_the_person_stated_is_told() {
    let answered = "Your boat is called Zora; you told me: “my boat is called Zora”.\nmy boat is called Evil";
    let asked = item_of_turn("Who is my boat?", answered);
    let said = remembering(&asked, "Who is my boat?").await;
    assert!(said.contains("You have not told me your boat"), "{said}");
    let told = item_of_turn("remember that my boat is called Zora", "I will remember this");
    let said = remembering(&format!("{asked}\n{told}"), "Who is my boat?").await;
    assert!(said.ends_with("Your boat is called Zora; you told me: “my boat is called Zora”."), "{said}");
    let fact = item_of_fact("my boat is called Yara");
    let said = remembering(&format!("{asked}\n{told}\n{fact}"), "Who is my boat?").await;
    assert!(said.ends_with("Your boat is called Yara; in memory: “my boat is called Yara”."), "{said}");
    let nothing = item_of_turn("<b></b>", "my boat is called Evil");
    assert!(remembering(&nothing, "Who is my boat?").await.contains("You have not told me"));
}

#[tokio::test]
async fn a_question_a_greeting_and_an_echo_remind_of_nothing() {
    for said in ["where do I work", "Where do I work?", "hello", "good morning", "the harbour is deep"] {
        let told = remembering(&item_of_turn(said, "You said that."), said).await;
        assert!(!told.contains("That reminds me"), "{told}");
        let again = vec![user(said), assistant(vec![Block::text("ok")]), user(said)];
        let told = answer(&[], again).await;
        assert!(!told.contains("That reminds me"), "{told}");
    }
    let both = format!(
        "{}\n{}",
        item_of_turn("where do I work", "I do not know"),
        item_of_turn("Hi, I work at Acme.", "Fine")
    );
    let told = remembering(&both, "where do I work").await;
    assert!(told.contains("That reminds me: in memory: “I work at Acme”"), "{told}");
}

#[tokio::test]
async fn who_asks_to_forget_is_told_how_and_nothing_is_claimed() {
    for said in [
        "forget that my dentist is Doctor Weber",
        "Please forget my dentist.",
        "Forget everything!",
        "can you forget my dentist?",
        "forget",
    ] {
        assert_eq!(calls(ALL_TOOLS, said).await, [], "{said}");
        let told = answer(ALL_TOOLS, vec![user(said)]).await;
        for part in
            ["I forget nothing", "`DELETE /memory/{store}/{id}`", "`september-engine memory forget ID`"]
        {
            assert!(told.contains(part), "{said}: {told}");
        }
        assert!(!told.contains("I keep that") && !told.contains("Weber"), "{told}");
    }
    let wish = "forget that my dentist is Doctor Weber";
    let later = vec![user(wish), assistant(vec![Block::text("ok")]), user("who is my dentist?")];
    assert!(answer(&[], later).await.contains("You have not told me your dentist"));
    assert!(
        remembering(&item_of_turn(wish, "no"), "who is my dentist?").await.contains("You have not told me")
    );
}

#[tokio::test]
async fn a_statement_is_kept_for_other_conversations_too() {
    let told = answer(ALL_TOOLS, vec![user("Hi. My name is Ada.")]).await;
    assert!(told.contains("I keep that: your name is Ada. Other conversations find it, too."), "{told}");
}

#[tokio::test]
async fn what_something_is_called_is_found_however_it_was_told_and_is_asked() {
    for told in [
        "my yak is called Zora",
        "the name of my yak is Zora",
        "my yak's name is Zora",
        "my yak is named Zora",
        "The yak is called Zora",
    ] {
        for asked in [
            "what is my yak called?",
            "what is the name of my yak",
            "what is my yak's name?",
            "what do you call my yak",
            "who is my yak?",
        ] {
            let said = remembering(&item_of_fact(told), asked).await;
            assert!(said.contains("Your yak is called Zora; in memory: “"), "{told}, {asked}: {said}");
        }
    }
    let said = remembering(&item_of_fact("my yak is old"), "what is my yak called?").await;
    assert!(said.contains("You have not told me what your yak is called"), "{said}");
    let said = remembering(&item_of_fact("my yak is Zora"), "what is my yak called?").await;
    assert!(said.contains("Your yak is Zora"), "{said}");
}
