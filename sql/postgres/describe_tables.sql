-- Relations ($1), each read as role $2 (0 is the current one) and by its own name in a tree or not ($3). With
-- them come what rows reach the reader through or are announced under: inheritance children, the root above a
-- named partition, and partitions whose rows nobody announces.
with recursive asked as (
    select a.oid, a.role, a.named,
        coalesce(nullif(a.role, 0), (select oid from pg_catalog.pg_roles where rolname = current_user)) as reader
    from unnest($1::oid[], $2::oid[], $3::bool[]) as a (oid, role, named)
), down (oid, partition) as (
    select i.inhrelid, c.relkind = 'p'
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhparent
    where i.inhparent in (select oid from asked)
    union
    select i.inhrelid, d.partition
    from down d
    join pg_catalog.pg_inherits i on i.inhparent = d.oid
), up (oid) as (
    select i.inhparent
    from asked a
    join pg_catalog.pg_class c on c.oid = a.oid and c.relispartition
    join pg_catalog.pg_inherits i on i.inhrelid = a.oid
    union
    select i.inhparent
    from up u
    join pg_catalog.pg_class c on c.oid = u.oid and c.relispartition
    join pg_catalog.pg_inherits i on i.inhrelid = u.oid
), wanted (oid, role, reader, indirect) as (
    select oid, role, reader, not named from asked
    union
    select d.oid, null, null, true
    from down d
    join pg_catalog.pg_class c on c.oid = d.oid
    where not d.partition or c.relkind = 'f' or c.relpersistence <> 'p'
    union
    select u.oid, null, null, true
    from up u
    join pg_catalog.pg_class c on c.oid = u.oid
    where not c.relispartition
), secured as (
    select w.oid, bool_or(w.indirect) as indirect,
        bool_or(coalesce(c.relrowsecurity and not o.rolsuper and not o.rolbypassrls
            and (c.relforcerowsecurity or not pg_catalog.pg_has_role(w.reader, c.relowner, 'USAGE')), false)) as row_security,
        bool_and(w.role is distinct from 0 or pg_catalog.has_table_privilege(c.oid, 'select')
            or pg_catalog.has_any_column_privilege(c.oid, 'select')) as readable
    from wanted w
    join pg_catalog.pg_class c on c.oid = w.oid
    left join pg_catalog.pg_roles o on o.oid = w.reader
    group by w.oid
)
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
    n.nspname in ('pg_catalog', 'information_schema', 'pg_toast') as system,
    s.row_security,
    -- UPDATE and DELETE on a published table fail without one; those on a partition use the partition's own, and
    -- partitions made later take the primary key from the root, but never REPLICA IDENTITY.
    (c.relkind <> 'p' or exists (
        select
        from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate))
    and not exists (
        select
        from (
            select c.oid
            where c.relkind <> 'p'
            union all
            select t.relid
            from pg_catalog.pg_partition_tree(c.oid) t
            where c.relkind = 'p' and t.isleaf and t.relid <> c.oid
        ) as met (oid)
        join pg_catalog.pg_class l on l.oid = met.oid
        where l.relreplident <> 'f' and not exists (
            select
            from pg_catalog.pg_index i
            where i.indrelid = l.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
                and ((l.relreplident = 'd' and i.indisprimary) or (l.relreplident = 'i' and i.indisreplident)))
    ) as identity,
    s.indirect, s.readable, columns.numbers, columns.names, columns.types,
    coalesce((select i.indkey::int2[] from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary), '{}') as key,
    -- What UPDATE and DELETE tell of the old row; null is all of it. Of a partition they tell what its own identity says,
    -- under the root's name and in the root's form: as whole rows where the root has REPLICA IDENTITY FULL.
    case
        when leaves.identities = '{f}' and (c.relkind = 'p' or c.relreplident = 'f') then null
        when c.relkind = 'p' and not leaves.identities <@ '{d,f}' then '{}'
        when c.relkind = 'p' then coalesce((
            select i.indkey::int2[] from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary), '{}')
        else coalesce((
            select i.indkey::int2[]
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end), '{}')
    end as replicated,
    coalesce((
        select array_agg(distinct i.indkey[0])
        from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indpred is null and i.indkey[0] > 0), '{}') as indexed,
    leaves.names as leaves
from secured s
join pg_catalog.pg_class c on c.oid = s.oid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select coalesce(array_agg(a.attnum order by a.attnum), '{}') as numbers,
        coalesce(array_agg(a.attname::text order by a.attnum), '{}') as names,
        coalesce(array_agg(a.atttypid order by a.attnum), '{}') as types
    from pg_catalog.pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
) as columns
cross join lateral (
    select coalesce(array_agg(distinct l.relreplident::text), '{}') as identities,
        coalesce(array_agg(pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.relname) order by l.oid)
            filter (where l.oid <> c.oid), '{}') as names
    from (
        select c.oid
        where c.relkind <> 'p'
        union all
        select t.relid from pg_catalog.pg_partition_tree(c.oid) t where c.relkind = 'p' and t.isleaf and t.relid <> c.oid
    ) as met (oid)
    join pg_catalog.pg_class l on l.oid = met.oid
    join pg_catalog.pg_namespace ln on ln.oid = l.relnamespace
) as leaves
order by c.oid
