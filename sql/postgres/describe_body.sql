-- The tree of a twin's body.
select p.prosqlbody::text
from pg_catalog.pg_proc p
where p.proname = $1::text and p.pronamespace = pg_catalog.pg_my_temp_schema()
