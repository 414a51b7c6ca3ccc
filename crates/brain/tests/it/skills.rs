//! Custom skills: a name is taken once, contents come back as they were, absence is said.

use crate::house::House;
use brain::skills::{self, Change, Scripts, Skill};
use contract::Timestamp;

fn skill(name: &str) -> Skill {
    Skill {
        name: name.to_owned(),
        description: "Counts words".to_owned(),
        category: "text".to_owned(),
        prompt_template: Some("Count: {{text}}".to_owned()),
        scripts: vec!["z.sh".to_owned(), "a.py".to_owned()],
        capabilities: vec!["counting".to_owned()],
        confidence: 0.5,
        source: "user:api".to_owned(),
        trust: "user".to_owned(),
    }
}

fn scripts() -> Scripts {
    vec![("z.sh".to_owned(), "echo \"é\"\n".to_owned()), ("a.py".to_owned(), String::new())]
}

#[tokio::test]
async fn a_skill_comes_back_as_it_was_stored_with_its_scripts_in_their_order() {
    let house = House::new();
    let brain = house.open();
    let now = Timestamp::now();
    let made = brain.write("create", move |tx| skills::create(tx, &skill("count"), &scripts(), now)).await;
    assert_eq!(made.expect("a write"), Change::Changed);
    let again = brain.write("create", move |tx| skills::create(tx, &skill("count"), &scripts(), now)).await;
    assert_eq!(again.expect("a write"), Change::Exists);
    let (one, list, contents) = brain
        .read("read", |tx| Ok((skills::get(tx, "count")?, skills::list(tx)?, skills::scripts(tx, "count")?)))
        .await
        .expect("a read");
    assert_eq!(one, Some(skill("count")));
    assert_eq!(list, [skill("count")]);
    assert_eq!(contents, scripts());
}

#[tokio::test]
async fn changing_or_deleting_what_is_not_there_says_so() {
    let house = House::new();
    let brain = house.open();
    let now = Timestamp::now();
    let changes = brain
        .write("change", move |tx| {
            Ok([
                skills::replace(tx, &skill("count"), &scripts(), now)?,
                skills::delete(tx, "count")?,
                skills::create(tx, &skill("count"), &scripts(), now)?,
                skills::replace(tx, &Skill { scripts: vec![], ..skill("count") }, &vec![], now)?,
                skills::delete(tx, "count")?,
                skills::delete(tx, "count")?,
            ])
        })
        .await
        .expect("a write");
    use Change::{Changed, Missing};
    assert_eq!(changes, [Missing, Missing, Changed, Changed, Changed, Missing]);
    assert_eq!(brain.read("count", skills::count).await.expect("a read"), 0);
}
