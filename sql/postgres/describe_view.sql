-- The rule tree of a view, and its canonical text: stars expanded, every column qualified.
select r.ev_action::text, pg_catalog.pg_get_viewdef(r.ev_class)
from pg_catalog.pg_rewrite r
where r.ev_class = $1::oid and r.rulename = '_RETURN'
