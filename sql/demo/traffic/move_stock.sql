-- A product is moved to the warehouse that orders are sent from.
with chosen as materialized (select id from products order by random() limit 1),
moved as (
    update stock set quantity = quantity + case warehouse when 'east' then 10 else -5 end
    from chosen
    where product_id = chosen.id
)
select 'stock_of/' || id as key from chosen
