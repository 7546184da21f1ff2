-- Each product: its name with its parameters, the form of its answer if that is not rows, and its keys.

-- customer_orders(c bigint): 1 | 2 | 3 | 8 | 77
select id, state, total, placed_at from orders where customer_id = :c order by id;

-- customer_open(c bigint): 1 | 2 | 5 | 77
select id, total, placed_at from orders
where customer_id = :c and state = 'open' and deleted_at is null order by placed_at desc, id;

-- customer_running(c bigint): 1 | 2 | 6
select id, state from orders where customer_id = :c and state in ('open', 'paid') order by id;

-- customer_deleted(c bigint): 1 | 3 | 6
select id, deleted_at from orders where deleted_at is not null and customer_id = :c order by id;

-- customer_or_order(n bigint): 1 | 4 | 30
select id, customer_id from orders where customer_id = :n or id = :n order by id;

-- order_large_items(o bigint): 1 | 2 | 9 | 31
select position, qty, price from items where order_id = :o and qty > 3 order by position;

-- order_worth(o bigint): 1 | 5 | 12
select position, total from items where order_id = :o and total > 4 order by position;

-- orders_in_state(s order_state): open | paid | cancelled
select id, customer_id, total from orders where state = :s order by id;

-- through_two_views(c bigint): 1 | 2 | 77
select id, total, placed_at from open_orders where customer_id = :c order by id;

-- region_located(r text): north | east | nowhere
select id, customer_id, total from located_orders where region = :r order by id;

-- customer_total(c bigint) row: 1 | 2 | 77
select n, total from customer_totals where customer_id = :c;

-- region_orders(r text): north | south | new | o'dd/é%?&"\
select o.id, o.state, c.name from orders o join customers c on c.id = o.customer_id where c.region = :r order by o.id;

-- region_items(r text): north | east | new
select i.order_id, i.position, i.qty from items i
join orders o on o.id = i.order_id join customers c on c.id = o.customer_id
where c.region = :r order by 1, 2;

-- manager_items(m bigint): 0 | 1 | 9
select i.order_id, i.position, g.sku from items i
join orders o on o.id = i.order_id join customers c on c.id = o.customer_id
join regions r on r.code = c.region left join goods g on g.id = i.goods_id
where r.manager = :m and o.deleted_at is null order by 1, 2;

-- region_goods(r text): north | west
select distinct g.sku, g.price from goods g
join items i on i.goods_id = g.id join orders o on o.id = i.order_id join customers c on c.id = o.customer_id
where c.region = :r order by g.sku;

-- customer_with_orders(c bigint): 1 | 3 | 77
select c.name, o.id, o.total from customers c left join orders o on o.customer_id = c.id where c.id = :c order by o.id;

-- region_paid(r text): north | south | new
select c.id, o.id as paid from customers c left join orders o on o.customer_id = c.id and o.state = 'paid'
where c.region = :r order by 1, 2;

-- region_without_orders(r text): north | south | new
select c.id, c.name from customers c left join orders o on o.customer_id = c.id
where o.id is null and c.region = :r order by c.id;

-- orders_somewhere(r text): none | north | ''
select o.id from orders o left join customers c on c.id = o.customer_id where coalesce(c.region, 'none') = :r order by o.id;

-- left_then_filtered(s order_state): open | shipped
select c.id, o.id as order_id from customers c left join orders o on o.customer_id = c.id
where o.state = :s or o.state is null order by 1, 2;

-- full_region(r text): north | south | new
select c.id as customer, e.id as employee from customers c full join employees e on e.region = c.region
where coalesce(c.region, e.region) = :r order by 1, 2;

-- full_customer(c bigint): 1 | 3 | 77
select c.id, o.id as order_id from customers c full join orders o on o.customer_id = c.id where c.id = :c order by 2;

-- customer_payments(c bigint): 1 | 2
select o.id, p.id as payment, p.amount from payments p right join orders o on o.id = p.order_id
where o.customer_id = :c order by 1, 2;

-- unpaid_of(c bigint): 1 | 2 | 5
select o.id from orders o left join payments p on p.order_id = o.id and p.method = 'card'
where o.customer_id = :c and p.id is null order by 1;

-- nested_outer(c bigint): 1 | 4
select c.id, o.id as order_id, i.position, p.amount from customers c
left join (orders o join items i on i.order_id = o.id) on o.customer_id = c.id and i.qty > 1
left join payments p on p.order_id = o.id
where c.id = :c order by 2, 3, 4;

-- region_busy(r text): north | south
select c.id from customers c
where c.region = :r and exists (select from orders o where o.customer_id = c.id and o.total > 10) order by 1;

-- region_idle(r text): north | south | west
select c.id from customers c
where c.region = :r and not exists (select from orders o where o.customer_id = c.id and o.state = 'open') order by 1;

-- customers_with_good(g bigint): 1 | 2 | 5
select c.id, c.name from customers c where exists (
    select from orders o join items i on i.order_id = o.id where o.customer_id = c.id and i.goods_id = :g) order by c.id;

-- orders_from(r text): north | east
select id, total from orders where customer_id in (select id from customers where region = :r) order by id;

-- goods_not_in(o bigint): 1 | 4 | 8
select id, sku from goods where id not in (select goods_id from items where order_id = :o) order by id;

-- goods_not_in_known(o bigint): 1 | 3
select id from goods where id not in (select goods_id from items where order_id = :o and goods_id is not null) order by id;

-- goods_dearest(k text): kind 1 | kind 2
select id, price from goods where kind = :k and price >= all (select price from goods where kind = :k) order by id;

-- people_of(r text): north | south | new
select 'customer' as what, id from customers where region = :r
union select 'employee', id from employees where region = :r order by 1, 2;

-- everyone(r text): north | south
select id from customers where region = :r union all select id from employees where region = :r order by 1;

-- both_kinds(r text): north | south
select id from customers where region = :r intersect select id from employees where region = :r order by 1;

-- only_customers(r text): north | south
select id from customers where region = :r except select id from employees where region = :r order by 1;

-- only_elsewhere(r text): north | south
select id from customers except all select id from employees where region = :r order by 1;

-- ranked_own(c bigint): 1 | 2 | 5
select id, rank() over (partition by customer_id order by total desc nulls last, id) as place
from orders where customer_id = :c order by id;

-- ranked_of_all(c bigint): 1 | 2 | 5 | 7
select id, place from (
    select id, customer_id, rank() over (order by total desc nulls last, id) as place from orders) ranked
where customer_id = :c order by id;

-- ranked_apart(c bigint): 1 | 2 | 5
select id, place, n from (
    select id, customer_id, row_number() over (partition by customer_id order by total desc nulls last, id) as place,
           count(*) over (partition by customer_id, state) as n from orders) ranked
where customer_id = :c order by id;

-- ranked_two_ways(c bigint): 1 | 2
select id, own, by_state from (
    select id, customer_id, count(*) over (partition by customer_id) as own,
           count(*) over (partition by state) as by_state from orders) counted
where customer_id = :c order by id;

-- previous_of(o bigint): 2 | 5
select before from (
    select id, lag(id) over (order by placed_at, id) as before from orders) placed where id = :o;

-- region_in_on(r text): north | south | new
select c.id, o.id as order_id from customers c left join orders o on o.customer_id = c.id and c.region = :r
where c.vip order by 1, 2;

-- customer_in_on(c bigint): 1 | 2 | 5
select c.id, o.id as order_id from customers c left join orders o on o.customer_id = :c and o.id = c.id order by 1, 2;

-- customer_in_right_on(c bigint): 1 | 5
select o.id, c.name from orders o right join customers c on o.customer_id = c.id and o.customer_id = :c order by 2, 1, c.id;

-- region_in_full_on(r text): north | south
select c.id, e.id as employee from customers c full join employees e on e.region = c.region and c.region = :r order by 1, 2;

-- null_or_equal(c bigint): 1 | 2
select g.id, i.order_id from goods g left join items i on i.goods_id = g.id and i.qty > 3
where i.order_id = :c or i.order_id is null order by 1, 2;

-- strict_after_outer(c bigint): 1 | 3
select p.id, o.id as order_id from payments p left join orders o on o.id = p.order_id where o.customer_id = :c order by 1;

-- twice_outer(r text): north | new
select c.id, o.id as order_id, p.id as payment from customers c left join orders o on o.customer_id = c.id
left join payments p on p.order_id = o.id and p.amount > 5 where c.region = :r order by 1, 2, 3;

-- not_exists_in_or(c bigint): 1 | 2
select id from customers c where id = :c or not exists (select from orders o where o.customer_id = c.id) order by id;

-- not_the_customer(c bigint): 1 | 2
select id from orders where not (customer_id = :c) and total > 20 order by id;

-- exists_in_select(r text): north | south
select id, exists (select from orders o where o.customer_id = customers.id) as ordered from customers where region = :r order by id;

-- limited_in(c bigint): 1 | 2 | 3
select id from orders where customer_id = :c and id in (select id from orders order by total desc nulls last, id limit 6) order by id;

-- summed_over_all(c bigint): 1 | 2
select o.id, o.total / nullif((select sum(total) from orders), 0) as part from orders o where o.customer_id = :c order by o.id;

-- summed_outer(r text): north | south | new
select region, count(*) as n from (select c.region, o.id from customers c left join orders o on o.customer_id = c.id) t
where region = :r group by region;

-- best_order(c bigint): 1 | 2 | 77
select id, total from (
    select distinct on (customer_id) customer_id, id, total from orders
    order by customer_id, total desc nulls last, id) best
where customer_id = :c;

-- newest_in_state(c bigint): 1 | 2 | 4 | 6 | 7 | 8
select state, id from (
    select distinct on (state) state, id, customer_id from orders order by state, placed_at desc, id) newest
where customer_id = :c order by id;

-- customer_states(c bigint): 1 | 3
select state, count(*) as n, sum(total) as total from orders where customer_id = :c group by state order by state;

-- customers_of_at_least(n bigint): 1 | 3 | 40
select customer_id, count(*) as n from orders group by customer_id having count(*) >= :n order by customer_id;

-- grouped_above(c bigint): 1 | 2
select * from (select customer_id, state, count(*) as n from orders group by customer_id, state) grouped
where customer_id = :c order by state;

-- grouped_in_sets(c bigint): 1 | 2
select * from (
    select customer_id, state, count(*) as n from orders group by grouping sets ((customer_id, state), (customer_id), (state), ())) sets
where customer_id = :c order by state nulls last, n;

-- rolled_up(c bigint): 1 | 2
select state, vip, count(*) as n from orders o join customers c on c.id = o.customer_id where o.customer_id = :c
group by rollup (state, vip) order by state nulls last, vip nulls last, grouping(state, vip);

-- region_best(r text): north | south
select c.id, best.id as best, best.total from customers c cross join lateral (
    select o.id, o.total from orders o where o.customer_id = c.id order by o.total desc nulls last, o.id limit 2) best
where c.region = :r order by 1, best.total desc nulls last, 2;

-- region_last_paid(r text): north | new
select c.id, paid.amount from customers c left join lateral (
    select p.amount from payments p join orders o on o.id = p.order_id
    where o.customer_id = c.id order by p.paid_on desc nulls last, p.id limit 1) paid on true
where c.region = :r order by 1;

-- region_maxima(r text): north | west
select c.id, (select max(o.total) from orders o where o.customer_id = c.id) as most,
       (select count(*) from payments p where p.order_id in (select o.id from orders o where o.customer_id = c.id)) as paid
from customers c where c.region = :r order by c.id;

-- order_in_full(o bigint) row: 1 | 7 | 31
select o.id, (select c.name from customers c where c.id = o.customer_id) as customer,
       array(select g.sku from items i join goods g on g.id = i.goods_id where i.order_id = o.id order by i.position) as goods,
       (select sum(p.amount) from payments p where p.order_id = o.id) as paid
from orders o where o.id = :o;

-- with_once(c bigint): 1 | 2
with dear as (select * from orders where total > 12) select id, state from dear where customer_id = :c order by id;

-- with_kept(c bigint): 1 | 2
with dear as materialized (select * from orders where total > 12) select id, state from dear where customer_id = :c order by id;

-- with_twice(c bigint): 1 | 2
with mine as (select * from orders where deleted_at is null)
select a.id, (select count(*) from mine b where b.state = a.state) as alike from mine a where a.customer_id = :c order by a.id;

-- with_two_uses(c bigint): 1 | 2
with all_orders as (select id, customer_id, total from orders)
select a.id, b.id as other from all_orders a join all_orders b on b.customer_id = a.customer_id + 1
where a.customer_id = :c order by 1, 2;

-- dearest_three(c bigint): 1 | 2 | 3
select id, total from orders where customer_id = :c order by total desc nulls last, id limit 3;

-- second_page(c bigint): 1 | 2
select id, total from orders where customer_id = :c order by id offset 1 limit 2;

-- among_dearest(c bigint): 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8
select id from (select id, customer_id from orders order by total desc nulls last, id limit 4) dearest
where customer_id = :c order by id;

-- customer_in_state(c bigint, s order_state): 1 ; open | 1 ; paid | 2 ; open | 77 ; open
select id, total from orders where customer_id = :c and state = :s order by id;

-- region_in_state(r text, s order_state): north ; open | north ; paid | south ; open
select o.id from orders o join customers c on c.id = o.customer_id where c.region = :r and o.state = :s order by o.id;

-- customer_since(c bigint, since timestamptz): 1 ; 2026-01-03T00:00:00+02:00 | 2 ; 2026-01-01 00:00Z | 3 ; 2026-02-01 00:00Z
select id, placed_at from orders where customer_id = :c and placed_at >= :since order by id;

-- region_at_least(r text, least numeric): north ; 10 | south ; 20.5
select o.id, o.total from orders o join customers c on c.id = o.customer_id where c.region = :r and o.total >= :least order by o.id;

-- dear(least numeric): 5 | 10.50 | 30 | 1000
select id, total from orders where total >= :least order by id;

-- between(a numeric, b numeric): 5 ; 10 | 0 ; 3 | 20 ; 10
select id, total from orders where total between :a and :b order by id;

-- paid_between(a date, b date): 2026-01-01 ; 2026-01-03 | 2026-01-08 ; 2026-02-01
select id, amount from payments where paid_on >= :a and paid_on < :b order by id;

-- placed_before(t timestamptz) value: 2026-01-02 00:00Z | 2026-01-05 00:00Z
select count(*) from orders where placed_at < :t;

-- managed_by(m bigint): 1 | 2 | 40
select e.id, e.name, m.name as manager from employees e join employees m on m.id = e.manager_id where m.id = :m order by e.id;

-- under_name(n text): e1 | e2 | new
select e.id from employees e join employees m on m.id = e.manager_id join employees t on t.id = m.manager_id
where t.name = :n order by e.id;

-- colleagues(e bigint): 3 | 4
select b.id, b.region from employees a join employees b on b.manager_id = a.manager_id and b.id <> a.id where a.id = :e order by b.id;

-- merged_region(r text): north | south
select e.id as employee, c.id as customer from employees e join customers c using (region) where region = :r order by 1, 2;

-- orders_by_state(): none
select state, count(*) as n, sum(total) as total from orders group by state order by state;

-- whole_customers(r text): north | new
select c from customers c where c.region = :r order by c.id;

-- whole_orders(c bigint): 1 | 2
select to_jsonb(o) as o from orders o where o.customer_id = :c order by o.id;

-- whole_through_join(c bigint): 1 | 2
select row_to_json(i) as item from orders o join items i on i.order_id = o.id where o.customer_id = :c order by o.id, i.position;

-- by_normal_name(n text): ann | bob | name 3
select id, name from customers where normal(name) = :n order by id;

-- by_lower_name(n text): ' ann ' | bob
select id from customers where lower(name) = lower(:n) order by id;

-- by_name(n text): 'bob' | ' Ann ' | o'Neil/é %?& | '' | a+b=c;d"e\f
select id, region from customers where name = :n order by id;

-- name_begins(n text): b | N | %
select id, name from customers where name like :n || '%' order by id;

-- vips(v boolean): t | false
select id, name from customers where vip = :v order by id;

-- paid_by(m text): card | cash | ''
select id, amount from payments where method is not distinct from nullif(:m, '') order by id;

-- filtered_counts(c bigint) row: 1 | 2
select count(*) filter (where state = 'open') as open, count(*) filter (where total > 10) as dear,
       bool_or(deleted_at is not null) as deleted from orders where customer_id = :c;

-- any_open(c bigint) value: 1 | 2 | 77
select exists (select from orders where customer_id = :c and state = 'open');

-- state_names(c bigint) arrays: 1 | 2
select string_agg(state::text, ',' order by id), array_agg(id order by id), max(total) from orders where customer_id = :c;

-- grouped_join(c bigint): 1 | 2 | 5
select o.id, s.qty from orders o join (select order_id, sum(qty) as qty from items group by order_id having count(*) > 1) s
on s.order_id = o.id where o.customer_id = :c order by o.id;

-- windowed_join(c bigint): 1 | 2
select o.id, s.position, s.place from orders o join (
    select order_id, position, rank() over (partition by order_id order by qty, position) as place from items) s
on s.order_id = o.id where o.customer_id = :c order by 1, 2;

-- limited_join(r text): north | south
select c.id, d.id as order_id from customers c join (select id, customer_id from orders order by placed_at desc, id limit 5) d
on d.customer_id = c.id where c.region = :r order by 1, 2;

-- distinct_join(g bigint): 1 | 3
select o.id, o.state from orders o join (select distinct order_id from items where goods_id = :g) d on d.order_id = o.id order by o.id;

-- as_dear_as(c bigint): 1 | 2
select id from orders where total >= (select max(total) from orders where customer_id = :c) order by id;

-- no_full_orders(r text): north | south
select c.id from customers c where c.region = :r and not exists (
    select from orders o where o.customer_id = c.id and exists (select from items i where i.order_id = o.id and i.qty > 2)) order by 1;

-- bought_all(c bigint) value: 1 | 2
select not exists (select from goods g where not exists (
    select from items i join orders o on o.id = i.order_id where i.goods_id = g.id and o.customer_id = :c));

-- normal_path(n text): ann | bob
select o.id from orders o join customers c on c.id = o.customer_id where normal(c.name) = :n order by o.id;

-- either_table(r text): north | new
select * from (select id, region from customers union all select id, region from employees) people where region = :r order by id;

-- one_branch_only(c bigint): 1 | 2
select * from (select id, customer_id from orders union all select id, 1 from payments where amount > 10) both_kinds
where customer_id = :c order by id;

-- cross_region(r text, s order_state): north ; open | south ; paid
select c.id, o.id as order_id from customers c, orders o where c.region = :r and o.state = :s and o.total < 5 order by 1, 2;

-- manager_chain(m bigint, s order_state): 1 ; open | 2 ; paid
select o.id from regions r join customers c on c.region = r.code join orders o on o.customer_id = c.id
where r.manager = :m and o.state = :s order by o.id;

-- goods_of_payment(m text): card | cash
select distinct g.sku from payments p join items i on i.order_id = p.order_id join goods g on g.id = i.goods_id
where p.method = :m and p.amount > 3 order by 1;

-- unread_order(c bigint): 1 | 2
select count(*) as n from orders where customer_id = :c;

-- in_either(c bigint): 1 | 2
select id from orders where id in (select order_id from items where qty > 4) and customer_id = :c
or id in (select order_id from payments where method = 'card') and customer_id = :c order by id;

-- customer_kept(c bigint): 1 | 3 | 6
select id, deleted_at from orders where customer_id = :c and (deleted_at is null or deleted_at > '2026-02-01 12:00Z') order by id;

-- customer_either(c bigint): 1 | 2 | 3
select id, state from orders where customer_id = :c and (state = 'open' or state = 'paid' and total >= 10.5) order by id;

-- region_either(r text): north | south | new
select c.id, o.id as order_id from customers c left join orders o on o.customer_id = c.id
where c.region = :r and (o.state = 'open' or o.total > 10.50) order by 1, 2;

-- region_either_none(r text): north | south | new
select c.id, o.id as order_id from customers c left join orders o on o.customer_id = c.id
where c.region = :r and (o.id is null or o.total > 10.50) order by 1, 2;

-- first_days(c bigint): 1 | 2 | 3
select id, placed_at from orders where customer_id = :c and placed_at >= '2026-01-02 00:00Z' and placed_at < '2026-01-05 02:00+02' order by id;

-- paid_at_once(m text): card | cash
select id, amount from payments where method = :m and amount <> 11.00 and paid_on <= date '2026-01-05' order by id;
