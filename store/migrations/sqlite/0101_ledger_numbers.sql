-- The number of a connection that was deleted is never given again: a lease, or a delivery on its way in, may still name it.
-- (PostgreSQL's identity columns never give one twice.)
CREATE TABLE ledger_numbers (last INTEGER NOT NULL) STRICT;
INSERT INTO ledger_numbers (last) VALUES (0);
CREATE TRIGGER numbers_stay_taken AFTER DELETE ON connections BEGIN
    UPDATE ledger_numbers SET last = max(last, OLD.id);
END;
