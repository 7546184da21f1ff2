-- A shop: every kind of replica identity, foreign keys that cascade, views over views.
create type order_state as enum ('open', 'paid', 'shipped', 'cancelled');
create function normal(name text) returns text language sql immutable strict as $$ select lower(btrim(name)) $$;

create table regions (code text primary key, name text not null, manager bigint);
create table customers (
    id bigint primary key,
    name text not null,
    region text references regions on update cascade on delete set null,
    vip boolean not null default false,
    since date,
    visits int not null default 0
);
create table orders (
    id bigint primary key,
    customer_id bigint references customers on update cascade on delete cascade,
    state order_state,
    total numeric(10, 2),
    placed_at timestamptz not null,
    deleted_at timestamptz
);
create table goods (id bigint primary key, sku text not null unique, price numeric(10, 2) not null, kind text);
create table items (
    order_id bigint references orders on update cascade on delete cascade,
    position int,
    goods_id bigint references goods on update cascade on delete set null,
    qty int not null,
    price numeric(10, 2),
    total numeric generated always as (qty * price) stored,
    primary key (order_id, position)
);
create table payments (
    id bigint primary key,
    order_id bigint references orders on update cascade on delete set null,
    amount numeric not null,
    method text,
    paid_on date
);
create table employees (id bigint primary key, manager_id bigint, name text, region text);
create index on orders (customer_id);
create index on items (goods_id);

alter table customers replica identity full;
alter table orders replica identity full;
alter table payments replica identity full;
alter table employees replica identity full;
alter table goods replica identity using index goods_sku_key;

create view live_orders as select * from orders where deleted_at is null;
create view open_orders as select id, customer_id, total, placed_at from live_orders where state = 'open';
create view customer_totals as select customer_id, count(*) as n, sum(total) as total from orders group by customer_id;
create view located_orders as
    select o.*, c.region from open_orders o left join customers c on c.id = o.customer_id;

insert into regions select r, 'Region ' || r, n % 3 from unnest(array['north', 'south', 'east', 'west']) with ordinality as t(r, n);
insert into customers
    select n, case n % 4 when 0 then ' Ann ' when 1 then 'bob' when 2 then 'o''Neil/é %?&' else 'Name ' || n end,
           (array['north', 'south', 'east', 'west', null])[n % 5 + 1], n % 3 = 0, date '2026-01-01' + n::int, 0
    from generate_series(1, 10) n;
insert into orders
    select n, nullif(n % 9, 0), (array['open', 'paid', 'shipped', 'cancelled', null])[n % 5 + 1]::order_state, n * 1.5,
           timestamptz '2026-01-01 00:00:00Z' + n * interval '7 hours', case when n % 6 = 0 then timestamptz '2026-02-01 00:00:00Z' end
    from generate_series(1, 26) n;
insert into goods select n, 'sku-' || n, n * 2.25, case when n % 3 > 0 then 'kind ' || n % 3 end from generate_series(1, 6) n;
insert into items select n % 20 + 1, n / 20, nullif(n % 7, 0), n % 6, n % 5 from generate_series(0, 45) n;
insert into payments select n, nullif(n % 14, 0), n * 1.10, (array['card', 'cash', null])[n % 3 + 1], date '2026-01-01' + n % 9 from generate_series(1, 24) n;
insert into employees select n, nullif(n / 3, 0), 'e' || n, (array['north', 'south', null])[n % 3 + 1] from generate_series(1, 12) n;
