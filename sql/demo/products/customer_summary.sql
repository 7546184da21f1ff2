/* kck
description = "One customer and what they ordered so far"
result = "row"
*/
select
    c.id, c.name, c.city,
    count(o.id) as orders,
    count(o.id) filter (where o.state <> 'shipped') as open_orders,
    coalesce(sum(o.total), 0) as spent,
    max(o.placed_at) as last_order
from customers c
left join orders o on o.customer_id = c.id
where c.id = :customer_id
group by c.id, c.name, c.city
