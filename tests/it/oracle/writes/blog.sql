-- post: 1..15
-- post2: 1..15
-- tag: 1..7
-- draft: 1..10
-- comment: 1..24
-- comment2: 1..24
-- author: 'author 0' | 'author 1' | 'author 2' | 'author 3'
-- name: 'Rust' | 'sql' | 'RUST' | 'new/tag' | 'Æ/ø'
-- weight: 0..4
-- language: '"no"' | '"en"' | 'null'
-- letters: '{}' | '{t0}' | '{t1,t2}' | '{t2,NULL}'

insert into posts values ({post}, {author}, 'Title', repeat(md5({post}::text), 300), {weight} > 1, {letters}, jsonb_build_object('size', {weight})) on conflict do nothing
update posts set author = {author} where id = {post}
update posts set published = not published where id = {post}
update posts set title = title || '.' where id = {post} and length(title) < 30
update posts set body = repeat(md5({post2}::text), 290) || 'end' where id = {post}
update posts set body = 'short end' where id = {post}
update posts set tags = {letters} where id = {post}
update posts set tags = array_append(tags, 't' || {weight}) where id = {post} and cardinality(tags) < 6
update posts set meta = jsonb_set(coalesce(meta, '{"flags": [1]}'), array['lang'], {language}) where id = {post}
update posts set meta = null where id = {post}
update posts set meta = meta || jsonb_build_object('size', {weight}) where id = {post}
update posts set id = -1 where id = {post}; update posts set id = {post} where id = {post2}; update posts set id = {post2} where id = -1
update posts set author = {author}, published = true
delete from posts where id = {post} and {weight} = 1
insert into drafts values ({draft}, {author}, 'fresh', repeat('z', 9000)) on conflict (id) do update set title = 'fresh'
update drafts set author = {author} where id = {draft}
update drafts set title = 'Draft ' || {weight} where id = {draft}
update drafts set body = repeat(md5({post}::text), 300) || '  end' where id = {draft}
update drafts set body = null where id = {draft}
delete from drafts where id = {draft} and {weight} = 1
insert into tags values ({tag}, {name}) on conflict do nothing
update tags set name = {name} where id = {tag}
delete from tags where id = {tag} and {weight} = 2
insert into post_tags values ({post}, {tag}, {weight}) on conflict do nothing
insert into post_tags values ({post}, {tag}, {weight}) on conflict (post_id, tag_id) do update set weight = post_tags.weight + 1
update post_tags set post_id = {post2} where post_id = {post} and tag_id = {tag}
update post_tags set tag_id = {tag} where post_id = {post} and weight = {weight}
update post_tags set weight = {weight} where tag_id = {tag}
delete from post_tags where post_id = {post}
delete from post_tags where tag_id = {tag} and weight = {weight}
insert into comments values ({comment}, {post}, {comment2}, 'said') on conflict do nothing
update comments set reply_to = {comment2} where id = {comment}
update comments set post_id = {post} where id = {comment}
update comments set said = said || '!' where id = {comment} and length(said) < 20
delete from comments where id = {comment}

-- rarely
truncate post_tags; insert into post_tags select n % 12 + 1, n % 5 + 1, n % 3 from generate_series(0, 30) n on conflict do nothing
truncate comments; insert into comments select n, n % 12, nullif(n / 2, 0), 'said ' || n from generate_series(1, 20) n
update posts set published = true
update posts set title = 'Title ' || id
insert into posts select n, 'author ' || n % 4, 'Title ' || n, repeat(md5(n::text), 300), true from generate_series(1, 12) n on conflict do nothing
delete from drafts

-- definitions
alter table posts add column if not exists unheard int default 1
alter table posts drop column if exists unheard
alter table drafts add column if not exists unheard int default 1
alter table drafts drop column if exists unheard
create index if not exists oracle_post_tags on post_tags (tag_id)
drop index if exists oracle_post_tags
