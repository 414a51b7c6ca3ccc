-- What a person said yes to: the places and hosts their answer covers, not the words of the command alone.
--
-- A remembered rule without a scope is from before: it covers what has no places. A call whose meaning changed after
-- the answer asks again, so a call may have several questions; `round` keeps each of them single.
ALTER TABLE permissions ADD COLUMN scope_json TEXT CHECK (scope_json IS NULL OR json_valid(scope_json));
ALTER TABLE hitl_requests ADD COLUMN round INTEGER NOT NULL DEFAULT 1 CHECK (round >= 1);
DROP INDEX hitl_by_call;
-- A round asks once: a restart finds the row instead of asking again.
CREATE UNIQUE INDEX hitl_by_call ON hitl_requests (tool_call_id, round);
