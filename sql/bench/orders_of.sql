select o.id, o.state, o.total
from orders o
where o.customer_id = :customer_id
order by o.id
