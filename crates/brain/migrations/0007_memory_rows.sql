-- How many memories each store has. Counting reads a whole index, and every search and every write asks: how common a
-- word is depends on it. Triggers, for the same reason as those of the full-text indexes: nobody can forget them.
CREATE TABLE memory_rows (
  store TEXT PRIMARY KEY CHECK (store IN ('episodes', 'knowledge', 'social')),
  rows  INTEGER NOT NULL CHECK (rows >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO memory_rows (store, rows) SELECT 'episodes', count(*) FROM episodes;
INSERT INTO memory_rows (store, rows) SELECT 'knowledge', count(*) FROM knowledge_store;
INSERT INTO memory_rows (store, rows) SELECT 'social', count(*) FROM social_graph_nodes;

CREATE TRIGGER episodes_one_more AFTER INSERT ON episodes BEGIN
  UPDATE memory_rows SET rows = rows + 1 WHERE store = 'episodes';
END;
CREATE TRIGGER episodes_one_fewer AFTER DELETE ON episodes BEGIN
  UPDATE memory_rows SET rows = rows - 1 WHERE store = 'episodes';
END;
CREATE TRIGGER knowledge_store_one_more AFTER INSERT ON knowledge_store BEGIN
  UPDATE memory_rows SET rows = rows + 1 WHERE store = 'knowledge';
END;
CREATE TRIGGER knowledge_store_one_fewer AFTER DELETE ON knowledge_store BEGIN
  UPDATE memory_rows SET rows = rows - 1 WHERE store = 'knowledge';
END;
CREATE TRIGGER social_graph_nodes_one_more AFTER INSERT ON social_graph_nodes BEGIN
  UPDATE memory_rows SET rows = rows + 1 WHERE store = 'social';
END;
CREATE TRIGGER social_graph_nodes_one_fewer AFTER DELETE ON social_graph_nodes BEGIN
  UPDATE memory_rows SET rows = rows - 1 WHERE store = 'social';
END;
