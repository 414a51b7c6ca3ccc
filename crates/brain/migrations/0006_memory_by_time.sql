-- A question that names a day or a week is answered with what happened then, also when no word of it is known.
CREATE INDEX episodes_by_time ON episodes (occurred_at);
CREATE INDEX knowledge_store_by_time ON knowledge_store (valid_from);
