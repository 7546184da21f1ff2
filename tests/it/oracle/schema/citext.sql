-- Texts whose equality is not that of their bytes; only where the extension can be had.
create extension citext;
create table nicknames (id bigint primary key, nick citext, place text);
alter table nicknames replica identity full;
insert into nicknames select n, (array['Ann', 'ANN', 'bob', 'Bob ', null])[n % 5 + 1], 'p' || n % 2 from generate_series(1, 12) n;
