/* kck
description = "What was ordered since midnight; midnight is announced by no row, so an answer holds ten seconds"
result = "value"
expire = "10s"
*/
select coalesce(sum(o.total), 0) as revenue
from orders o
where o.placed_at >= date_trunc('day', now())
