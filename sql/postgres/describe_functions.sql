-- Functions by oid.
select p.oid, n.nspname::text, p.proname::text, p.provolatile::text, l.lanname::text, p.proisstrict, p.oid::regprocedure::text
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where p.oid = any ($1::oid[])
order by p.oid
