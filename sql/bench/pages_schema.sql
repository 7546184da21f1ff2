-- A thousand texts, each an answer of about a kilobyte.
create table pages (
    id bigint primary key,
    title text not null,
    body text not null
);
insert into pages
select n, 'page ' || n, (select string_agg(md5((n * 100 + part)::text), ' ') from generate_series(1, 29) part)
from generate_series(1, 1000) n;
alter table pages replica identity full;
analyze pages;
