-- Functions of the user's own ($1) whose body is a text of SQL, each as a statement that makes a twin of it, numbered as
-- here, whose body Postgres has read: what it reads is in its tree then.
select p.oid, case when p.prosecdef then p.proowner else 0 end as role,
    pg_catalog.format('create function pg_temp.kck_twin_%s(%s) returns %s language sql begin atomic%s%s%s; end',
        p.oid, pg_catalog.pg_get_function_arguments(p.oid), pg_catalog.pg_get_function_result(p.oid),
        E'\n', pg_catalog.rtrim(p.prosrc, E'; \t\n\r'), E'\n') as twin
from pg_catalog.pg_proc p
join pg_catalog.pg_language l on l.oid = p.prolang
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where p.oid = any ($1::oid[]) and l.lanname = 'sql' and p.prosqlbody is null and p.prokind = 'f'
    and n.nspname <> 'pg_catalog'
order by p.oid
