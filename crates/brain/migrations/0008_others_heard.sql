-- Whether anybody but the person was heard in a turn: data beside a message, a hook, a memory that is not the person's, a
-- connector's definitions. Written when it is shown to the model and never taken back: a memory may be deleted, and what
-- was only in the context leaves no row. Turns from before have 0; what can be derived for them is derived as before.
ALTER TABLE turns ADD COLUMN others_heard INTEGER NOT NULL DEFAULT 0;
