-- What relations ($1, each read as role $2; 0 is the current one), functions ($3) and operators ($4) read in
-- turn: 'view', 'policy' and 'body' are node trees with the role they run as; 'relation' and 'function' are oids.
with asked as (
    select c.oid, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, a.role,
        coalesce(nullif(a.role, 0), (select oid from pg_catalog.pg_roles where rolname = current_user)) as reader,
        coalesce((select o.option_value::boolean from pg_catalog.pg_options_to_table(c.reloptions) o
            where o.option_name = 'security_invoker'), false) as invoker
    from unnest($1::oid[], $2::oid[]) as a (oid, role)
    join pg_catalog.pg_class c on c.oid = a.oid
), called as (
    select p.oid, p.prosqlbody, case when p.prosecdef then p.proowner else 0 end as role
    from pg_catalog.pg_proc p
    where p.oid = any ($3::oid[])
), rules as (
    select a.oid, r.oid as rule, r.ev_action::text as tree, case when a.invoker then 0 else a.relowner end as role
    from asked a
    join pg_catalog.pg_rewrite r on r.ev_class = a.oid and r.rulename = '_RETURN'
    where a.relkind = 'v'
)
select 'view' as kind, oid, tree, role from rules
union all
select 'policy', a.oid, p.polqual::text, a.role
from asked a
join pg_catalog.pg_roles o on o.oid = a.reader
join pg_catalog.pg_policy p on p.polrelid = a.oid and p.polcmd in ('r', '*') and p.polqual is not null
where a.relrowsecurity and not o.rolsuper and not o.rolbypassrls
    and (a.relforcerowsecurity or not pg_catalog.pg_has_role(a.reader, a.relowner, 'USAGE'))
union all
select 'body', oid, prosqlbody::text, role from called where prosqlbody is not null
union all
-- What the trees say is what runs; what Postgres recorded beside it must not be less.
select case when d.refclassid = 'pg_catalog.pg_class'::regclass then 'relation' else 'function' end, d.refobjid, null, r.role
from rules r
join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.rule
    and d.refclassid in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass)
union all
select case when d.refclassid = 'pg_catalog.pg_class'::regclass then 'relation' else 'function' end, d.refobjid, null, c.role
from called c
join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = c.oid
    and d.refclassid in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass)
union all
select 'function', f.oid, null, c.role
from called c
join pg_catalog.pg_aggregate g on g.aggfnoid = c.oid
cross join lateral (
    values (g.aggtransfn::oid), (g.aggfinalfn::oid), (g.aggmtransfn::oid), (g.aggminvtransfn::oid), (g.aggmfinalfn::oid)
) as f (oid)
where f.oid <> 0
union all
select 'function', o.oprcode::oid, null, 0
from pg_catalog.pg_operator o
where o.oid = any ($4::oid[]) and o.oprcode <> 0
