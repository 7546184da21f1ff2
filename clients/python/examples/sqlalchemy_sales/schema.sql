create table cities (name text primary key, country text not null);
create table sales (
    id bigint generated always as identity primary key,
    city text not null references cities,
    day date not null,
    amount numeric(10, 2) not null
);
create index on sales (city);
alter table cities replica identity full;
alter table sales replica identity full;
insert into cities values ('Oslo', 'no'), ('Bergen', 'no'), ('Lund', 'se');
insert into sales (city, day, amount) values
    ('Oslo', '2026-11-01', 10), ('Oslo', '2026-11-02', 12), ('Oslo', '2026-11-03', 14),
    ('Bergen', '2026-11-01', 9), ('Bergen', '2026-11-02', 7.50);
