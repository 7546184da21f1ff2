-- Names of tables that exist, quoted for a statement, in the order of the question.
select wanted.oid as oid, format('%I.%I', n.nspname, c.relname) as name
from unnest($1::oid[]) with ordinality as wanted (oid, number)
join pg_class c on c.oid = wanted.oid
join pg_namespace n on n.oid = c.relnamespace
order by wanted.number
