-- Types by oid and modifier, in their order, named so that the name is good in a cast whatever the search_path.
select t.oid,
    case
        when n.nspname = 'pg_catalog' then format_type(t.oid, asked.modifier)
        else quote_ident(n.nspname) || '.' || quote_ident(named.typname) || case when named.oid <> t.oid then '[]' else '' end
    end,
    t.typtype::text
from unnest($1::oid[], $2::int4[]) with ordinality as asked (oid, modifier, place)
join pg_catalog.pg_type t on t.oid = asked.oid
join pg_catalog.pg_type named on named.oid = coalesce(
    (select element.oid from pg_catalog.pg_type element where element.oid = t.typelem and element.typarray = t.oid), t.oid)
join pg_catalog.pg_namespace n on n.oid = named.typnamespace
order by asked.place
