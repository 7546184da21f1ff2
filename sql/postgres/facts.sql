-- Who and where the server is; positions only on a primary.
select
    (select system_identifier::text from pg_control_system()) as system_identifier,
    case
        when pg_is_in_recovery() then (select timeline_id::bigint from pg_control_checkpoint())
        -- The checkpoint's timeline lags behind a promotion; the name of the current file does not.
        else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
    end as timeline,
    current_setting('server_version_num')::integer as version_num,
    current_setting('wal_level') as wal_level,
    pg_size_bytes(current_setting('wal_segment_size')) as wal_segment_size,
    pg_is_in_recovery() as in_recovery,
    current_database()::text as database,
    case when not pg_is_in_recovery() then pg_current_wal_insert_lsn()::text end as insert_lsn
