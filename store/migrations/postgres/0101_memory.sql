-- What the components of one run may take together, in bytes: with those of the tenant's other runs it stays within the tenant's cap.
ALTER TABLE platform_connections ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
-- The same of the run that goes on, as it was when it began: what its owner changes meanwhile is for the next one.
ALTER TABLE platform_connections ADD COLUMN held_memory BIGINT NOT NULL DEFAULT 0;
