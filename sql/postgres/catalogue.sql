-- What the stream does not say of relations ($1, with how many columns of each are known: $4), functions ($2) and
-- types ($3): for each that still exists a hash of its definition, one of what its rows lie in, and one of the
-- columns beyond those that are known; and first, in a row of its own, the insert position.
-- Catalogue rows count by their xmin, so that dropping and making again shows. CREATE INDEX, ANALYZE, VACUUM
-- and CLUSTER change nothing here. An array out of a subquery counts as ten rows whatever it holds, so that one
-- plan by indexes serves always: planned for the arrays themselves, compiling it takes longer than running it.
with recursive below (root, oid) as (
    select i.inhparent, i.inhrelid
    from unnest(array(select unnest($1::oid[]))) as asked (oid)
    join pg_catalog.pg_inherits i on i.inhparent = asked.oid
    union
    select b.root, i.inhrelid
    from below b
    join pg_catalog.pg_inherits i on i.inhparent = b.oid
), parts (root, oid) as (
    select t.oid, t.oid
    from unnest(array(select unnest($3::oid[]))) as t (oid)
    union
    select p.root, part.oid
    from parts p
    join pg_catalog.pg_type t on t.oid = p.oid
    cross join lateral (
        select t.typbasetype
        union all
        select t.typelem
        union all
        select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
        union all
        select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0
    ) as part (oid)
    where part.oid >= 16384
)
select 'position' as kind, 0::oid as oid, 0::int2 as columns,
    pg_catalog.pg_current_wal_insert_lsn()::text as definition, '' as state, '' as growth
union all
select 'relation', c.oid, asked.columns,
    md5(concat_ws('|', c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relowner, c.relrowsecurity,
        c.relforcerowsecurity, c.relispartition, c.reloptions,
        (select string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated,
                a.attisdropped, a.xmin), ',' order by a.attnum)
            from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum between 1 and asked.columns),
        (select string_agg(concat_ws(' ', d.oid, d.xmin), ',' order by d.oid)
            from pg_catalog.pg_attrdef d
            join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attgenerated <> ''
            where d.adrelid = c.oid and a.attnum <= asked.columns),
        (select string_agg(concat_ws(' ', r.oid, r.xmin), ',' order by r.oid)
            from pg_catalog.pg_rewrite r where r.ev_class = c.oid and r.ev_type = '1'),
        (select string_agg(concat_ws(' ', p.oid, p.xmin), ',' order by p.oid)
            from pg_catalog.pg_policy p where p.polrelid = c.oid))),
    md5(concat_ws('|', c.relreplident,
        -- Where a file of rows is exchanged under the reader and no row says so.
        case when c.relkind = 'm' or c.relispartition then c.relfilenode end,
        (select string_agg(concat_ws(' ', i.indexrelid, i.indkey, i.indisprimary, i.indisreplident, i.indisvalid,
                i.indimmediate), ',' order by i.indexrelid)
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and (i.indisprimary or i.indisreplident)),
        (select string_agg(concat_ws(' ', i.inhparent, i.xmin), ',' order by i.inhparent)
            from pg_catalog.pg_inherits i where i.inhrelid = c.oid),
        (select string_agg(concat_ws(' ', l.oid, case when l.relispartition then l.relfilenode end, l.relkind, l.relpersistence, l.relreplident, i.xmin), ','
                order by l.oid, i.xmin::text)
            from below b
            join pg_catalog.pg_class l on l.oid = b.oid
            join pg_catalog.pg_inherits i on i.inhrelid = l.oid
            where b.root = c.oid))),
    md5((select string_agg(concat_ws(' ', a.attnum, a.attisdropped, a.xmin), ',' order by a.attnum)
        from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > asked.columns))
from unnest(array(select unnest($1::oid[])), array(select unnest($4::int2[]))) as asked (oid, columns)
join pg_catalog.pg_class c on c.oid = asked.oid
union all
select 'function', p.oid, 0::int2,
    md5(concat_ws('|', p.xmin, (select g.xmin from pg_catalog.pg_aggregate g where g.aggfnoid = p.oid))), '', ''
from unnest(array(select unnest($2::oid[]))) as asked (oid)
join pg_catalog.pg_proc p on p.oid = asked.oid
union all
select 'type', p.root, 0::int2,
    md5(string_agg(concat_ws('|', t.oid, t.typname, t.typnamespace, t.xmin,
        (select string_agg(concat_ws(' ', e.enumlabel, e.enumsortorder), ',' order by e.enumsortorder)
            from pg_catalog.pg_enum e where e.enumtypid = t.oid),
        (select string_agg(concat_ws(' ', k.oid, k.xmin), ',' order by k.oid)
            from pg_catalog.pg_constraint k where k.contypid = t.oid),
        (select string_agg(concat_ws(' ', a.attnum, a.xmin), ',' order by a.attnum)
            from pg_catalog.pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0)), ';' order by t.oid)), '', ''
from unnest(array(select root from parts), array(select oid from parts)) as p (root, oid)
join pg_catalog.pg_type t on t.oid = p.oid
group by p.root
