-- What names may stand for, where there is no tree: every relation and function that a statement with these
-- relations ($1), functions ($2), columns ($3) and operators ($4) could read or call.
select 'relation' as kind, to_regclass(mentioned)::oid as oid
from unnest($1::text[]) as mentioned
where to_regclass(mentioned) is not null
union
select 'function', p.oid from pg_catalog.pg_proc p where p.proname = any ($2::text[])
union
-- o.total is total(o) where the table has no such column.
select 'function', p.oid
from pg_catalog.pg_proc p
join pg_catalog.pg_type t on t.oid = p.proargtypes[0]
where p.proname = any ($3::text[]) and p.pronargs = 1 and t.typtype = 'c' and p.oid >= 16384
union
select 'function', o.oprcode::oid
from pg_catalog.pg_operator o
where o.oprname = any ($4::text[]) and o.oid >= 16384
union
select 'function', c.castfunc
from pg_catalog.pg_cast c
join pg_catalog.pg_proc p on p.oid = c.castfunc
where c.castfunc >= 16384 and p.provolatile <> 'i'
