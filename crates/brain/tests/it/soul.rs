//! The soul's template: written where nobody else has written, and never over a person's words.

use crate::house::House;
use brain::soul::{self, Soul, Source};
use contract::Timestamp;

fn template(identity: &str) -> Soul {
    Soul {
        identity: identity.to_owned(),
        values: vec!["Say what is not certain".to_owned()],
        patterns: vec![],
    }
}

#[tokio::test]
async fn a_template_is_written_once_and_replaced_by_a_newer_template_only() {
    let house = House::new();
    let brain = house.open();
    let written = brain
        .write("templates", |tx| {
            let now = Timestamp::now();
            Ok([
                soul::put_template(tx, &template("one"), now)?,
                soul::put_template(tx, &template("one"), now)?,
                soul::put_template(tx, &template("two"), now)?,
            ])
        })
        .await
        .expect("a write");
    assert_eq!(written, [true, false, true]);
    let stored = brain.read("soul", soul::get).await.expect("a read").expect("a soul");
    assert_eq!((stored.soul, stored.version, stored.source), (template("two"), 2, Source::Catalog));
    brain.close();
    house.plain().execute("UPDATE soul SET source = 'user'", []).expect("a person wrote it");
    let brain = house.open();
    let over =
        brain.write("template", |tx| soul::put_template(tx, &template("three"), Timestamp::now())).await;
    assert!(!over.expect("a write"), "a person's words stay");
}

#[tokio::test]
async fn a_reset_soul_is_the_template_again_whoever_wrote_it() {
    let house = House::new();
    let brain = house.open();
    let (none, versions, stored) = brain
        .write("soul", |tx| {
            let now = Timestamp::from_millis(7);
            let none = soul::reset(tx, &template("one"), now)?;
            soul::put_template(tx, &template("one"), now)?;
            let same = soul::reset(tx, &template("one"), now)?;
            soul::set(tx, &template("mine"), Source::User, "asked for", now)?;
            let other = soul::reset(tx, &template("one"), now)?;
            Ok((none, [same, other], soul::get(tx)?))
        })
        .await
        .expect("a write");
    assert_eq!((none, versions), (None, [Some(1), Some(3)]));
    let stored = stored.expect("a soul");
    assert_eq!((stored.soul, stored.source), (template("one"), Source::Catalog));
}

#[tokio::test]
async fn every_version_of_the_soul_is_kept_with_its_reason() {
    let house = House::new();
    let brain = house.open();
    let (versions, history, older) = brain
        .write("soul", |tx| {
            let now = Timestamp::from_millis(7);
            soul::put_template(tx, &template("one"), now)?;
            let versions = [
                soul::set(tx, &template("two"), Source::User, "asked for", now)?,
                soul::set(tx, &template("three"), Source::Learning, "three turns", now)?,
            ];
            Ok((versions, soul::history(tx, None, 2)?, soul::history(tx, Some(2), 10)?))
        })
        .await
        .expect("a write");
    assert_eq!(versions, [2, 3]);
    let said = |v: &soul::Version| (v.version, v.soul.identity.clone(), v.source, v.rationale.clone());
    assert_eq!(
        history.iter().map(said).collect::<Vec<_>>(),
        [
            (3, "three".to_owned(), Source::Learning, "three turns".to_owned()),
            (2, "two".to_owned(), Source::User, "asked for".to_owned()),
        ]
    );
    assert_eq!(older.iter().map(|v| v.version).collect::<Vec<_>>(), [1]);
}
