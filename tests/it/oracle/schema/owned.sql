-- Rows that belong to one writer each, so that what it reads after its commit can be compared while others write;
-- and rows that only ever come, in no order, so that what is counted never goes down.
create table accounts (id bigint primary key, owner int not null, name text not null);
create table entries (id bigint primary key, account_id bigint, amount bigint not null, state text);
create table details (entry_id bigint references entries on update cascade on delete cascade, n int, label text, primary key (entry_id, n));
alter table accounts replica identity full;
alter table entries replica identity full;
create table sessions (id bigint primary key, topic int not null);
create table hits (id bigserial primary key, session_id bigint not null);
insert into accounts select n, n % 4, 'a' || n from generate_series(0, 19) n;
insert into entries select n, n % 16, n, case when n % 3 = 0 then 'held' end from generate_series(0, 59) n;
insert into sessions select n, n % 3 from generate_series(0, 20) n;
insert into hits (session_id) select n * 2 from generate_series(0, 30) n;
insert into details select n % 60, n / 60, 'd' || n % 7 from generate_series(0, 99) n;
