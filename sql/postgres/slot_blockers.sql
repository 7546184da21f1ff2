-- Creating a slot waits for every transaction that has written and still runs: the oldest ones.
select
    coalesce(
        (select string_agg(who, '; ') from (
            select format('pid %s (%s, since %s)', pid, application_name, xact_start) as who
            from pg_stat_activity
            where backend_xid is not null and pid <> pg_backend_pid()
            order by xact_start
            limit 3
        ) as running),
        'nobody any more'
    )
    || coalesce(
        (select '; prepared: ' || string_agg(gid, ', ') from (
            select gid from pg_prepared_xacts order by prepared limit 3
        ) as prepared),
        ''
    )
