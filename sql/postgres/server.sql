-- What the server and kck's role in it are like, as one JSON document; $1 is the slot's name, $2 the publication's.
-- Rows of other roles' sessions that this role may not see count as nothing.
select jsonb_build_object(
    'version', current_setting('server_version'),
    'address', host(inet_server_addr()),
    'port', inet_server_port(),
    'clock_micros', (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    'tls', (select s.version from pg_stat_ssl s where s.pid = pg_backend_pid() and s.ssl),
    'settings', (
        select jsonb_object_agg(s.name, s.setting) from pg_settings s
        where s.name in (
            'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size', 'idle_replication_slot_timeout',
            'wal_sender_timeout', 'synchronous_standby_names', 'synchronized_standby_slots',
            'logical_decoding_work_mem', 'idle_session_timeout', 'transaction_timeout', 'server_encoding'
        )
    ),
    'role', (
        select jsonb_build_object(
            'name', r.rolname,
            'superuser', r.rolsuper,
            'replication', r.rolsuper or r.rolreplication or exists (
                select from pg_roles g
                where g.rolname = 'rds_replication' and pg_has_role(r.oid, g.oid, 'MEMBER')
            ),
            'creates_databases', r.rolcreatedb,
            'creates_roles', r.rolcreaterole,
            'may_publish', has_database_privilege(current_database(), 'CREATE'),
            'may_describe', has_database_privilege(current_database(), 'TEMP'),
            'owns_publication', (select pg_has_role(p.pubowner, 'USAGE') from pg_publication p where p.pubname = $2)
        ) from pg_roles r where r.rolname = current_user
    ),
    -- The name that a role for kck would get.
    'knows_kck', exists (select from pg_roles r where r.rolname = 'kck'),
    -- What only some hosts have.
    'roles', (
        select coalesce(jsonb_agg(r.rolname order by r.rolname), '[]') from pg_roles r
        where r.rolname in (
            'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'supabase_admin', 'neon_superuser',
            'crunchy_superuser', '_aiven', 'doadmin'
        )
    ),
    'prefixes', (
        select coalesce(jsonb_agg(distinct split_part(s.name, '.', 1)), '[]') from pg_settings s
        where s.name like '%.%'
    ),
    'slots', (
        select coalesce(jsonb_agg(jsonb_build_object(
            'name', s.slot_name,
            'active', s.active,
            'physical', s.slot_type = 'physical',
            'retained_bytes', case when not pg_is_in_recovery() then
                greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint end
        ) order by s.slot_name), '[]') from pg_replication_slots s
    ),
    'walsenders', (select count(*) from pg_stat_replication),
    'standbys', (
        select count(*) from pg_stat_replication r
        where coalesce(r.state, 'streaming') in ('catchup', 'streaming') and not exists (
            select from pg_replication_slots s where s.slot_type = 'logical' and s.active_pid = r.pid
        )
    ),
    'spilled_bytes', (
        select coalesce(sum(s.spill_bytes), 0)::bigint from pg_stat_replication_slots s where s.slot_name = $1
    ),
    'long', (
        select coalesce(jsonb_agg(jsonb_build_object(
            'pid', l.pid, 'name', l.application_name, 'minutes', l.minutes) order by l.minutes desc), '[]')
        from (
            select a.pid, a.application_name, (extract(epoch from now() - a.xact_start) / 60)::bigint as minutes
            from pg_stat_activity a
            where a.xact_start < now() - interval '5 minutes' and a.backend_type = 'client backend'
                and a.pid <> pg_backend_pid()
            order by a.xact_start
            limit 5
        ) as l
    ),
    'prepared', (
        select coalesce(jsonb_agg(p.gid order by p.gid), '[]')
        from (
            select p.gid from pg_prepared_xacts p
            where p.prepared < now() - interval '5 minutes' and p.database = current_database()
            order by p.prepared
            limit 5
        ) as p
    )
)::text
