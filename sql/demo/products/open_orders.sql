/* kck
description = "Orders of one customer that are still to be shipped"
*/
select o.id, o.state, o.total, o.placed_at
from orders o
where o.customer_id = :customer_id and o.state <> 'shipped'
order by o.id
