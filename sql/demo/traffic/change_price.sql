-- A product gets another price, which shows in every order of it.
with changed as (
    update products set price = round((5 + 95 * random())::numeric, 2)
    where id = (select id from products order by random() limit 1)
    returning id
)
select 'order_by_id/' || max(l.order_id) as key
from order_lines l
join changed on changed.id = l.product_id
