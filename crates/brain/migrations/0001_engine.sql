-- The Engine's first schema: conversations, turns, the event log, the effect journal, prompts, keys.
-- Times are INTEGER milliseconds since the epoch; *_json columns are TEXT checked by json_valid.

CREATE TABLE brain_meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE engine_keys (
  id           INTEGER PRIMARY KEY,
  key_hash     TEXT NOT NULL,
  env_hash     TEXT NOT NULL,
  state        TEXT NOT NULL CHECK (state IN ('current', 'previous')),
  valid_until  INTEGER,
  forget_after INTEGER,
  created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE tasks (
  task_id       TEXT PRIMARY KEY,
  title         TEXT NOT NULL,
  agent         TEXT NOT NULL,
  next_position INTEGER NOT NULL DEFAULT 0,
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_age ON tasks (updated_at DESC, task_id);

CREATE TABLE turns (
  turn_id          TEXT PRIMARY KEY,
  task_id          TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  number           INTEGER NOT NULL,
  agent            TEXT NOT NULL,
  state            TEXT NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'cancelling', 'completed', 'errored')),
  resumed          INTEGER NOT NULL DEFAULT 0,
  direct           INTEGER NOT NULL DEFAULT 0,
  super_thinking   INTEGER NOT NULL DEFAULT 0,
  idempotency_key  TEXT UNIQUE,
  request_hash     TEXT NOT NULL,
  request_json     TEXT NOT NULL CHECK (json_valid(request_json)),
  output_schema    TEXT CHECK (output_schema IS NULL OR json_valid(output_schema)),
  output           TEXT CHECK (output IS NULL OR json_valid(output)),
  user_message_id  TEXT NOT NULL,
  message_id       TEXT,
  stop_reason      TEXT,
  error_code       TEXT,
  error_message    TEXT,
  error_details    TEXT CHECK (error_details IS NULL OR json_valid(error_details)),
  iterations       INTEGER NOT NULL DEFAULT 0,
  recalled_ids     TEXT CHECK (recalled_ids IS NULL OR json_valid(recalled_ids)),
  tainted          INTEGER NOT NULL DEFAULT 0,
  crash_count      INTEGER NOT NULL DEFAULT 0,
  first_seq        INTEGER NOT NULL DEFAULT 0,
  last_seq         INTEGER NOT NULL DEFAULT 0,
  created_at       INTEGER NOT NULL,
  started_at       INTEGER,
  ended_at         INTEGER,
  UNIQUE (task_id, number)
) STRICT;
-- Recovery and "is this task busy" read only the handful of turns that are not over.
CREATE INDEX turns_open ON turns (created_at) WHERE state IN ('queued', 'running', 'paused', 'cancelling');
-- A task is idle, or has exactly one turn that is not over.
CREATE UNIQUE INDEX turns_one_open_per_task ON turns (task_id) WHERE state IN ('queued', 'running', 'paused', 'cancelling');

CREATE TABLE conversations (
  message_id          TEXT PRIMARY KEY,
  task_id             TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  turn_id             TEXT NOT NULL REFERENCES turns (turn_id) ON DELETE CASCADE,
  position            INTEGER NOT NULL,
  role                TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
  content_json        TEXT NOT NULL CHECK (json_valid(content_json)),
  token_estimate      INTEGER NOT NULL DEFAULT 0,
  status              TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'superseded')),
  agent               TEXT,
  parent_tool_call_id TEXT NOT NULL DEFAULT '',
  created_at          INTEGER NOT NULL,
  UNIQUE (task_id, parent_tool_call_id, position)
) STRICT;
CREATE INDEX conversations_by_turn ON conversations (turn_id);

CREATE TABLE compactions (
  id             INTEGER PRIMARY KEY,
  task_id        TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  turn_id        TEXT NOT NULL,
  up_to_position INTEGER NOT NULL,
  summary        TEXT NOT NULL,
  strategy       TEXT NOT NULL,
  before_tokens  INTEGER NOT NULL,
  after_tokens   INTEGER NOT NULL,
  created_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX compactions_by_task ON compactions (task_id, id);

CREATE TABLE events (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  task_id TEXT NOT NULL,
  turn_id TEXT NOT NULL,
  event   TEXT NOT NULL,
  data    TEXT NOT NULL,
  ts      INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_task ON events (task_id, seq);
CREATE INDEX events_by_turn ON events (turn_id, seq);
CREATE INDEX events_by_time ON events (ts);

CREATE TABLE channel_state_snapshots (
  turn_id    TEXT PRIMARY KEY REFERENCES turns (turn_id) ON DELETE CASCADE,
  task_id    TEXT NOT NULL,
  step       TEXT NOT NULL CHECK (step IN ('assemble', 'model', 'tools', 'finish')),
  state_json TEXT NOT NULL CHECK (json_valid(state_json)),
  version    INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_expiry ON channel_state_snapshots (expires_at);

CREATE TABLE effects (
  tool_call_id        TEXT PRIMARY KEY,
  turn_id             TEXT NOT NULL REFERENCES turns (turn_id) ON DELETE CASCADE,
  task_id             TEXT NOT NULL,
  parent_tool_call_id TEXT NOT NULL DEFAULT '',
  block_position      INTEGER NOT NULL,
  tool                TEXT NOT NULL,
  input_json          TEXT NOT NULL CHECK (json_valid(input_json)),
  effect_class        TEXT NOT NULL CHECK (effect_class IN ('read-only', 'idempotent', 'once')),
  permission          TEXT CHECK (permission IN ('allow', 'remembered', 'prompt_yes', 'prompt_no', 'denied')),
  rule                TEXT,
  state               TEXT NOT NULL CHECK (state IN ('intent', 'done', 'failed', 'in_doubt', 'cancelled')),
  output_json         TEXT CHECK (output_json IS NULL OR json_valid(output_json)),
  output_blob         TEXT,
  reason              TEXT,
  error               TEXT,
  attempts            INTEGER NOT NULL DEFAULT 1,
  pgid                INTEGER,
  started_at          INTEGER NOT NULL,
  finished_at         INTEGER
) STRICT;
CREATE INDEX effects_by_turn ON effects (turn_id, tool);
CREATE INDEX effects_unfinished ON effects (started_at) WHERE state = 'intent';

CREATE TABLE hitl_requests (
  request_id     TEXT PRIMARY KEY,
  task_id        TEXT NOT NULL,
  turn_id        TEXT NOT NULL REFERENCES turns (turn_id) ON DELETE CASCADE,
  tool_call_id   TEXT NOT NULL,
  kind           TEXT NOT NULL CHECK (kind IN ('permission', 'question')),
  question       TEXT NOT NULL,
  options        TEXT NOT NULL CHECK (json_valid(options)),
  details_json   TEXT NOT NULL CHECK (json_valid(details_json)),
  state          TEXT NOT NULL CHECK (state IN ('pending', 'answered', 'expired', 'cancelled')),
  answer         TEXT,
  feedback       TEXT,
  content_blocks TEXT CHECK (content_blocks IS NULL OR json_valid(content_blocks)),
  created_at     INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,
  answered_at    INTEGER
) STRICT;
CREATE INDEX hitl_pending ON hitl_requests (created_at) WHERE state = 'pending';
CREATE INDEX hitl_by_turn ON hitl_requests (turn_id);
-- A call asks once: a restart finds the row instead of asking again.
CREATE UNIQUE INDEX hitl_by_call ON hitl_requests (tool_call_id);

CREATE TABLE permissions (
  id         TEXT PRIMARY KEY,
  task_id    TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  tool       TEXT NOT NULL,
  rule       TEXT NOT NULL,
  request_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  UNIQUE (task_id, rule)
) STRICT;

CREATE TABLE working_memory_log (
  id         INTEGER PRIMARY KEY,
  task_id    TEXT NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
  turn_id    TEXT NOT NULL,
  key        TEXT NOT NULL,
  value      TEXT,
  op         TEXT NOT NULL CHECK (op IN ('set', 'delete')),
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX working_memory_latest ON working_memory_log (task_id, key, id);
CREATE INDEX working_memory_by_expiry ON working_memory_log (expires_at);

CREATE TABLE blobs (
  sha256     TEXT PRIMARY KEY,
  media_type TEXT NOT NULL,
  size       INTEGER NOT NULL,
  data       BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE blob_refs (
  sha256      TEXT NOT NULL REFERENCES blobs (sha256),
  owner_table TEXT NOT NULL,
  owner_id    TEXT NOT NULL,
  PRIMARY KEY (sha256, owner_table, owner_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_by_owner ON blob_refs (owner_table, owner_id);

CREATE TABLE usage_log (
  id               INTEGER PRIMARY KEY,
  turn_id          TEXT,
  task_id          TEXT,
  provider         TEXT NOT NULL,
  model            TEXT NOT NULL,
  purpose          TEXT NOT NULL,
  calls            INTEGER NOT NULL DEFAULT 1,
  input_tokens     INTEGER NOT NULL,
  output_tokens    INTEGER NOT NULL,
  cache_hit_tokens INTEGER NOT NULL,
  estimated        INTEGER NOT NULL DEFAULT 0,
  duration_ms      INTEGER NOT NULL,
  created_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_by_time ON usage_log (created_at);
CREATE INDEX usage_by_task ON usage_log (task_id);
CREATE INDEX usage_by_turn ON usage_log (turn_id);

CREATE TABLE observability_events (
  id         INTEGER PRIMARY KEY,
  ts         INTEGER NOT NULL,
  kind       TEXT NOT NULL,
  code       TEXT,
  task_id    TEXT,
  turn_id    TEXT,
  request_id TEXT,
  message    TEXT NOT NULL,
  data_json  TEXT CHECK (data_json IS NULL OR json_valid(data_json))
) STRICT;
CREATE INDEX observability_by_time ON observability_events (ts);
CREATE INDEX observability_by_task ON observability_events (task_id) WHERE task_id IS NOT NULL;
