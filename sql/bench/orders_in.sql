select o.id, o.total
from orders o
join customers c on c.id = o.customer_id
where c.region = :region and o.total = 96
order by o.id
