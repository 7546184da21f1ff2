-- Posts and tags, many to many; arrays, documents, large texts.
create table posts (
    id bigint primary key,
    author text not null,
    title text not null,
    body text not null,
    published boolean not null,
    tags text[] not null default '{}',
    meta jsonb
);
alter table posts alter body set storage external;
create table drafts (id bigint primary key, author text not null, title text not null, body text);
alter table drafts alter body set storage external;
alter table drafts replica identity full;
create table tags (id bigint primary key, name text not null);
create table post_tags (post_id bigint, tag_id bigint, weight int not null default 1, primary key (post_id, tag_id));
create table comments (id bigint primary key, post_id bigint, reply_to bigint, said text);
alter table tags replica identity full;
alter table comments replica identity full;
insert into posts
    select n, 'author ' || n % 4, 'Title ' || n, repeat(md5(n::text), 300), n % 3 > 0, array['t' || n % 3, 't' || n % 4],
           case when n % 5 > 0 then jsonb_build_object('lang', (array['no', 'en', 'nn'])[n % 3 + 1], 'size', n % 4, 'flags', array[n % 2, n % 3]) end
    from generate_series(1, 12) n;
insert into drafts select n, 'author ' || n % 4, 'Draft ' || n, repeat(md5(n::text), 300) from generate_series(1, 8) n;
insert into tags select n, (array['Rust', 'sql', 'RUST', 'Æ/ø', 'cache'])[n] from generate_series(1, 5) n;
insert into post_tags select n % 12 + 1, n % 5 + 1, n % 3 from generate_series(0, 30) n on conflict do nothing;
insert into comments select n, n % 12, nullif(n / 2, 0), 'said ' || n from generate_series(1, 20) n;
