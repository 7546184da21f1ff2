-- What these operators ($1) mean, by the default btree or hash operator classes of both their input types; an
-- operator whose negator is such an equality means unequal.
with compared as (
    select a.amopopr as oid, case when m.amname = 'hash' then 3 else a.amopstrategy end as strategy
    from pg_catalog.pg_amop a
    join pg_catalog.pg_am m on m.oid = a.amopmethod
    join pg_catalog.pg_opclass l on l.opcfamily = a.amopfamily and l.opcdefault and l.opcintype = a.amoplefttype
    join pg_catalog.pg_opclass r on r.opcfamily = a.amopfamily and r.opcdefault and r.opcintype = a.amoprighttype
    where a.amoppurpose = 's' and (m.amname = 'btree' or (m.amname = 'hash' and a.amopstrategy = 1))
        and a.amopopr in (
            select o.oid from pg_catalog.pg_operator o where o.oid = any ($1::oid[])
            union
            select o.oprnegate from pg_catalog.pg_operator o where o.oid = any ($1::oid[]))
)
select distinct o.oid, c.strategy::int4, o.oprleft, o.oprright
from pg_catalog.pg_operator o
join compared c on c.oid = o.oid
where o.oid = any ($1::oid[])
union
select o.oid, 0, o.oprleft, o.oprright
from pg_catalog.pg_operator o
join compared c on c.oid = o.oprnegate and c.strategy = 3
where o.oid = any ($1::oid[]) and o.oid not in (select oid from compared)
order by 1
