-- What kck's role may do with relations, by oid ($2) and by the names that statements mention ($1), as one JSON
-- document. A name without a schema is looked for where the role's search_path leads, whether it may look there or
-- not.
with path as (
    select case btrim(name, ' "') when '$user' then current_user else btrim(name, ' "') end as schema
    from unnest(string_to_array(current_setting('search_path'), ',')) as s (name)
), mentioned as (
    select parse_ident(name) as parts from unnest($1::text[]) as m (name)
), found as (
    select c.oid, true as mentioned
    from mentioned m
    join pg_class c on c.relname = m.parts[cardinality(m.parts)] and c.relkind in ('r', 'p', 'v', 'm', 'f')
    join pg_namespace n on n.oid = c.relnamespace
    where case
        when cardinality(m.parts) > 1 then n.nspname = m.parts[cardinality(m.parts) - 1]
        else n.nspname in (select schema from path)
    end
    union all
    select oid, false from unnest($2::oid[]) as t (oid)
)
select coalesce(jsonb_agg(jsonb_build_object(
    'table', c.oid::bigint,
    'name', format('%I.%I', n.nspname, c.relname),
    'quoted_schema', format('%I', n.nspname),
    'mentioned', f.mentioned,
    'system', n.nspname in ('pg_catalog', 'information_schema'),
    'publishable', c.relkind in ('r', 'p') and c.relpersistence = 'p',
    'partitioned', c.relkind = 'p',
    'usage', has_schema_privilege(n.oid, 'USAGE'),
    'selects', has_table_privilege(c.oid, 'SELECT') or has_any_column_privilege(c.oid, 'SELECT'),
    'owned', pg_has_role(c.relowner, 'USAGE'),
    'generated', (
        select coalesce(jsonb_agg(a.attname order by a.attname), '[]') from pg_attribute a
        where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped
    )
) order by n.nspname, c.relname), '[]')::text
from (select oid, bool_or(mentioned) as mentioned from found group by oid) as f
join pg_class c on c.oid = f.oid
join pg_namespace n on n.oid = c.relnamespace
