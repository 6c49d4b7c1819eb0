-- When a stream was last read to its end: how far `runtime status` says it is behind.
ALTER TABLE streams ADD COLUMN complete_at TEXT;
UPDATE streams SET complete_at = at WHERE state = 'complete';
