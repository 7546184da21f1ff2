-- Whether values of types $1 may become parameters of types $2 without being read anew: as an INSERT would take them.
select source.oid = target.oid
    or target.typcategory = 'S'
    or coalesce(nullif(source.typbasetype, 0), source.oid) = coalesce(nullif(target.typbasetype, 0), target.oid)
    or exists (
        select from pg_catalog.pg_cast c
        where c.castsource = coalesce(nullif(source.typbasetype, 0), source.oid)
            and c.casttarget = coalesce(nullif(target.typbasetype, 0), target.oid)
            and c.castcontext in ('i', 'a'))
from unnest($1::oid[], $2::oid[]) with ordinality as asked (source, target, place)
join pg_catalog.pg_type source on source.oid = asked.source
join pg_catalog.pg_type target on target.oid = asked.target
order by asked.place
