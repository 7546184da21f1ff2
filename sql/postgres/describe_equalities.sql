-- Which of these operators ($1) are the equality of the default btree or hash operator class of both their
-- input types.
select o.oid, o.oprleft, o.oprright
from pg_catalog.pg_operator o
where o.oid = any ($1::oid[]) and exists (
    select
    from pg_catalog.pg_amop a
    join pg_catalog.pg_am m on m.oid = a.amopmethod
    join pg_catalog.pg_opclass l on l.opcfamily = a.amopfamily and l.opcdefault and l.opcintype = o.oprleft
    join pg_catalog.pg_opclass r on r.opcfamily = a.amopfamily and r.opcdefault and r.opcintype = o.oprright
    where a.amopopr = o.oid and a.amoppurpose = 's'
        and a.amoplefttype = o.oprleft and a.amoprighttype = o.oprright
        and ((m.amname = 'btree' and a.amopstrategy = 3) or (m.amname = 'hash' and a.amopstrategy = 1)))
order by o.oid
