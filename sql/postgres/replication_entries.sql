-- Lines of pg_hba.conf by which the current role may take a physical copy of the whole server: those for the
-- keyword `replication`.
select coalesce(array_agg(h.line_number order by h.line_number), '{}')
from pg_hba_file_rules h
where 'replication' = any (h.database)
    and (h.user_name && array['all', current_user::text])
    and h.auth_method <> 'reject'
