-- Asked over the replication connection before it streams, in the simple protocol, which has no parameters:
-- {slot} is a quoted literal. One row, whether the slot exists or not.
select
    pg_is_in_recovery(),
    (select setting from pg_settings where name = 'wal_sender_timeout'),
    s.slot_name is not null,
    s.plugin,
    s.database is not distinct from current_database(),
    s.wal_status,
    s.confirmed_flush_lsn,
    s.active_pid,
    a.application_name,
    a.client_addr
from (select) as one
left join pg_replication_slots s on s.slot_name = {slot}
left join pg_stat_activity a on a.pid = s.active_pid
