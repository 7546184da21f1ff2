-- Someone orders up to three products; one unit of each leaves a warehouse.
with chosen as materialized (
    select row_number() over () as line_number, id as product_id, price
    from (select id, price from products order by random() limit 3) offered
),
placed as (
    insert into orders (customer_id, total)
    select 1 + floor(random() * (select count(*) from customers))::bigint, sum(price)
    from chosen
    returning id, customer_id
),
lines as (
    insert into order_lines (order_id, line_number, product_id, quantity, price)
    select placed.id, line_number, product_id, 1, price
    from placed, chosen
),
taken as (
    update stock set quantity = quantity - 1
    from chosen
    where stock.product_id = chosen.product_id and stock.warehouse = 'east'
)
select 'open_orders/' || customer_id as key from placed
