-- Ten orders for each of a thousand customers.
create table orders (
    id bigint primary key,
    customer_id bigint not null,
    state text not null,
    total bigint not null
);
insert into orders
select n, 1 + n % 1000, 'open', n % 97
from generate_series(1, 10000) n;
create index on orders (customer_id);
-- With the whole old row in the change stream a change is matched by its customer alone.
alter table orders replica identity full;
analyze orders;
