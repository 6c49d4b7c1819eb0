-- What the components of one run may take together, in bytes: with those of the tenant's other runs it stays within the tenant's cap.
ALTER TABLE platform_connections ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
