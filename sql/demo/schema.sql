-- A small shop with some history.
create table customers (
    id bigint generated always as identity primary key,
    name text not null,
    city text not null
);

create table products (
    id bigint generated always as identity primary key,
    name text not null,
    price numeric(10, 2) not null
);

create table stock (
    product_id bigint references products,
    warehouse text,
    quantity bigint not null,
    primary key (product_id, warehouse)
);

create table orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null references customers,
    state text not null default 'placed' check (state in ('placed', 'paid', 'shipped')),
    total numeric(10, 2) not null,
    placed_at timestamptz not null default now(),
    shipped_at timestamptz
);
create index on orders (customer_id);
create index on orders (id) where state <> 'shipped';
create index on orders (placed_at);

-- An update or delete then carries the whole old row, so kck sees which customer had the order, and marks the
-- answers of that customer alone. By default it carries the primary key, and every customer would be in doubt.
alter table orders replica identity full;

create table order_lines (
    order_id bigint references orders on delete cascade,
    line_number bigint,
    product_id bigint not null references products,
    quantity bigint not null,
    price numeric(10, 2) not null,
    primary key (order_id, line_number)
);
create index on order_lines (product_id);

select setseed(0.5);

insert into customers (name, city)
select
    (array['Ada', 'Alan', 'Barbara', 'Donald', 'Edgar', 'Edsger', 'Frances', 'Grace', 'Jim', 'Margaret'])[1 + n % 10]
    || ' ' || chr(65 + n / 10 % 26) || '.',
    (array['Bergen', 'Lisbon', 'Lyon', 'Oslo', 'Porto', 'Turin', 'Vienna'])[1 + n % 7]
from generate_series(0, 299) n;

insert into products (name, price)
select colour || ' ' || thing, round((5 + 95 * random())::numeric, 2)
from
    unnest(array['black', 'blue', 'green', 'red', 'white']) colour,
    unnest(array['bag', 'book', 'bottle', 'cup', 'hat', 'lamp', 'pen', 'scarf']) thing;

insert into stock (product_id, warehouse, quantity)
select p.id, warehouse, 50 + floor(200 * random())::bigint
from products p, unnest(array['east', 'north', 'west']) warehouse;

insert into orders (customer_id, state, total, placed_at, shipped_at)
select
    1 + floor(300 * random())::bigint,
    case when 150 < age then 'shipped' when 75 < age then 'paid' else 'placed' end,
    0,
    now() - age * interval '20 minutes',
    case when 150 < age then now() - (age - 72) * interval '20 minutes' end
from generate_series(5000, 1, -1) age;

insert into order_lines (order_id, line_number, product_id, quantity, price)
select o.id, line_number, p.id, 1 + (o.id + line_number) % 3, p.price
from orders o
cross join lateral generate_series(1, 1 + o.id % 3) line_number
join products p on p.id = 1 + (o.id * 7 + line_number * 11) % 40;

update orders set total = lines.total
from (select order_id, sum(quantity * price) as total from order_lines group by order_id) lines
where lines.order_id = orders.id;

analyze;
