-- The labels of those of these types ($1) that are enums.
select e.enumtypid, e.oid, e.enumlabel::text
from pg_catalog.pg_enum e
where e.enumtypid = any ($1::oid[])
order by e.oid
