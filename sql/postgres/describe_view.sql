-- The rule tree of a view.
select r.ev_action::text
from pg_catalog.pg_rewrite r
where r.ev_class = $1::oid and r.rulename = '_RETURN'
