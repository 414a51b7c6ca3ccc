-- Long-term memory: what happened, what holds, who there is; where each comes from; and learning from turns.
--
-- Columns that ranking and counting read stand before the long texts, so that they are on a row's first page.
-- AUTOINCREMENT: an id is never given twice, so a late vector or a code in RAM cannot reach another memory.
--
-- Full-text and vector rows follow their parent by trigger and foreign key. Explicit statements would do the
-- same today, but an external-content index is damaged for good by one forgotten or inexact deletion, and
-- triggers cannot be forgotten by an import, a job or a cascade.

CREATE TABLE episodes (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  episode_id        TEXT NOT NULL UNIQUE,
  kind              TEXT NOT NULL CHECK (kind IN ('turn', 'event', 'note')),
  task_id           TEXT,
  turn_id           TEXT,
  position          INTEGER,
  occurred_at       INTEGER NOT NULL,
  confidence        REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
  trust             TEXT NOT NULL CHECK (trust IN ('untrusted', 'tool', 'user')),
  content_hash      TEXT NOT NULL,
  last_confirmed_at INTEGER NOT NULL,
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL,
  source            TEXT NOT NULL,
  key               TEXT NOT NULL,
  rationale         TEXT NOT NULL,
  description       TEXT NOT NULL,
  value             TEXT,
  search_text       TEXT NOT NULL
) STRICT;
CREATE INDEX episodes_by_hash ON episodes (content_hash);
CREATE INDEX episodes_by_age ON episodes (created_at);
CREATE INDEX episodes_by_source ON episodes (source);
-- What happened just before and just after.
CREATE INDEX episodes_in_task ON episodes (task_id, position) WHERE task_id IS NOT NULL;

CREATE TABLE knowledge_store (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  fact_id           TEXT NOT NULL UNIQUE,
  type              TEXT NOT NULL CHECK (type IN ('fact', 'rule', 'preference', 'procedure')),
  valid_from        INTEGER NOT NULL,
  valid_until       INTEGER,
  superseded_by     TEXT,
  confidence        REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
  trust             TEXT NOT NULL CHECK (trust IN ('untrusted', 'tool', 'user')),
  content_hash      TEXT NOT NULL,
  last_confirmed_at INTEGER NOT NULL,
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL,
  source            TEXT NOT NULL,
  subject           TEXT NOT NULL,
  subject_norm      TEXT NOT NULL,
  rationale         TEXT NOT NULL,
  content           TEXT NOT NULL,
  search_text       TEXT NOT NULL
) STRICT;
CREATE INDEX knowledge_store_by_subject ON knowledge_store (subject_norm, type, valid_until);
CREATE INDEX knowledge_store_by_hash ON knowledge_store (content_hash);
CREATE INDEX knowledge_store_by_age ON knowledge_store (created_at);
CREATE INDEX knowledge_store_by_source ON knowledge_store (source);
CREATE INDEX knowledge_store_superseded ON knowledge_store (superseded_by) WHERE superseded_by IS NOT NULL;

CREATE TABLE social_graph_nodes (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  node_id           TEXT NOT NULL UNIQUE,
  kind              TEXT NOT NULL CHECK (kind IN ('person', 'organization', 'other')),
  confidence        REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
  trust             TEXT NOT NULL CHECK (trust IN ('untrusted', 'tool', 'user')),
  last_confirmed_at INTEGER NOT NULL,
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL,
  source            TEXT NOT NULL,
  name              TEXT NOT NULL,
  name_norm         TEXT NOT NULL,
  aliases           TEXT NOT NULL CHECK (json_type(aliases) = 'array'),
  aliases_norm      TEXT NOT NULL CHECK (json_type(aliases_norm) = 'array'),
  rationale         TEXT NOT NULL,
  attributes        TEXT NOT NULL CHECK (json_type(attributes) = 'object'),
  search_text       TEXT NOT NULL
) STRICT;
CREATE INDEX social_graph_nodes_by_name ON social_graph_nodes (name_norm);
-- Looking for an alias reads only the few nodes that have one.
CREATE INDEX social_graph_nodes_aliased ON social_graph_nodes (id) WHERE aliases_norm <> '[]';
CREATE INDEX social_graph_nodes_by_age ON social_graph_nodes (created_at);
CREATE INDEX social_graph_nodes_by_source ON social_graph_nodes (source);

-- No cascade: who erases a node must name its relations, because they are memories of their own.
CREATE TABLE social_graph_edges (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  edge_id           TEXT NOT NULL UNIQUE,
  from_node         TEXT NOT NULL REFERENCES social_graph_nodes (node_id),
  to_node           TEXT NOT NULL REFERENCES social_graph_nodes (node_id),
  relation          TEXT NOT NULL,
  valid_from        INTEGER NOT NULL,
  valid_until       INTEGER,
  confidence        REAL NOT NULL CHECK (confidence BETWEEN 0 AND 1),
  trust             TEXT NOT NULL CHECK (trust IN ('untrusted', 'tool', 'user')),
  last_confirmed_at INTEGER NOT NULL,
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL,
  source            TEXT NOT NULL,
  rationale         TEXT NOT NULL
) STRICT;
CREATE INDEX social_graph_edges_from ON social_graph_edges (from_node, relation);
CREATE INDEX social_graph_edges_to ON social_graph_edges (to_node, relation);
CREATE INDEX social_graph_edges_by_source ON social_graph_edges (source);

-- What a memory stems from. A memory may be in any of four tables, so triggers stand in for a foreign key.
CREATE TABLE memory_lineage (
  memory_id   TEXT NOT NULL,
  parent_kind TEXT NOT NULL CHECK (parent_kind IN ('message', 'trajectory', 'memory', 'signal', 'import')),
  parent_id   TEXT NOT NULL,
  PRIMARY KEY (memory_id, parent_kind, parent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_lineage_by_parent ON memory_lineage (parent_kind, parent_id);

CREATE TABLE memory_counters (
  store             TEXT PRIMARY KEY CHECK (store IN ('episodes', 'knowledge', 'social')),
  duplicate         INTEGER NOT NULL,
  recalled_rejected INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Documents of a task, cut into pieces for searching. They live as long as their task and their blob.
CREATE TABLE ingestion_chunks (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  sha256     TEXT NOT NULL REFERENCES blobs (sha256) ON DELETE CASCADE,
  task_id    TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  position   INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  text       TEXT NOT NULL,
  UNIQUE (task_id, sha256, position)
) STRICT;
CREATE INDEX ingestion_chunks_by_blob ON ingestion_chunks (sha256);

-- Full text. 'secure-delete' takes a deleted word out of the index at once instead of at some later merge.
CREATE VIRTUAL TABLE episodes_fts USING fts5 (
  search_text, content = 'episodes', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE knowledge_store_fts USING fts5 (
  search_text, content = 'knowledge_store', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE social_graph_nodes_fts USING fts5 (
  search_text, content = 'social_graph_nodes', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE ingestion_chunks_fts USING fts5 (
  text, content = 'ingestion_chunks', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2');
INSERT INTO episodes_fts (episodes_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO knowledge_store_fts (knowledge_store_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO social_graph_nodes_fts (social_graph_nodes_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO ingestion_chunks_fts (ingestion_chunks_fts, rank) VALUES ('secure-delete', 1);

-- In how many rows a stem occurs.
CREATE VIRTUAL TABLE episodes_terms USING fts5vocab (episodes_fts, 'row');
CREATE VIRTUAL TABLE knowledge_store_terms USING fts5vocab (knowledge_store_fts, 'row');
CREATE VIRTUAL TABLE social_graph_nodes_terms USING fts5vocab (social_graph_nodes_fts, 'row');

-- Vectors: f32 little-endian. A row is here or not; of which model tells whether it still counts.
CREATE TABLE episodes_vec (
  id         INTEGER PRIMARY KEY REFERENCES episodes (id) ON DELETE CASCADE,
  model      TEXT NOT NULL,
  dim        INTEGER NOT NULL CHECK (dim > 0),
  created_at INTEGER NOT NULL,
  vector     BLOB NOT NULL CHECK (length(vector) = 4 * dim)
) STRICT;
CREATE TABLE knowledge_store_vec (
  id         INTEGER PRIMARY KEY REFERENCES knowledge_store (id) ON DELETE CASCADE,
  model      TEXT NOT NULL,
  dim        INTEGER NOT NULL CHECK (dim > 0),
  created_at INTEGER NOT NULL,
  vector     BLOB NOT NULL CHECK (length(vector) = 4 * dim)
) STRICT;
CREATE TABLE social_graph_nodes_vec (
  id         INTEGER PRIMARY KEY REFERENCES social_graph_nodes (id) ON DELETE CASCADE,
  model      TEXT NOT NULL,
  dim        INTEGER NOT NULL CHECK (dim > 0),
  created_at INTEGER NOT NULL,
  vector     BLOB NOT NULL CHECK (length(vector) = 4 * dim)
) STRICT;
-- Which rows have a vector of a model is answered without touching the vectors.
CREATE INDEX episodes_vec_by_model ON episodes_vec (model, dim);
CREATE INDEX knowledge_store_vec_by_model ON knowledge_store_vec (model, dim);
CREATE INDEX social_graph_nodes_vec_by_model ON social_graph_nodes_vec (model, dim);

CREATE TRIGGER episodes_inserted AFTER INSERT ON episodes BEGIN
  INSERT INTO episodes_fts (rowid, search_text) VALUES (new.id, new.search_text);
END;
CREATE TRIGGER episodes_deleted AFTER DELETE ON episodes BEGIN
  INSERT INTO episodes_fts (episodes_fts, rowid, search_text) VALUES ('delete', old.id, old.search_text);
  DELETE FROM memory_lineage WHERE memory_id = old.episode_id;
  DELETE FROM memory_lineage WHERE parent_kind = 'memory' AND parent_id = old.episode_id;
END;
-- A vector of another text is wrong, so it goes and is made again.
CREATE TRIGGER episodes_rewritten AFTER UPDATE OF search_text ON episodes
WHEN old.search_text <> new.search_text BEGIN
  INSERT INTO episodes_fts (episodes_fts, rowid, search_text) VALUES ('delete', old.id, old.search_text);
  INSERT INTO episodes_fts (rowid, search_text) VALUES (new.id, new.search_text);
  DELETE FROM episodes_vec WHERE id = old.id;
END;

CREATE TRIGGER knowledge_store_inserted AFTER INSERT ON knowledge_store BEGIN
  INSERT INTO knowledge_store_fts (rowid, search_text) VALUES (new.id, new.search_text);
END;
CREATE TRIGGER knowledge_store_deleted AFTER DELETE ON knowledge_store BEGIN
  INSERT INTO knowledge_store_fts (knowledge_store_fts, rowid, search_text)
    VALUES ('delete', old.id, old.search_text);
  DELETE FROM memory_lineage WHERE memory_id = old.fact_id;
  DELETE FROM memory_lineage WHERE parent_kind = 'memory' AND parent_id = old.fact_id;
  UPDATE knowledge_store SET superseded_by = NULL WHERE superseded_by = old.fact_id;
END;
CREATE TRIGGER knowledge_store_rewritten AFTER UPDATE OF search_text ON knowledge_store
WHEN old.search_text <> new.search_text BEGIN
  INSERT INTO knowledge_store_fts (knowledge_store_fts, rowid, search_text)
    VALUES ('delete', old.id, old.search_text);
  INSERT INTO knowledge_store_fts (rowid, search_text) VALUES (new.id, new.search_text);
  DELETE FROM knowledge_store_vec WHERE id = old.id;
END;

CREATE TRIGGER social_graph_nodes_inserted AFTER INSERT ON social_graph_nodes BEGIN
  INSERT INTO social_graph_nodes_fts (rowid, search_text) VALUES (new.id, new.search_text);
END;
CREATE TRIGGER social_graph_nodes_deleted AFTER DELETE ON social_graph_nodes BEGIN
  INSERT INTO social_graph_nodes_fts (social_graph_nodes_fts, rowid, search_text)
    VALUES ('delete', old.id, old.search_text);
  DELETE FROM memory_lineage WHERE memory_id = old.node_id;
  DELETE FROM memory_lineage WHERE parent_kind = 'memory' AND parent_id = old.node_id;
END;
CREATE TRIGGER social_graph_nodes_rewritten AFTER UPDATE OF search_text ON social_graph_nodes
WHEN old.search_text <> new.search_text BEGIN
  INSERT INTO social_graph_nodes_fts (social_graph_nodes_fts, rowid, search_text)
    VALUES ('delete', old.id, old.search_text);
  INSERT INTO social_graph_nodes_fts (rowid, search_text) VALUES (new.id, new.search_text);
  DELETE FROM social_graph_nodes_vec WHERE id = old.id;
END;

CREATE TRIGGER social_graph_edges_deleted AFTER DELETE ON social_graph_edges BEGIN
  DELETE FROM memory_lineage WHERE memory_id = old.edge_id;
  DELETE FROM memory_lineage WHERE parent_kind = 'memory' AND parent_id = old.edge_id;
END;

CREATE TRIGGER ingestion_chunks_inserted AFTER INSERT ON ingestion_chunks BEGIN
  INSERT INTO ingestion_chunks_fts (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER ingestion_chunks_deleted AFTER DELETE ON ingestion_chunks BEGIN
  INSERT INTO ingestion_chunks_fts (ingestion_chunks_fts, rowid, text) VALUES ('delete', old.id, old.text);
END;

-- Finished turns the Learning Centre has to look at, or has looked at.
CREATE TABLE trajectories (
  turn_id      TEXT PRIMARY KEY REFERENCES turns (turn_id) ON DELETE CASCADE,
  task_id      TEXT NOT NULL,
  agent        TEXT NOT NULL,
  outcome      TEXT NOT NULL,
  trust        TEXT NOT NULL CHECK (trust IN ('untrusted', 'tool', 'user')),
  state        TEXT NOT NULL CHECK (state IN ('pending', 'processed', 'failed')),
  attempts     INTEGER NOT NULL DEFAULT 0,
  created_at   INTEGER NOT NULL,
  processed_at INTEGER,
  trace_json   TEXT NOT NULL CHECK (json_valid(trace_json)),
  CHECK ((state = 'pending') = (processed_at IS NULL))
) STRICT;
CREATE INDEX trajectories_pending ON trajectories (created_at) WHERE state = 'pending';
CREATE INDEX trajectories_pending_of_task ON trajectories (task_id, created_at) WHERE state = 'pending';
CREATE INDEX trajectories_processed ON trajectories (processed_at) WHERE processed_at IS NOT NULL;

-- What the person thought of an answer. Outlives the task it was said in.
CREATE TABLE learning_signals (
  signal_id    TEXT PRIMARY KEY,
  message_id   TEXT NOT NULL,
  turn_id      TEXT NOT NULL,
  rating       TEXT CHECK (rating IN ('up', 'down')),
  comment      TEXT,
  corrected    TEXT,
  created_at   INTEGER NOT NULL,
  processed_at INTEGER,
  CHECK (rating IS NOT NULL OR comment IS NOT NULL OR corrected IS NOT NULL)
) STRICT;
CREATE INDEX learning_signals_by_turn ON learning_signals (turn_id);
CREATE INDEX learning_signals_new ON learning_signals (created_at) WHERE processed_at IS NULL;

CREATE TABLE learning_batches (
  batch_id     TEXT PRIMARY KEY,
  "trigger"    TEXT NOT NULL CHECK ("trigger" IN ('schedule', 'quiet', 'manual')),
  state        TEXT NOT NULL CHECK (state IN ('running', 'succeeded', 'partial', 'failed')),
  trajectories INTEGER NOT NULL DEFAULT 0,
  written_json TEXT NOT NULL CHECK (json_valid(written_json)),
  duplicates   INTEGER NOT NULL DEFAULT 0,
  tokens_used  INTEGER NOT NULL DEFAULT 0,
  error        TEXT,
  started_at   INTEGER NOT NULL,
  ended_at     INTEGER
) STRICT;
CREATE INDEX learning_batches_by_age ON learning_batches (started_at);
-- Never two at once.
CREATE UNIQUE INDEX learning_batches_running ON learning_batches (state) WHERE state = 'running';

-- Long work in small steps, which goes on after a restart.
CREATE TABLE jobs (
  job_id      TEXT PRIMARY KEY,
  kind        TEXT NOT NULL CHECK (kind IN ('import', 'reembed', 'fts_rebuild')),
  state_json  TEXT NOT NULL CHECK (json_valid(state_json)),
  created_at  INTEGER NOT NULL,
  finished_at INTEGER
) STRICT;
CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE finished_at IS NULL;
