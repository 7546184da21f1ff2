-- A forest that is moved about, cycles included, and what hangs in it.
create table categories (id bigint primary key, parent_id bigint, name text not null, sort int not null default 0);
create table things (id bigint primary key, category_id bigint references categories on delete cascade on update cascade, title text, price int);
alter table things replica identity full;
insert into categories select n, nullif(n / 3, 0), 'c' || n, n % 4 from generate_series(1, 14) n;
insert into things select n, n % 14 + 1, 't' || n, n % 10 from generate_series(1, 30) n;
