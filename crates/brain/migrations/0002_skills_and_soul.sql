-- Skills a person made, the soul with its history, and whether the stream has been told of a call's outcome.

CREATE TABLE skills (
  name            TEXT PRIMARY KEY,
  description     TEXT NOT NULL,
  category        TEXT NOT NULL,
  prompt_template TEXT,
  scripts_json    TEXT NOT NULL CHECK (json_valid(scripts_json)),
  capabilities    TEXT NOT NULL CHECK (json_valid(capabilities)),
  confidence      REAL NOT NULL,
  source          TEXT NOT NULL,
  trust           TEXT NOT NULL CHECK (trust IN ('user', 'tool', 'untrusted')),
  created_at      INTEGER NOT NULL,
  updated_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE soul (
  id            INTEGER PRIMARY KEY CHECK (id = 1),
  identity      TEXT NOT NULL,
  values_json   TEXT NOT NULL CHECK (json_valid(values_json)),
  patterns_json TEXT NOT NULL CHECK (json_valid(patterns_json)),
  version       INTEGER NOT NULL,
  source        TEXT NOT NULL CHECK (source IN ('catalog', 'learning', 'user')),
  updated_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE soul_history (
  version       INTEGER PRIMARY KEY,
  identity      TEXT NOT NULL,
  values_json   TEXT NOT NULL CHECK (json_valid(values_json)),
  patterns_json TEXT NOT NULL CHECK (json_valid(patterns_json)),
  source        TEXT NOT NULL,
  rationale     TEXT NOT NULL,
  created_at    INTEGER NOT NULL
) STRICT;

-- 0 between the commit of an outcome and its tool_result event, while the post-tool hooks run.
ALTER TABLE effects ADD COLUMN told INTEGER NOT NULL DEFAULT 1;
CREATE INDEX effects_untold ON effects (turn_id) WHERE told = 0;
