-- The oldest order that is not paid is paid.
update orders set state = 'paid'
where id = (select min(id) from orders where state = 'placed')
returning 'open_orders/' || customer_id as key
