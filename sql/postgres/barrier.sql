-- What is visible, where the log is, and what time it is, in one statement (R1). The snapshot is taken before
-- the position is read, so every commit that the snapshot sees ends at or below the position.
select pg_catalog.pg_current_snapshot()::text,
       pg_catalog.pg_current_wal_insert_lsn()::text,
       (extract(epoch from pg_catalog.statement_timestamp()) * 1000000)::bigint
