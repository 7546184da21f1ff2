-- A publication as it is; tables with what restricts them (15 and later, hence as JSON).
select
    p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate as all_actions,
    p.pubviaroot as via_root,
    array(
        select r.prrelid from pg_publication_rel r where r.prpubid = p.oid order by r.prrelid
    ) as tables,
    array(
        select r.prrelid from pg_publication_rel r
        where r.prpubid = p.oid and to_jsonb(r) ->> 'prqual' is not null
        order by r.prrelid
    ) as filtered,
    array(
        select r.prrelid from pg_publication_rel r
        where r.prpubid = p.oid and to_jsonb(r) ->> 'prattrs' is not null
        order by r.prrelid
    ) as narrowed,
    -- Who drops a table from it and adds it again, or changes what it sends and back, leaves no other trace.
    p.oid::text || ' ' || p.xmin::text as row,
    array(
        select r.oid::text || ' ' || r.xmin::text from pg_publication_rel r
        where r.prpubid = p.oid
        order by r.prrelid
    ) as rows,
    -- It has tables that neither it nor a partitioned ancestor is named for: all of the database, or of a schema.
    p.puballtables or exists (
        select from pg_publication_tables t
        join pg_namespace n on n.nspname = t.schemaname
        join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
        where t.pubname = p.pubname and not exists (
            select from pg_publication_rel r
            where r.prpubid = p.oid
                and (r.prrelid = c.oid or r.prrelid in (select pg_partition_ancestors(c.oid)))
        )
    ) as unnamed
from pg_publication p
where p.pubname = $1
