/* kck
description = "One order, line by line, with what each product costs today"
*/
select o.state, o.placed_at, o.shipped_at, l.line_number, p.name, l.quantity, l.price, p.price as price_today
from orders o
join order_lines l on l.order_id = o.id
join products p on p.id = l.product_id
where o.id = :order_id
order by l.line_number
