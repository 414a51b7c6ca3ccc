//! The queries that must stay fast in a large brain read an index, never a whole table.

use super::{age, edges, episodes, erase, knowledge, lineage, nodes, search, signals, trajectories, vectors};
use crate::schema::{self, MIGRATIONS};
use crate::snapshots;
use contract::memory::Store;
use rusqlite::Connection;

fn brain() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("b.sqlite");
    std::fs::write(&path, "").expect("an empty file");
    let conn = crate::connection::read_write(&path).expect("opens");
    schema::run_pending(&conn, 0, MIGRATIONS, "test").expect("migrates");
    (dir, conn)
}

fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
    let mut rows = statement.raw_query();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().expect(sql) {
        lines.push(row.get(3).expect("a line"));
    }
    lines
}

#[test]
fn no_query_of_the_daily_work_reads_a_whole_table() {
    let (_dir, conn) = brain();
    let from = |table: &str, rest: &str| format!("SELECT * FROM {table} {rest}");
    let mut queries = vec![
        (episodes::BEFORE.to_owned(), "episodes_in_task"),
        (episodes::AFTER.to_owned(), "episodes_in_task"),
        (from("episodes", "WHERE content_hash = ?1 ORDER BY id DESC LIMIT 1"), "episodes_by_hash"),
        (from("knowledge_store", knowledge::OPEN), "knowledge_store_by_subject"),
        (from("social_graph_edges", edges::OPEN), "INDEX social_graph_edges_"),
        (episodes::WITHIN.to_owned(), "episodes_by_time"),
        (knowledge::WITHIN.to_owned(), "knowledge_store_by_time"),
        (snapshots::OPEN_AND_RECALLED.to_owned(), "turns_open"),
        (lineage::CHILDREN.to_owned(), "memory_lineage_by_parent"),
        (from("trajectories", trajectories::PENDING), "trajectories_pending"),
        (from("trajectories", trajectories::PENDING_OF_TASK), "trajectories_pending_of_task"),
        (from("learning_signals", signals::UNPROCESSED), "learning_signals_new"),
    ];
    queries.extend(erase::OF_TASK.map(|sql| (sql.to_owned(), "memory_lineage_by_parent")));
    for table in ["episodes", "knowledge_store", "social_graph_nodes"] {
        queries.push((from(table, "WHERE source = ?1 ORDER BY id LIMIT ?2"), "_by_source"));
    }
    for store in Store::ALL {
        queries.push((vectors::page_sql(*store), "_vec_by_model"));
        queries.push((vectors::count_sql(*store), "_vec_by_model"));
        queries.push((search::keyword_sql(*store), "VIRTUAL TABLE INDEX"));
        queries.push((search::matching_sql(*store), "VIRTUAL TABLE INDEX"));
        queries.push((search::frequency_sql(*store), "VIRTUAL TABLE INDEX"));
    }
    for (sql, index) in queries {
        let lines = plan(&conn, &sql);
        assert!(lines.iter().any(|l| l.contains(index)), "{index} is not used by {sql}: {lines:?}");
        let scans: Vec<_> =
            lines.iter().filter(|l| l.starts_with("SCAN") && !l.contains("VIRTUAL TABLE INDEX")).collect();
        let partial = ["trajectories_pending", "learning_signals_new", "turns_open"];
        assert!(
            scans.iter().all(|l| partial.iter().any(|p| l.contains(p))),
            "{sql} reads a whole table: {scans:?}"
        );
    }
}

#[test]
fn lists_by_age_and_of_missing_vectors_need_no_sorting() {
    let (_dir, conn) = brain();
    let mut queries: Vec<(String, String)> = Vec::new();
    for store in Store::ALL {
        let table = super::table(*store);
        queries.push((format!("SELECT * FROM {table} {}", age::OLDER), format!("{table}_by_age")));
        queries.push((vectors::unembedded_sql(*store), format!("{table}_vec_by_model")));
        queries.push((vectors::page_sql(*store), format!("{table}_vec_by_model")));
    }
    queries.push((format!("SELECT * FROM social_graph_nodes {}", nodes::ALIASED), "_aliased".to_owned()));
    for (sql, index) in queries {
        let lines = plan(&conn, &sql);
        assert!(lines.iter().any(|l| l.contains(&index)), "{index} is not used by {sql}: {lines:?}");
        assert!(lines.iter().all(|l| !l.contains("TEMP B-TREE")), "{sql} sorts: {lines:?}");
    }
}
