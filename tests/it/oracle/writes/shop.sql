-- Domains, a line each; then statements, a line each, with {domain} for a value. After "rarely" come those that
-- are seldom right for a shop, after "definitions" those that change no row of an answer.

-- customer: 1..12
-- customer2: 1..12
-- order: 1..32
-- order2: 1..32
-- good: 1..8
-- position: 0..4
-- qty: 0..8
-- amount: 0..40
-- employee: 1..14
-- payment: 1..30
-- day: 0..12
-- hour: 0..500
-- state: 'open' | 'paid' | 'shipped' | 'cancelled' | null
-- region: 'north' | 'south' | 'east' | 'west' | 'new' | 'o''dd/é%?&"\' | null
-- code: 'north' | 'south' | 'east' | 'west' | 'new' | 'o''dd/é%?&"\'
-- name: 'bob' | ' Ann ' | 'o''Neil/é %?&' | '' | 'a+b=c;d"e\f' | 'Name 3' | 'ANN' | '%'
-- method: 'card' | 'cash' | null
-- manager: 0 | 1 | 2 | 9 | null

insert into customers values ({customer}, {name}, (select code from regions where code = {region}), {day} < 4, date '2026-01-01' + {day}) on conflict do nothing
insert into customers values ({customer}, {name}, (select code from regions where code = {region}), true) on conflict (id) do update set name = excluded.name, region = excluded.region
update customers set region = (select code from regions where code = {region}) where id = {customer}
update customers set name = {name} where id = {customer}
update customers set vip = not vip, since = since + 1 where id in ({customer}, {customer2})
update customers set visits = visits + 1 where id = {customer}
update customers set visits = visits + 1
update customers set id = -1 where id = {customer}; update customers set id = {customer} where id = {customer2}; update customers set id = {customer2} where id = -1
update customers set id = {customer2} where id = {customer}
delete from customers where id = {customer} and {day} < 3
insert into regions values ({code}, 'Region', {manager}) on conflict (code) do update set manager = excluded.manager
update regions set manager = {manager} where code = {code}
update regions set code = {code} where code = 'new'
delete from regions where code = {code} and {day} < 3
insert into orders values ({order}, (select id from customers where id = {customer}), {state}, {amount} + 0.5, timestamptz '2026-01-01 00:00Z' + {hour} * interval '1 hour') on conflict do nothing
insert into orders values ({order}, (select id from customers where id = {customer}), {state}, {amount}, timestamptz '2026-01-02 00:00Z') on conflict (id) do update set customer_id = excluded.customer_id, total = orders.total + 1
update orders set customer_id = (select id from customers where id = {customer}) where id = {order}
update orders set customer_id = null where id = {order}
update orders set state = {state} where id = {order}
update orders set state = {state} where customer_id = {customer}
update orders set total = {amount} where id in ({order}, {order2})
update orders set total = null where id = {order}
update orders set total = total * 1.5 where customer_id = {customer} and total < 500
update orders set placed_at = placed_at + {day} * interval '11 hours' where id = {order}
update orders set deleted_at = case when deleted_at is null then timestamptz '2026-02-02 00:00Z' end where id = {order}
update orders set id = {order2} where id = {order}
update orders set id = -1 where id = {order}; update orders set id = {order} where id = {order2}; update orders set id = {order2} where id = -1
update orders set total = total + 1 where id = {order}; update orders set customer_id = (select id from customers where id = {customer}) where id = {order}; update orders set total = total + 1 where id = {order}
update orders set customer_id = o.customer_id from orders o where o.id = {order} and orders.id = {order2}
delete from orders where id = {order}
insert into goods values ({good}, 'sku-' || {good}, {amount}, 'kind ' || {good} % 3) on conflict (id) do update set price = excluded.price
update goods set sku = 'sku-' || {good} || '-' || {day} where id = {good}
update goods set price = price + 1 where kind = 'kind ' || {good} % 3
update goods set id = {good} where id = {position} + 1
delete from goods where id = {good} and {day} < 5
insert into items select {order}, {position}, (select id from goods where id = {good}), {qty}, {amount} where exists (select from orders where id = {order}) on conflict do nothing
insert into items select {order}, {position}, (select id from goods where id = {good}), {qty}, {amount} where exists (select from orders where id = {order}) on conflict (order_id, position) do update set qty = excluded.qty, goods_id = excluded.goods_id
update items set qty = {qty} where order_id = {order}
update items set order_id = {order2} where order_id = {order} and exists (select from orders where id = {order2})
update items set goods_id = (select id from goods where id = {good}) where position = {position} and order_id between {order} and {order} + 6
update items set position = position + 10 where order_id = {order}; update items set position = position - 10 where order_id = {order}
update items set price = null where order_id = {order} and position = {position}
delete from items where order_id = {order}
insert into payments values ({payment}, (select id from orders where id = {order}), {amount} * 1.1, {method}, date '2026-01-01' + {day}) on conflict do nothing
update payments set order_id = (select id from orders where id = {order}) where id = {payment}
update payments set amount = amount + 1, method = {method} where id = {payment}
update payments set paid_on = date '2026-01-01' + {day} where id = {payment}
delete from payments where id = {payment}
insert into employees values ({employee}, nullif({position}, 0), 'e' || {employee}, {region}) on conflict do nothing
update employees set manager_id = nullif({position}, 0) where id = {employee}
update employees set name = 'new' where id = {position}
update employees set name = 'e' || id where name = 'new'
update employees set region = {region} where id = {employee}
update employees set id = {employee} where id = {position}
delete from employees where id = {employee} and {day} < 4

-- rarely
truncate items
truncate payments
truncate employees
truncate orders cascade
truncate customers cascade; insert into customers select n, 'Name ' || n, (select min(code) from regions) from generate_series(1, 6) n
truncate payments; insert into payments select n, (select min(id) from orders where id > n), n, 'card', date '2026-01-01' + n from generate_series(1, 20) n
update orders set total = total + 0.25
update orders set state = 'open'
update customers set region = (select code from regions where code = {region})
insert into orders select n, (select max(id) from customers where id <= n), 'paid', n, timestamptz '2026-01-01 00:00Z' + n * interval '7 hours' from generate_series(1, 26) n on conflict do nothing
insert into items select o.id, p, (select min(id) from goods where id > o.id % 6), p + 2, o.id from orders o, generate_series(0, 2) p on conflict do nothing
insert into employees select n, nullif(n / 3, 0), 'e' || n, (array['north', 'south', null])[n % 3 + 1] from generate_series(1, 12) n on conflict do nothing
insert into goods select n, 'sku-' || n, n * 2.25, 'kind ' || n % 3 from generate_series(1, 6) n on conflict do nothing
insert into regions select r, 'Region ' || r, 1 from unnest(array['north', 'south', 'east', 'west']) r on conflict do nothing

-- definitions
create index if not exists oracle_orders_total on orders (total)
drop index if exists oracle_orders_total
alter table orders add column if not exists unheard text default 'x'
alter table orders drop column if exists unheard
alter table items add column if not exists unheard int
alter table items drop column if exists unheard
alter table payments add column if not exists unheard int default 3
alter table payments drop column if exists unheard
