//! Search (specification 10.5): words and vectors side by side, and the time a question names; ranked by the crate
//! `memory`.
//!
//! One reading of the brain answers a question, so that what is ranked is what is shown. No model is asked here; the
//! vector of the question was waited for before, and without it words alone decide.
//!
//! The invariant: the same brain, question, vector and time give the same answer, however much of the codes is in RAM
//! yet, as long as all of it is or no vector was asked about.

use super::item::{Hit, Item};
use super::mirrors::{MARKED_SEARCHED, Mirrors};
use super::social;
use ::memory::entity::{self, Names};
use ::memory::period::{self, Period};
use ::memory::query::{self, Counted, Reading};
use ::memory::retrieval::{
    Candidate, KEYWORD_CANDIDATES, Question, ROWS_WEIGHED, SCORE_FLOOR, TIME_CANDIDATES, VECTOR_CANDIDATES,
    VECTOR_FLOOR, either_wording, weigh,
};
use ::memory::vector::{Code, cosine_to_blob};
use brain::Tx;
use brain::memory::standing::{self, Standing};
use brain::memory::vectors::{self, Model};
use brain::memory::{Age, MemoryId, Stored, edges, episodes, knowledge, nodes, search};
use contract::memory::Store;
use contract::{EdgeId, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A question, its vector if there is one, and where codes and names are.
pub(super) struct Asked {
    pub(super) query: String,
    /// Whether its words are searched for.
    pub(super) words: bool,
    pub(super) vector: Option<Arc<[f32]>>,
    pub(super) model: Model,
    pub(super) mirrors: Arc<Mirrors>,
    pub(super) now: Timestamp,
}

/// What the two searches said of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Scores {
    keyword: Option<f64>,
    vector: Option<f32>,
}

fn candidate(standing: Standing, scores: Scores, names: u32) -> Candidate<MemoryId> {
    Candidate {
        store: standing.id.store(),
        key: standing.id,
        keyword: scores.keyword,
        vector: scores.vector,
        confidence: standing.confidence,
        last_confirmed: standing.last_confirmed_at,
        at: standing.at,
        valid_until: standing.valid_until,
        names,
    }
}

/// The best memories of these stores, best first.
pub(super) fn find(tx: &Tx<'_>, stores: &[Store], asked: &Asked, limit: usize) -> brain::Result<Vec<Hit>> {
    let spans = asked.mirrors.known_names(tx, entity::spans(&asked.query))?;
    let meant = about_the_person(tx, &asked.query, &spans)?;
    let names = Names::in_question(&asked.query, spans);
    let periods = period::periods(&asked.query, asked.now);
    let mut candidates = Vec::new();
    let mut weights = BTreeMap::new();
    for store in stores {
        let (mut scores, weight) = scores(tx, *store, asked, meant.as_deref())?;
        weights.insert(*store, weight);
        for row in of_time(tx, *store, &periods)? {
            scores.entry(row).or_default();
        }
        let rows: Vec<i64> = scores.keys().copied().collect();
        let texts = texts(tx, *store, &names, &rows)?;
        for Stored { row, item } in standing::of_rows(tx, *store, &rows)? {
            let scores = scores.get(&row).copied().unwrap_or_default();
            candidates.push(candidate(item, scores, named(&names, texts.get(&row))));
        }
    }
    let weighed = weigh(Question { now: asked.now, periods, words: weights }, candidates);
    let mut neighbours = Vec::new();
    for hit in weighed.hits() {
        let MemoryId::Episode(id) = &hit else { continue };
        let rows = episodes::neighbours(tx, id)?;
        let texts = texts(tx, Store::Episodes, &names, &rows)?;
        for Stored { row, item } in standing::of_rows(tx, Store::Episodes, &rows)? {
            let count = named(&names, texts.get(&row));
            neighbours.push((hit.clone(), candidate(item, Scores::default(), count)));
        }
    }
    let ranked = weighed.with_neighbours(neighbours).ranked();
    let shown = ranked.into_iter().take_while(|ranked| ranked.score >= SCORE_FLOOR).take(limit);
    let hits = shown.map(|ranked| Ok(get(tx, &ranked.key)?.map(|item| Hit { item, score: ranked.score })));
    hits.filter_map(Result::transpose).collect()
}

/// The newest memories of a store, without a score: nothing was asked. Those that are older than `before`, if it is named;
/// `None` when it is not there.
pub(super) fn newest(
    tx: &Tx<'_>,
    store: Store,
    before: Option<&MemoryId>,
    limit: usize,
) -> brain::Result<Option<Vec<Hit>>> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let age = match before {
        None => None,
        Some(id) => match Age::of(tx, id)? {
            None => return Ok(None),
            age @ Some(_) => age,
        },
    };
    let items: Vec<Item> = match store {
        Store::Episodes => episodes::newest(tx, age, limit)?.into_iter().map(Item::Episode).collect(),
        Store::Knowledge => knowledge::newest(tx, age, limit)?.into_iter().map(Item::Fact).collect(),
        Store::Social => nodes::newest(tx, age, limit)?
            .into_iter()
            .map(|n| Item::Node(n, edges::Relations::default()))
            .collect(),
    };
    items
        .into_iter()
        .map(|item| Ok(Hit { item: whole(tx, item, None)?, score: 0.0 }))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// One memory; of a relation the node it leads away from, with this relation among those listed.
pub(super) fn get(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<Item>> {
    let item = match id {
        MemoryId::Episode(id) => episodes::get(tx, id)?.map(Item::Episode),
        MemoryId::Fact(id) => knowledge::get(tx, id)?.map(Item::Fact),
        MemoryId::Node(id) => nodes::get(tx, id)?.map(|n| Item::Node(n, edges::Relations::default())),
        MemoryId::Edge(id) => match edges::get(tx, id)? {
            Some(edge) => {
                nodes::get(tx, &edge.item.from)?.map(|n| Item::Node(n, edges::Relations::default()))
            }
            None => None,
        },
    };
    let asked = match id {
        MemoryId::Edge(id) => Some(id),
        MemoryId::Episode(_) | MemoryId::Fact(_) | MemoryId::Node(_) => None,
    };
    item.map(|item| whole(tx, item, asked)).transpose()
}

/// With relations, which are only read for what is shown.
fn whole(tx: &Tx<'_>, item: Item, asked: Option<&EdgeId>) -> brain::Result<Item> {
    Ok(match item {
        Item::Node(node, _) => {
            let relations = edges::relations(tx, &node.item.node_id, asked)?;
            Item::Node(node, relations)
        }
        other @ (Item::Episode(_) | Item::Fact(_)) => other,
    })
}

/// The texts in which names are counted; none when the question names nobody.
fn texts(tx: &Tx<'_>, store: Store, names: &Names, rows: &[i64]) -> brain::Result<HashMap<i64, String>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(search::texts(tx, store, rows)?.into_iter().map(|t| (t.row, t.item)).collect())
}

fn named(names: &Names, text: Option<&String>) -> u32 {
    text.map_or(0, |text| names.in_text(text))
}

/// The question in the words of what is known about the person, when it names them: of `spans` the names of the node that
/// has the person's role, as far as it is trusted like the person, since a page may call anybody the user.
fn about_the_person(tx: &Tx<'_>, question: &str, spans: &[String]) -> brain::Result<Option<String>> {
    let mut own = Vec::new();
    for span in spans {
        if nodes::by_name(tx, span)?.iter().any(|node| social::is_the_person(&node.item)) {
            own.push(span);
        }
    }
    Ok(entity::about_the_person(question, own))
}

/// Both searches of one store, and what the words weigh there; `meant` is another wording of the question.
fn scores(
    tx: &Tx<'_>,
    store: Store,
    asked: &Asked,
    meant: Option<&str>,
) -> brain::Result<(BTreeMap<i64, Scores>, f64)> {
    let mut found: BTreeMap<i64, Scores> = BTreeMap::new();
    let mut weight = 0.0;
    if asked.words {
        let mut list = weighed_words(tx, store, &asked.query)?;
        if let Some(meant) = meant {
            list = either_wording(list, weighed_words(tx, store, meant)?);
        }
        weight = list.1;
        for (row, score) in list.0 {
            found.entry(row).or_default().keyword = Some(score);
        }
    }
    if let Some(vector) = &asked.vector {
        for (row, cosine) in by_vector(tx, store, asked, vector)? {
            found.entry(row).or_default().vector = Some(cosine);
        }
    }
    Ok((found, weight))
}

/// What the words of a question find in a store, and what they weigh there.
fn weighed_words(tx: &Tx<'_>, store: Store, question: &str) -> brain::Result<(Vec<(i64, f64)>, f64)> {
    let (words, rows) = rarest(tx, store, question)?;
    let weight = query::weight(&words, rows);
    Ok((by_rarest(tx, store, &words, KEYWORD_CANDIDATES)?, weight))
}

/// The newest rows of the periods that a question names: what was done last week is asked for without a word of it.
fn of_time(tx: &Tx<'_>, store: Store, periods: &[Period]) -> brain::Result<Vec<i64>> {
    let mut rows = Vec::new();
    for Period { start, end } in periods.iter().copied() {
        match store {
            Store::Episodes => rows.extend(episodes::within(tx, start, end, TIME_CANDIDATES)?),
            Store::Knowledge => rows.extend(knowledge::within(tx, start, end, TIME_CANDIDATES)?),
            // Nodes have no time of their own.
            Store::Social => {}
        }
    }
    Ok(rows)
}

/// The rows that the rarest words of a text find, best first.
pub(super) fn by_words(
    tx: &Tx<'_>,
    store: Store,
    text: &str,
    limit: usize,
) -> brain::Result<Vec<(i64, f64)>> {
    by_rarest(tx, store, &rarest(tx, store, text)?.0, limit)
}

/// The words of a text that are searched for, and how many rows the store has.
fn rarest(tx: &Tx<'_>, store: Store, text: &str) -> brain::Result<(Vec<Counted>, u64)> {
    let terms = query::terms(text);
    let stems: Vec<String> = terms.iter().map(|t| t.stem.clone()).collect();
    let frequencies = search::document_frequencies(tx, store, &stems)?;
    let rows = search::count(tx, store)?;
    Ok((query::rarest(terms, rows, |stem| frequencies.get(stem).copied().unwrap_or(0)), rows))
}

fn by_rarest(tx: &Tx<'_>, store: Store, words: &[Counted], limit: usize) -> brain::Result<Vec<(i64, f64)>> {
    let most = u32::try_from(limit).unwrap_or(u32::MAX);
    let (finding, weighing, filling) = match query::reading(words) {
        None => return Ok(Vec::new()),
        Some(Reading::All(any)) => return scored(tx, store, &any, i64::MIN, most),
        Some(Reading::Newest { finding, weighing, filling }) => (finding, weighing, filling),
    };
    let first = search::nth_newest(tx, store, &finding, ROWS_WEIGHED - 1)?.unwrap_or(i64::MIN);
    let mut found = scored(tx, store, &weighing, first, most)?;
    if let Some(word) = filling.filter(|_| found.len() < limit) {
        let first =
            search::nth_newest(tx, store, &word, u64::from(most).saturating_sub(1))?.unwrap_or(i64::MIN);
        let there: HashSet<i64> = found.iter().map(|(row, _)| *row).collect();
        let more = scored(tx, store, &word, first, most)?;
        found.extend(more.into_iter().filter(|(row, _)| !there.contains(row)));
        found.truncate(limit);
    }
    Ok(found)
}

/// The rows from `first` on that match an expression, best first.
fn scored(
    tx: &Tx<'_>,
    store: Store,
    expression: &str,
    first: i64,
    most: u32,
) -> brain::Result<Vec<(i64, f64)>> {
    let found = search::keyword_since(tx, store, expression, first, most)?;
    Ok(found.into_iter().map(|k| (k.row, k.item)).collect())
}

/// The rows nearest to a vector, by exact cosine, best first.
pub(super) fn by_vector(
    tx: &Tx<'_>,
    store: Store,
    asked: &Asked,
    vector: &[f32],
) -> brain::Result<Vec<(i64, f32)>> {
    let rows = asked.mirrors.near(store, &Code::of(vector), VECTOR_CANDIDATES, MARKED_SEARCHED);
    let mut near = cosines(tx, store, &asked.model, vector, &rows)?;
    near.retain(|(_, cosine)| *cosine >= VECTOR_FLOOR);
    near.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    near.truncate(VECTOR_CANDIDATES);
    Ok(near)
}

/// The exact cosine of each of these rows that has a vector of this model.
pub(super) fn cosines(
    tx: &Tx<'_>,
    store: Store,
    model: &Model,
    vector: &[f32],
    rows: &[i64],
) -> brain::Result<Vec<(i64, f32)>> {
    let found = vectors::of_rows(tx, store, model, rows, |row, blob| match cosine_to_blob(vector, blob) {
        Ok(cosine) => Ok(cosine.map(|cosine| (row, cosine))),
        Err(e) => Err(brain::Error::bad_data("memory.vector", format!("row {row}: {e}"))),
    })?;
    Ok(found.into_iter().flatten().collect())
}
