-- Which of these transactions (virtual id, space, own id or nothing) have not ended.
select writer
from unnest($1::text[]) as asked (writer)
where exists (
    select from pg_locks l
    where
        l.virtualtransaction = split_part(writer, ' ', 1)
        or (
            l.locktype = 'transactionid'
            and l.granted
            and l.transactionid::text = split_part(writer, ' ', 2)
        )
)
