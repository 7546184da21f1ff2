/* kck
description = "Where one product lies, and how many of it"
*/
select s.warehouse, s.quantity
from stock s
where s.product_id = :product_id
order by s.warehouse
