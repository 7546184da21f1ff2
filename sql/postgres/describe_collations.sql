-- Which of these collations ($1) call texts equal that differ.
select c.oid
from pg_catalog.pg_collation c
where c.oid = any ($1::oid[]) and not c.collisdeterministic
order by c.oid
