-- Many rows, changed many at once: more than is followed one by one.
create table sites (id int primary key, name text not null);
create table devices (id int primary key, site_id int, model text);
create table samples (id int primary key, device_id int, value int not null, checked boolean not null default false);
create index on samples (device_id);
alter table devices replica identity full;
alter table samples replica identity full;
insert into sites select n, 'site ' || n from generate_series(1, 5) n;
insert into devices select n, n % 6, 'm' || n % 3 from generate_series(1, 1500) n;
insert into samples select n, n % 1400 + 1, n % 100, n % 7 = 0 from generate_series(1, 6000) n;
