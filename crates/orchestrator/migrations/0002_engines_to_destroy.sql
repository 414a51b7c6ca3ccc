-- How many engines a product had when its deletion began: what its last row of the audit log tells, whichever replica
-- writes it. Null = no deletion has begun, or a release before this column began it.

ALTER TABLE products ADD COLUMN engines_to_destroy BIGINT;
