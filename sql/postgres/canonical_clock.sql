-- Whether a type is a date or a time, or is made of one: as a domain, array, range or composite.
with recursive parts (oid) as (
    select $1::oid
    union
    select part.oid
    from parts p
    join pg_catalog.pg_type t on t.oid = p.oid
    cross join lateral (
        values (t.typbasetype), (t.typelem), ((select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid)),
            ((select r.rngsubtype from pg_catalog.pg_range r where r.rngmultitypid = t.oid))
        union all
        select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) as part (oid)
    where part.oid <> 0
)
select exists (
    select from parts
    where oid in ('date'::regtype, 'time'::regtype, 'timetz'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype))
