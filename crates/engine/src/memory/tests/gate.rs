//! The write gate against a real brain: new, known, nearly known, an echo, a replacement.

use super::embedder::Scripted;
use super::{Place, api, content, fact, ids, note, person, trusted, typed};
use crate::memory::item::{
    EpisodePatch, FactPatch, Intent, NewFact, NewNode, NodePatch, Origin, Outcome, Patch, Patched, Wanted,
};
use crate::memory::{Item, Memory};
use brain::memory::lineage::{self, Parent};
use brain::memory::{MemoryId, counters};
use contract::Timestamp;
use contract::memory::{FactType, ParentKind, Store, Trust};

fn from(kind: ParentKind, id: &str) -> Vec<Parent> {
    vec![Parent { kind, id: id.into() }]
}

async fn parents(memory: &Memory, id: &MemoryId) -> Vec<Parent> {
    let id = id.clone();
    memory.brain.read("parents", move |tx| lineage::parents(tx, &id)).await.expect("read")
}

#[tokio::test]
async fn the_same_said_again_is_confirmed_and_makes_no_row() {
    let place = Place::new();
    let memory = place.local();
    let first = memory.must(fact("Tea", "Ada drinks green tea"), Origin::api(0.5, String::new())).await;
    let again = memory.must(fact("  tea ", "Ada  drinks GREEN tea"), api()).await;
    assert_eq!((first.outcome, again.outcome), (Outcome::Created, Outcome::Duplicate));
    let (first, again) = (first.item.expect("a row"), again.item.expect("a row"));
    assert_eq!(first.id(), again.id());
    assert!((again.provenance().confidence - 0.55).abs() < 1e-9);
    assert_eq!(memory.ask(Store::Knowledge, "tea").await.len(), 1);
    let stats = memory.stats(Timestamp::now()).await.expect("stats");
    assert_eq!(stats["stores"]["knowledge"]["duplicate"], 1);
}

#[tokio::test]
async fn nearly_the_same_is_merged_but_another_number_or_a_not_is_kept() {
    let place = Place::new();
    let memory = place.local();
    memory.add(fact("deploy", "The deployment of the web shop runs on Friday at 9 in the morning")).await;
    let near = fact("deploy", "The deployment of the web shop runs on Friday at 9 in the morning!");
    assert_eq!(memory.must(near, api()).await.outcome, Outcome::Duplicate);
    memory.add(fact("deploy", "The deployment of the web shop runs on Friday at 10 in the morning")).await;
    memory
        .add(fact("deploy", "The deployment of the web shop never runs on Friday at 9 in the morning"))
        .await;
}

#[tokio::test]
async fn one_word_that_changes_the_meaning_is_a_new_memory_to_the_built_in_table() {
    let place = Place::new();
    let memory = place.local();
    for said in ["The user wants short answers in English", "The user wants long answers in English"] {
        memory.add(fact("style", said)).await;
    }
    let long = "The weekly meeting of the platform team is held in the large room of the old house on Monday";
    memory.add(fact("meeting", long)).await;
    memory.add(fact("meeting", &long.replace("Monday", "Friday"))).await;
}

#[tokio::test]
async fn a_model_of_statements_merges_the_same_in_other_words() {
    let place = Place::new();
    let memory = place.scripted(&Scripted::new("a"));
    memory.add(fact("travel", "Ada has a red car and a large home")).await;
    let other_words = fact("travel", "Ada has a red automobile and a large dwelling");
    assert_eq!(memory.must(other_words, api()).await.outcome, Outcome::Duplicate);
}

#[tokio::test]
async fn what_repeats_a_recalled_item_is_rejected_and_counted() {
    let place = Place::new();
    let memory = place.local();
    let recalled = vec!["The server is called Kestrel and stands in Pune".to_owned()];
    let origin = Origin { recalled, ..trusted(Trust::Tool) };
    let written = memory.must(fact("server", "The server stands in Pune"), origin.clone()).await;
    assert_eq!((written.outcome, written.item), (Outcome::Rejected, None));
    let episode = memory.must(note("server", "The server is called Kestrel"), origin.clone()).await;
    assert_eq!(episode.outcome, Outcome::Rejected);
    assert_eq!(memory.must(Wanted::Node(person("Kestrel")), origin.clone()).await.outcome, Outcome::Rejected);
    assert_eq!(memory.must(fact("server", "Kestrel has 64 GB"), origin).await.outcome, Outcome::Created);
    let counted = memory.brain.read("counters", |tx| counters::get(tx, Store::Knowledge)).await;
    assert_eq!(counted.expect("read").recalled_rejected, 1);
}

#[tokio::test]
async fn a_field_that_is_too_long_or_empty_is_rejected_whoever_writes_it() {
    let place = Place::new();
    let memory = place.local();
    for wanted in
        [fact("", "x"), fact("x", "\u{200b}"), fact("x", &"y".repeat(10_001)), fact(&"x".repeat(201), "y")]
    {
        let refused = wanted.clone().checked().expect_err("refused").field();
        assert!(["subject", "content"].contains(&refused), "{refused}");
        assert_eq!(memory.must(wanted, api()).await.outcome, Outcome::Rejected);
    }
    let origin = Origin { source: String::new(), ..api() };
    assert_eq!(memory.must(fact("x", "y"), origin).await.outcome, Outcome::Rejected);
    assert!(memory.ask(Store::Knowledge, "").await.is_empty());
}

#[tokio::test]
async fn a_stated_preference_closes_the_one_before_it_and_a_fact_does_not() {
    let place = Place::new();
    let memory = place.local();
    let tea = memory.add(typed("drink", "The user prefers green tea", FactType::Preference)).await;
    let black = memory.must(typed("drink", "The user prefers black tea", FactType::Preference), api()).await;
    assert_eq!(black.closed, std::slice::from_ref(&tea));
    let Some(Item::Fact(old)) = memory.get(&tea).await.expect("read") else { panic!("a fact") };
    let Some(Item::Fact(new)) = &black.item else { panic!("a fact") };
    assert_eq!(old.item.valid_until, Some(new.item.valid_from));
    assert_eq!(old.item.superseded_by.as_ref(), Some(&new.item.fact_id));
    let green = memory.must(typed("drink", "The user prefers green tea", FactType::Preference), api()).await;
    assert_eq!(green.outcome, Outcome::Created, "said again, it is so again");
    assert_eq!(green.closed, [MemoryId::Fact(new.item.fact_id.clone())]);

    memory.add(fact("city", "The user lives in Pune")).await;
    assert!(memory.must(fact("city", "The user lives in Berlin"), api()).await.closed.is_empty());
}

#[tokio::test]
async fn statements_about_something_else_stay_open_beside_each_other() {
    let place = Place::new();
    let memory = place.local();
    for (subject, old, new, kind) in [
        ("deploy", "Never deploy on Friday", "Never deploy without a backup", FactType::Rule),
        ("user", "prefers tea over coffee", "prefers trains over planes", FactType::Preference),
        ("user", "wants answers in German", "eats no meat", FactType::Preference),
    ] {
        memory.add(typed(subject, old, kind)).await;
        let written = memory.must(typed(subject, new, kind), api()).await;
        assert_eq!((written.outcome, written.closed), (Outcome::Created, Vec::new()), "{old}, {new}");
    }
    let turned = typed("user", "prefers coffee over tea", FactType::Preference);
    assert_eq!(memory.must(turned, api()).await.closed.len(), 1);
}

#[tokio::test]
async fn what_a_fact_replaced_holds_again_when_the_fact_is_forgotten() {
    let place = Place::new();
    let memory = place.local();
    let drink = |what: &str| typed("drink", &format!("The user prefers {what} tea"), FactType::Preference);
    let green = memory.add(drink("green")).await;
    let mut last = green.clone();
    let mut row = Vec::new();
    for colour in ["black", "white"] {
        let written = memory.must(drink(colour), api()).await;
        assert_eq!(written.closed, [last]);
        last = written.item.expect("a row").id();
        row.push(last.clone());
    }
    let [black, white] = row.try_into().expect("two");
    let until = async |id: &MemoryId| match memory.get(id).await.expect("read") {
        Some(Item::Fact(f)) => {
            (f.item.valid_until, f.item.superseded_by.map(|by| by.to_string()), f.item.valid_from)
        }
        _ => panic!("a fact"),
    };
    memory.erase(&black).await.expect("erased");
    let (_, _, began) = until(&white).await;
    let (ended, by, _) = until(&green).await;
    assert_eq!((ended, by), (Some(began), Some(white.to_string())), "the last one holds, and replaced it");
    memory.erase(&white).await.expect("erased");
    let (ended, by, _) = until(&green).await;
    assert_eq!((ended, by), (None, None));
}

#[tokio::test]
async fn what_is_named_is_closed_whatever_words_say_so() {
    let place = Place::new();
    let memory = place.local();
    let old = memory.add(fact("dentist", "Doctor Weber looks after the teeth")).await;
    let named = Origin { intent: Intent::Named(vec![old.as_str().to_owned()]), ..trusted(Trust::User) };
    let new = memory.must(fact("dentist", "Okafor since May"), named).await;
    assert_eq!(new.closed, [old]);
}

#[tokio::test]
async fn the_learning_centre_closes_what_it_names_and_nothing_it_may_not() {
    let place = Place::new();
    let memory = place.local();
    let pune = memory.add(fact("city", "The user lives in Pune")).await;
    let named = |trust| Origin { intent: Intent::Named(vec![pune.as_str().to_owned()]), ..trusted(trust) };
    let less = memory.must(fact("city", "The user lives in Berlin"), named(Trust::Untrusted)).await;
    assert!(less.closed.is_empty(), "less trusted");
    let unsure = Origin { confidence: 0.4, ..named(Trust::User) };
    assert!(memory.must(fact("city", "The user lives in Rome"), unsure).await.closed.is_empty(), "a guess");
    let moved = memory.must(fact("city", "The user lives in Oslo"), named(Trust::User)).await;
    assert_eq!(moved.closed, [pune]);
}

#[tokio::test]
async fn a_fact_that_began_earlier_closes_nothing_but_ends_where_a_later_one_took_its_place() {
    let place = Place::new();
    let memory = place.local();
    let tea = typed("drink", "The user prefers green tea", FactType::Preference);
    let later = memory.add(tea.clone()).await;
    let at = |days: i64| Timestamp::now().plus_millis(-days * 86_400_000);
    let Wanted::Fact(new) = typed("drink", "The user prefers black tea", FactType::Preference) else {
        panic!("a fact")
    };
    let early = NewFact { valid_from: Some(at(9)), ..new.clone() };
    let written = memory.must(Wanted::Fact(early), api()).await;
    assert!(written.closed.is_empty());
    let (Some(Item::Fact(early)), Some(Item::Fact(later))) =
        (&written.item, memory.get(&later).await.expect("read"))
    else {
        panic!("facts")
    };
    assert_eq!(early.item.valid_until, Some(later.item.valid_from), "what was said since holds");
    assert_eq!(early.item.superseded_by, Some(later.item.fact_id));
    assert_eq!(later.item.valid_until, None);
    let content = "The user prefers white tea".to_owned();
    let past = NewFact { valid_from: Some(at(90)), valid_until: Some(at(60)), content, ..new };
    let history = memory.must(Wanted::Fact(past.clone()), api()).await;
    assert_eq!((history.outcome, history.closed.len()), (Outcome::Created, 0));
    assert_eq!(memory.must(Wanted::Fact(past), api()).await.outcome, Outcome::Duplicate);
}

#[tokio::test]
async fn the_very_same_from_a_more_trusted_source_lifts_the_row_and_a_near_one_stands_beside() {
    let place = Place::new();
    let memory = place.local();
    let origin = |trust, parent| Origin {
        source: format!("message:{parent}"),
        lineage: from(ParentKind::Message, parent),
        ..trusted(trust)
    };
    let page =
        memory.must(fact("shop", "The shop opens at nine"), origin(Trust::Untrusted, "msg-page")).await;
    let id = page.item.expect("a row").id();
    let said = memory.must(fact("shop", "The shop opens at nine"), origin(Trust::User, "msg-said")).await;
    let said = said.item.expect("a row");
    assert_eq!((said.id(), said.provenance().trust), (id.clone(), Trust::User));
    assert_eq!(said.provenance().source, "message:msg-said");
    assert_eq!(parents(&memory, &id).await, from(ParentKind::Message, "msg-said"));

    let rumour = memory.must(fact("bank", "The bank opens at ten"), trusted(Trust::Untrusted)).await;
    let near = memory.must(fact("bank", "The bank opens at ten."), trusted(Trust::User)).await;
    assert_eq!(near.outcome, Outcome::Created);
    assert_ne!(near.item.expect("a row").id(), rumour.item.expect("a row").id());
}

#[tokio::test]
async fn a_repetition_adds_what_a_row_rests_on_unless_it_rests_on_nothing() {
    let place = Place::new();
    let memory = place.local();
    let from_turn =
        |turn: &str| Origin { lineage: from(ParentKind::Trajectory, turn), ..trusted(Trust::User) };
    let learned = memory.must(fact("cat", "The cat is called Nim"), from_turn("turn-1")).await;
    let id = learned.item.expect("a row").id();
    memory.must(fact("cat", "The cat is called Nim"), from_turn("turn-2")).await;
    assert_eq!(parents(&memory, &id).await.len(), 2);
    memory.must(fact("cat", "The cat is called Nim"), api()).await;
    assert!(parents(&memory, &id).await.is_empty(), "written for its own sake");
    memory.must(fact("cat", "The cat is called Nim"), from_turn("turn-3")).await;
    assert!(parents(&memory, &id).await.is_empty());
}

#[tokio::test]
async fn what_a_person_edits_is_theirs_found_by_its_new_words_and_by_no_old_ones() {
    let place = Place::new();
    let memory = place.local();
    let origin = Origin {
        source: "trajectory:turn-1".into(),
        lineage: from(ParentKind::Trajectory, "turn-1"),
        ..trusted(Trust::Untrusted)
    };
    let id = memory.must(fact("cat", "The cat is called Nim"), origin).await.item.expect("a row").id();
    let patch = FactPatch { content: Some("The dog is called Bob".into()), ..FactPatch::default() };
    let item = memory.changed_to(&id, Patch::Fact(patch)).await;
    assert_eq!(content(&item), "The dog is called Bob");
    assert_eq!((item.provenance().trust, item.provenance().source.as_str()), (Trust::User, "user:api"));
    assert!(parents(&memory, &id).await.is_empty());
    assert_eq!(ids(&memory.ask(Store::Knowledge, "bob").await), std::slice::from_ref(&id));
    assert_eq!(
        ids(&memory.ask(Store::Knowledge, "puppy").await),
        std::slice::from_ref(&id),
        "the vector is of the new text"
    );
    assert!(memory.ask(Store::Knowledge, "nim").await.is_empty());
    assert_eq!(memory.unembedded().await, 0);
    let kitten = memory.must(fact("cat", "The cat is called Nim"), api()).await;
    assert_eq!(kitten.outcome, Outcome::Created, "the hash is of the new text, too");

    let long = FactPatch { content: Some("x".repeat(10_001)), ..FactPatch::default() };
    assert!(memory.patch(&id, Patch::Fact(long)).await.is_err());
    let of_another_kind = Patch::Edge(crate::memory::EdgePatch::default());
    assert_eq!(memory.patch(&id, of_another_kind).await.expect("read"), Patched::Missing);
    let nobody = MemoryId::parse("fact-none").expect("an id");
    let nothing = Patch::Fact(FactPatch::default());
    assert_eq!(memory.patch(&nobody, nothing).await.expect("read"), Patched::Missing);
}

#[tokio::test]
async fn an_edit_makes_no_second_memory_that_says_the_same() {
    let place = Place::new();
    let memory = place.local();
    let nim = memory.add(fact("cat", "The cat is called Nim")).await;
    let bob = memory.add(fact("dog", "The dog is called Bob")).await;
    let said = |subject: &str, content: &str| {
        let (subject, content) = (Some(subject.to_owned()), Some(content.to_owned()));
        Patch::Fact(FactPatch { subject, content, ..FactPatch::default() })
    };
    let patched = memory.patch(&bob, said("CAT", "the cat  is called nim")).await.expect("patched");
    assert_eq!(patched, Patched::SameAs(nim.clone()));
    assert_eq!(
        ids(&memory.ask(Store::Knowledge, "bob").await),
        std::slice::from_ref(&bob),
        "nothing was changed"
    );
    // itself is no other, and a row that is the same in other letters may be edited
    memory.changed_to(&nim, said("Cat", "The cat is called NIM")).await;

    // what has ended may be said again, but not be opened again beside it
    let until = |until| Patch::Fact(FactPatch { valid_until: Some(until), ..FactPatch::default() });
    memory.changed_to(&nim, until(Some(Timestamp::from_millis(1)))).await;
    memory.changed_to(&bob, said("cat", "The cat is called Nim")).await;
    assert_eq!(memory.patch(&nim, until(None)).await.expect("patched"), Patched::SameAs(bob));

    let trip = memory.add(note("trip", "We flew to Lisbon")).await;
    let other = memory.add(note("trip", "We went to the coast of Portugal")).await;
    let told = EpisodePatch { description: Some("we flew to lisbon".into()), ..EpisodePatch::default() };
    assert_eq!(memory.patch(&other, Patch::Episode(told)).await.expect("patched"), Patched::SameAs(trip));

    let asha = memory.add(Wanted::Node(NewNode { aliases: vec!["A.".into()], ..person("Asha") })).await;
    let ben = memory.add(Wanted::Node(person("Ben"))).await;
    let named = |name: &str| Patch::Node(NodePatch { name: Some(name.into()), ..NodePatch::default() });
    for name in ["ASHA", "a."] {
        assert_eq!(memory.patch(&ben, named(name)).await.expect("patched"), Patched::SameAs(asha.clone()));
    }
    memory.changed_to(&asha, named("Asha Rao")).await;
    memory.changed_to(&ben, named("Asha")).await;
}

#[tokio::test]
async fn forgetting_takes_what_rests_only_on_it_and_leaves_nothing_to_be_found() {
    let place = Place::new();
    let memory = place.local();
    let source = memory.add(note("trip", "We flew to Lisbon in spring")).await;
    let derived = |lineage| Origin { lineage, ..trusted(Trust::User) };
    let on_it = from(ParentKind::Memory, source.as_str());
    let alone = memory.must(fact("travel", "The user has been to Lisbon"), derived(on_it.clone())).await;
    let both = [on_it, from(ParentKind::Message, "msg-1")].concat();
    let kept = memory.must(fact("season", "The user travels in spring"), derived(both)).await;
    let (alone, kept) = (alone.item.expect("a row").id(), kept.item.expect("a row").id());
    let forgotten = memory.erase(&source).await.expect("erased").expect("there");
    assert_eq!(forgotten.also_deleted, [alone]);
    assert_eq!(memory.erase(&source).await.expect("erased"), None, "it is gone");
    assert!(memory.ask(Store::Episodes, "Lisbon").await.is_empty());
    assert!(memory.ask(Store::Knowledge, "Lisbon").await.is_empty());
    assert_eq!(ids(&memory.ask(Store::Knowledge, "spring travels").await), [kept]);
}
