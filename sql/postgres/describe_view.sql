-- The rule tree of a view, its canonical text (stars expanded, every column qualified), and whether the server keeps the
-- lowest byte of a number first: the tree holds constants as they lie in memory.
select r.ev_action::text, pg_catalog.pg_get_viewdef(r.ev_class),
    pg_catalog.version() ~ ' on (x86_64|i[3-6]86|aarch64|arm|riscv64|powerpc64le|ppc64le|loongarch64)' as little_endian
from pg_catalog.pg_rewrite r
where r.ev_class = $1::oid and r.rulename = '_RETURN'
