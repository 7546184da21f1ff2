-- Ten orders for each of a thousand customers in ten regions, a row that is written all the time, and a table that no
-- product reads.
create table customers (id bigint primary key, region bigint not null);
insert into customers select n, n % 10 from generate_series(1, 1000) n;
create table orders (
    id bigint primary key,
    customer_id bigint not null,
    state text not null,
    total bigint not null
) with (fillfactor = 50);
insert into orders select n, 1 + n % 1000, 'open', n % 97 from generate_series(1, 10000) n;
create index on orders (customer_id);
create table hot (id bigint primary key, n bigint not null) with (fillfactor = 10);
insert into hot values (1, 0), (2, 0);
create table unrelated (id bigserial primary key, text text);
alter table customers replica identity full;
alter table orders replica identity full;
alter table hot replica identity full;
create extension pg_stat_statements;
create role application superuser login;
analyze customers, orders, hot
