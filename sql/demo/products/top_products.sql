/* kck
description = "The ten products that sold best"
*/
select p.id, p.name, sum(l.quantity) as sold
from order_lines l
join products p on p.id = l.product_id
group by p.id, p.name
order by sold desc, p.id
limit 10
