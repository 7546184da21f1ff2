-- Tables of every workload, with what the stream needs to tell of old rows.
create table one (id bigserial primary key, k int not null, v text);
create table bulk (id bigint primary key, k int not null, v text);
create table multi (id int primary key, n int not null default 0, v text);
create table marker (id bigserial primary key);
insert into multi select n, 0, 'row ' || n from generate_series(1, 100000) n;
