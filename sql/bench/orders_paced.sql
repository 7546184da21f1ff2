/* kck
min_interval = "1s"
*/
select o.id, o.state, o.total + 0 as paced_total
from orders o
where o.customer_id = :customer_id
order by o.id
