-- The registry, version 1: this deployment, its products, engines, operations, leases, and the audit log.
-- A landed file never changes (the checksum is compared); what comes later is a new file.

CREATE TABLE schema_migrations (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL,   -- SHA-256 of the file; a changed file refuses to run
  compatible_from INTEGER NOT NULL,                    -- oldest schema level whose binary may still run on this one
  applied_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_by TEXT NOT NULL
);
CREATE TABLE instance (                                -- exactly one row, made by the first migration
  singleton BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (singleton),
  id UUID NOT NULL DEFAULT gen_random_uuid(),          -- label value of every backend object
  spec_salt BYTEA NOT NULL,                            -- 32 random bytes, keys the spec hash
  port_cursor INTEGER NOT NULL DEFAULT 0,              -- last port handed out (next fit)
  backend_identity TEXT,                               -- Docker daemon id, cluster uid, machine id; a change needs confirmation
  created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE products (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  slug TEXT NOT NULL CONSTRAINT products_slug_key UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  display_name TEXT NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
  api_key_hash TEXT NOT NULL CONSTRAINT products_api_key_hash_key UNIQUE CHECK (api_key_hash ~ '^[0-9a-f]{64}$'),
  previous_api_key_hash TEXT UNIQUE, previous_key_expires_at TIMESTAMPTZ,
  policy JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(policy) = 'object'),
  deleting BOOLEAN NOT NULL DEFAULT FALSE,
  total_provisions BIGINT NOT NULL DEFAULT 0, total_destroys BIGINT NOT NULL DEFAULT 0,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE engines (
  id UUID PRIMARY KEY,                                 -- UUIDv4, drawn by the program (the first 12 characters must be random)
  product_id UUID NOT NULL REFERENCES products(id) ON DELETE CASCADE,
  user_id TEXT NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
  status TEXT NOT NULL CHECK (status IN ('provisioning','running','sleeping','stopped','failed','destroying')),
  desired TEXT NOT NULL CHECK (desired IN ('running','sleeping','stopped','destroyed')),
  status_since TIMESTAMPTZ NOT NULL DEFAULT now(),
  revision BIGINT NOT NULL DEFAULT 1, generation BIGINT NOT NULL DEFAULT 1,
  backend TEXT NOT NULL CHECK (backend IN ('docker','subprocess','kubernetes','simulated')),
  engine_version TEXT NOT NULL, target_version TEXT,   -- image in use / applied by the next start
  port INTEGER CONSTRAINT engines_port_key UNIQUE CHECK (port BETWEEN 1 AND 65535),
  container_id TEXT, spec_hash TEXT,
  engine_key_hash TEXT NOT NULL CHECK (engine_key_hash ~ '^[0-9a-f]{64}$'), engine_key_enc TEXT NOT NULL,
  next_engine_key_hash TEXT, next_engine_key_enc TEXT, key_rotated_at TIMESTAMPTZ,   -- next_* = a rotation under way
  boot_duration_ms INTEGER,                            -- null = never booted: storage may still be created
  sleep_mode TEXT CHECK (sleep_mode IN ('freeze','stop','label')), wake_at TIMESTAMPTZ,
  last_admit_at TIMESTAMPTZ, admit_lease_until TIMESTAMPTZ,                          -- the fence
  restart_attempts INTEGER NOT NULL DEFAULT 0, next_restart_at TIMESTAMPTZ,          -- failed and null = given up
  failure_code TEXT, failure_message TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  CONSTRAINT engines_product_user_key UNIQUE (product_id, user_id),
  CHECK ((next_engine_key_hash IS NULL) = (next_engine_key_enc IS NULL)),
  CHECK ((status = 'destroying') = (desired = 'destroyed'))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX engines_short_id_key ON engines (left(id::text, 12));
CREATE INDEX idx_engines_product_status ON engines (product_id, status);
CREATE INDEX idx_engines_next_restart ON engines (next_restart_at) WHERE status = 'failed';
CREATE INDEX idx_engines_wake_at ON engines (wake_at) WHERE wake_at IS NOT NULL;
CREATE TABLE engine_vitals (                           -- written in batches; never the only guard of a transition
  engine_id UUID PRIMARY KEY REFERENCES engines(id) ON DELETE CASCADE,
  last_health_at TIMESTAMPTZ, last_probe_at TIMESTAMPTZ,
  health_failures INTEGER NOT NULL DEFAULT 0, healthy_streak INTEGER NOT NULL DEFAULT 0, healthy_since TIMESTAMPTZ,
  degraded BOOLEAN NOT NULL DEFAULT FALSE, subsystems JSONB NOT NULL DEFAULT '{}',
  reported_version TEXT, schema_version INTEGER,
  in_flight_turns INTEGER, open_streams INTEGER, last_activity_at TIMESTAMPTZ, next_scheduled_at TIMESTAMPTZ,
  backend_restarts INTEGER NOT NULL DEFAULT 0, updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE operations (
  id UUID PRIMARY KEY,
  engine_id UUID NOT NULL, product_id UUID NOT NULL, user_id TEXT NOT NULL,          -- no foreign key: history outlives the engine
  kind TEXT NOT NULL CHECK (kind IN ('provision','start','stop','sleep','wake','restart','rotate_key','upgrade','recreate','restore','destroy')),
  status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open','succeeded','failed','superseded')),
  step TEXT NOT NULL, params JSONB NOT NULL DEFAULT '{}', timings JSONB NOT NULL DEFAULT '{}',   -- timings: phase -> ms
  owner UUID, claim BIGINT NOT NULL DEFAULT 0, lease_until TIMESTAMPTZ,              -- owner null = anybody may claim
  attempt INTEGER NOT NULL DEFAULT 0, retry_at TIMESTAMPTZ,
  actor TEXT NOT NULL DEFAULT 'system', request_id TEXT, error_code TEXT, error_message TEXT,
  started_at TIMESTAMPTZ NOT NULL DEFAULT now(), finished_at TIMESTAMPTZ,
  CHECK ((status = 'open') = (finished_at IS NULL))
);
CREATE UNIQUE INDEX operations_one_open ON operations (engine_id) WHERE status = 'open';
CREATE INDEX idx_operations_due ON operations (lease_until) WHERE status = 'open';
CREATE INDEX idx_operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE leases (name TEXT PRIMARY KEY CHECK (name IN ('supervisor')),
  holder UUID NOT NULL, holder_name TEXT NOT NULL, epoch BIGINT NOT NULL, expires_at TIMESTAMPTZ NOT NULL);
CREATE TABLE quarantined_ports (port INTEGER PRIMARY KEY, reason TEXT NOT NULL, until TIMESTAMPTZ NOT NULL);
CREATE TABLE idempotency_keys (
  product_id UUID NOT NULL REFERENCES products(id) ON DELETE CASCADE, key TEXT NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 128),
  request_hash TEXT NOT NULL, engine_id UUID NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (product_id, key)
);
CREATE INDEX idx_idempotency_keys_created ON idempotency_keys (created_at);
CREATE TABLE brain_snapshots (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), engine_id UUID NOT NULL REFERENCES engines(id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('pre_upgrade','pre_restore','backup')),
  generation BIGINT NOT NULL, engine_version TEXT NOT NULL, schema_version INTEGER,
  location TEXT NOT NULL, size_bytes BIGINT, sha256 TEXT, created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX idx_brain_snapshots_engine ON brain_snapshots (engine_id, created_at);
CREATE TABLE rollouts (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  product_id UUID REFERENCES products(id) ON DELETE CASCADE,                         -- null = every product
  to_version TEXT NOT NULL, percent INTEGER NOT NULL CHECK (percent BETWEEN 1 AND 100),
  max_parallel INTEGER NOT NULL DEFAULT 4 CHECK (max_parallel BETWEEN 1 AND 64),
  max_failures INTEGER NOT NULL DEFAULT 1 CHECK (max_failures >= 0), soak_s INTEGER NOT NULL DEFAULT 1800 CHECK (soak_s >= 0),
  state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running','paused','halted','done','aborted')), reason TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX rollouts_one_active ON rollouts ((TRUE)) WHERE state IN ('running','paused','halted');
CREATE TABLE rollout_engines (
  rollout_id UUID NOT NULL REFERENCES rollouts(id) ON DELETE CASCADE, engine_id UUID NOT NULL REFERENCES engines(id) ON DELETE CASCADE,
  from_version TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending','upgrading','upgraded','reverting','reverted','failed','skipped')),
  operation_id UUID, updated_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (rollout_id, engine_id)
);
CREATE TABLE audit_log (
  id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
  product_id UUID, user_id TEXT, engine_id UUID,
  action TEXT NOT NULL, actor TEXT NOT NULL DEFAULT 'system', metadata JSONB NOT NULL DEFAULT '{}', duration_ms INTEGER,
  recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (id, timestamp)                          -- a partitioned key contains the partition column
) PARTITION BY RANGE (timestamp);
CREATE INDEX idx_audit_log_timestamp ON audit_log (timestamp);
CREATE INDEX idx_audit_log_action    ON audit_log (action);
CREATE INDEX idx_audit_log_engine    ON audit_log (engine_id, id);
CREATE INDEX idx_audit_log_product   ON audit_log (product_id, id);
CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;   -- stays empty; a row in it is an alert
CREATE TABLE audit_exports (                           -- which partitions have left the house
  partition TEXT PRIMARY KEY, rows BIGINT NOT NULL, max_id BIGINT NOT NULL, sha256 TEXT NOT NULL, exported_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- The one row of this deployment. Three random UUIDs hashed give 32 bytes that nobody can guess.
INSERT INTO instance (spec_salt)
VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- Partitions of the log for the present and the next two months (UTC); the supervisor keeps them ahead from here on.
DO $$
DECLARE
  month TIMESTAMP := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
BEGIN
  FOR i IN 0..2 LOOP
    EXECUTE format('CREATE TABLE %I PARTITION OF audit_log FOR VALUES FROM (%L) TO (%L)',
                   'audit_log_' || to_char(month, 'YYYY_MM'),
                   to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                   to_char(month + INTERVAL '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
    month := month + INTERVAL '1 month';
  END LOOP;
END $$;
