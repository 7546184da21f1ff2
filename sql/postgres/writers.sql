-- Transactions that may have written rows of these tables or their partitions (R11): whoever holds ROW EXCLUSIVE
-- or what TRUNCATE and rewriting ALTERs take. Modes that write no rows (VACUUM, CREATE INDEX) are left out.
-- A prepared transaction has no process. The transaction's own id is given too: it outlives PREPARE TRANSACTION.
with watched as (
    select wanted.oid from unnest($1::oid[]) as wanted (oid)
    union
    select tree.relid
    from unnest($1::oid[]) as wanted (oid)
    join pg_class c on c.oid = wanted.oid and c.relkind = 'p'
    cross join lateral pg_partition_tree(wanted.oid) as tree
)
select distinct held.virtualtransaction || ' ' || coalesce(own.transactionid::text, '') as writer
from pg_locks held
left join pg_locks own
    on own.locktype = 'transactionid'
    and own.virtualtransaction = held.virtualtransaction
    and own.granted
    and own.mode = 'ExclusiveLock'
where
    held.locktype = 'relation'
    and held.database = (select oid from pg_database where datname = current_database())
    and held.relation in (select oid from watched)
    and held.granted
    and held.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    and held.pid is distinct from pg_backend_pid()
