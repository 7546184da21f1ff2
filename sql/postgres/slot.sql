-- A slot, who reads it, and how much it holds. Columns that older servers lack are asked of the row as JSON.
select
    s.slot_type = 'logical'
    and s.plugin = 'pgoutput'
    and s.database = current_database()
    and not s.temporary as ours,
    s.active_pid as active_pid,
    a.application_name as holder_name,
    a.client_addr::text as holder_address,
    s.wal_status as wal_status,
    s.safe_wal_size as safe_wal_size,
    s.confirmed_flush_lsn::text as confirmed_flush_lsn,
    s.restart_lsn::text as restart_lsn,
    case
        when not pg_is_in_recovery()
        then greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint
    end as retained_bytes,
    to_jsonb(s) ->> 'invalidation_reason' as invalidation_reason,
    coalesce((to_jsonb(s) ->> 'failover')::boolean, false) as failover
from pg_replication_slots s
left join pg_stat_activity a on a.pid = s.active_pid
where s.slot_name = $1
