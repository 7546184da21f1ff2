-- Tables that must not be published: what cannot be published, and what UPDATE and DELETE would then fail on.
-- An index serves as identity when it is valid, unique, immediate and not partial (RelationGetReplicaIndex).
with asked as (
    select c.oid, c.relkind, c.relpersistence, c.relreplident, format('%I.%I', n.nspname, c.relname) as name
    from unnest($1::oid[]) as wanted (oid)
    join pg_class c on c.oid = wanted.oid
    join pg_namespace n on n.oid = c.relnamespace
),
usable as (
    select
        indrelid,
        bool_or(indisprimary) as by_key,
        bool_or(indisreplident) as by_index
    from pg_index
    where indisvalid and indisunique and indimmediate and indpred is null
    group by indrelid
),
-- What UPDATE and DELETE meet: the table itself, or each leaf of a partitioned one.
met as (
    select asked.oid, asked.name, leaf.name as leaf, leaf.relreplident, usable.by_key, usable.by_index
    from asked
    cross join lateral (
        select c.oid, c.relreplident, format('%I.%I', n.nspname, c.relname) as name
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where
            (asked.relkind = 'r' and c.oid = asked.oid)
            or (asked.relkind = 'p' and c.oid in (
                select t.relid from pg_partition_tree(asked.oid) t where t.isleaf and t.relid <> asked.oid
            ))
    ) as leaf
    left join usable on usable.indrelid = leaf.oid
)
select oid, name, 'it is not an ordinary, permanent table' as reason, '' as fix
from asked
where relkind not in ('r', 'p') or relpersistence <> 'p'
union all
-- Partitions made later take the primary key from the root, but never REPLICA IDENTITY.
select asked.oid, asked.name, 'it is partitioned and has no primary key',
    format('alter table %s add primary key (…);', asked.name)
from asked
left join usable on usable.indrelid = asked.oid
where asked.relkind = 'p' and asked.relpersistence = 'p' and not coalesce(usable.by_key, false)
union all
select met.oid, met.name, 'it has no usable replica identity',
    format('alter table %s replica identity %s;', leaf, case when met.by_key then 'default' else 'full' end)
from met
join asked on asked.oid = met.oid and asked.relpersistence = 'p'
left join usable on usable.indrelid = asked.oid
where (asked.relkind = 'r' or usable.by_key) and not case met.relreplident
    when 'f' then true
    when 'd' then coalesce(met.by_key, false)
    when 'i' then coalesce(met.by_index, false)
    else false
end
order by name, fix
