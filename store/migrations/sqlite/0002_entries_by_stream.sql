-- What is held of one stream and kind, in the order of the source ids: for the reconcile pass and for `runtime verify`.
CREATE INDEX entries_by_stream ON entries (connection, stream, event_type, source_id);
