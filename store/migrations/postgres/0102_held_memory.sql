-- `memory` of the run that goes on, as it was when it began: what its owner changes meanwhile is for the next one.
ALTER TABLE platform_connections ADD COLUMN held_memory BIGINT NOT NULL DEFAULT 0;
UPDATE platform_connections SET held_memory = memory WHERE running = 1;
