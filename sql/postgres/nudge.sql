-- A small transaction of kck's own, flushed at once: beside asynchronous commits the stream lies behind the
-- insert position until something is flushed, and only what is flushed is decoded (R8).
select pg_catalog.pg_logical_emit_message(true, 'kck', '')::text
