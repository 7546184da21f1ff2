-- The oldest paid order is shipped.
update orders set state = 'shipped', shipped_at = now()
where id = (select min(id) from orders where state = 'paid')
returning 'customer_summary/' || customer_id as key
