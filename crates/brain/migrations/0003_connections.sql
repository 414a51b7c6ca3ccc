-- Connectors: who is connected, what their servers offer, and authorizations under way.

CREATE TABLE server_registry (
  server_name      TEXT PRIMARY KEY,
  entry_json       TEXT NOT NULL CHECK (json_valid(entry_json)),
  source           TEXT NOT NULL CHECK (source IN ('catalog', 'adhoc')),
  era              TEXT,
  protocol_version TEXT,
  server_info      TEXT CHECK (server_info IS NULL OR json_valid(server_info)),
  probed_at        INTEGER
) STRICT;

CREATE TABLE connections (
  ref_id             TEXT PRIMARY KEY,
  server_name        TEXT NOT NULL REFERENCES server_registry (server_name),
  alias              TEXT NOT NULL UNIQUE,
  config_json        TEXT NOT NULL CHECK (json_valid(config_json)),
  auth_method        TEXT NOT NULL CHECK (auth_method IN ('none', 'static', 'oauth')),
  status             TEXT NOT NULL CHECK (status IN ('pending_oauth', 'connected', 'expired', 'error')),
  -- a Fernet token; never opened here
  credentials        TEXT,
  key_fingerprint    TEXT,
  credential_version INTEGER NOT NULL,
  scopes             TEXT NOT NULL CHECK (json_valid(scopes)),
  wanted_scopes      TEXT NOT NULL CHECK (json_valid(wanted_scopes)),
  expires_at         INTEGER,
  refresh_at         INTEGER,
  last_error         TEXT,
  created_at         INTEGER NOT NULL,
  updated_at         INTEGER NOT NULL
) STRICT;
CREATE INDEX connections_server ON connections (server_name);

CREATE TABLE action_registry (
  ref_id       TEXT NOT NULL REFERENCES connections (ref_id) ON DELETE CASCADE,
  action       TEXT NOT NULL,
  name         TEXT NOT NULL,
  description  TEXT NOT NULL,
  input_schema TEXT NOT NULL CHECK (json_valid(input_schema)),
  annotations  TEXT NOT NULL CHECK (json_valid(annotations)),
  hash         TEXT NOT NULL,
  state        TEXT NOT NULL CHECK (state IN ('pinned', 'new', 'changed', 'gone')),
  pending_json TEXT CHECK (pending_json IS NULL OR json_valid(pending_json)),
  updated_at   INTEGER NOT NULL,
  PRIMARY KEY (ref_id, action)
) STRICT, WITHOUT ROWID;

CREATE TABLE oauth_states (
  state_hash   TEXT PRIMARY KEY,
  ref_id       TEXT NOT NULL REFERENCES connections (ref_id) ON DELETE CASCADE,
  verifier_enc TEXT NOT NULL,
  issuer       TEXT NOT NULL,
  redirect_uri TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  used_at      INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX oauth_states_age ON oauth_states (created_at);
CREATE INDEX oauth_states_connection ON oauth_states (ref_id);

CREATE TABLE oauth_clients (
  issuer            TEXT NOT NULL,
  redirect_uri      TEXT NOT NULL,
  client_id         TEXT NOT NULL,
  client_secret_enc TEXT,
  metadata_json     TEXT NOT NULL CHECK (json_valid(metadata_json)),
  created_at        INTEGER NOT NULL,
  PRIMARY KEY (issuer, redirect_uri)
) STRICT, WITHOUT ROWID;
