-- `memory` of the run that goes on, as it was when it began: what its owner changes meanwhile is for the next one.
ALTER TABLE platform_connections ADD COLUMN held_memory INTEGER NOT NULL DEFAULT 0;
UPDATE platform_connections SET held_memory = memory WHERE running = 1;
-- Numbers of connections that were deleted before they were kept (0101), as far as their runs tell.
UPDATE ledger_numbers SET last = max(last, (SELECT coalesce(max(ledger), 0) FROM platform_runs));
