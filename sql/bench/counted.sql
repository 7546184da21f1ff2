-- Statements since the last reset, by who sent them and what for; the measurement's own are left out.
select
    case
        when r.rolname = 'application' and s.query ilike 'select%' then 'reads'
        when r.rolname = 'application' then 'writes'
        when s.query like '%paced\_total%' then 'paced'
        when s.query like '%kck\_keys%' then 'products'
        when s.query ~ '^select -?\$?[0-9]+, pg_catalog.pg_current_wal_insert_lsn' then 'lookups'
        else 'housekeeping'
    end,
    sum(s.calls)::bigint,
    sum(s.total_exec_time)::float8
from pg_stat_statements s
join pg_roles r on r.oid = s.userid
where s.query not like '%pg\_stat\_statements%' and s.query not like 'alter role%'
group by 1
