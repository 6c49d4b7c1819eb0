-- When a version was begun, on this machine's clock. CortexDB remembers a key for a day: what was begun long ago and has no receipt
-- is looked for before it is sent again. Unknown for what was begun before this column was there, which counts as long ago.
ALTER TABLE events ADD COLUMN begun_at REAL;
