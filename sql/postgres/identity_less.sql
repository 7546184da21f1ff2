-- Tables on which UPDATE and DELETE fail as long as a publication has all tables of the database; the first few.
select format('%I.%I', n.nspname, c.relname) as name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
    and case c.relreplident
        when 'f' then false
        when 'd' then not exists (
            select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate)
        when 'i' then not exists (
            select from pg_index i where i.indrelid = c.oid and i.indisreplident and i.indisvalid and i.indimmediate)
        else true
    end
order by 1
limit 10
