-- tagged(t text): sql | Rust | new/tag
select p.id, p.title from posts p join post_tags pt on pt.post_id = p.id join tags t on t.id = pt.tag_id
where t.name = :t and p.published order by p.id;

-- tags_of(p bigint): 1 | 2 | 30
select t.name, pt.weight from post_tags pt join tags t on t.id = pt.tag_id where pt.post_id = :p order by t.id;

-- related(p bigint): 1 | 4
select b.post_id, count(*) as shared from post_tags a join post_tags b on b.tag_id = a.tag_id and b.post_id <> a.post_id
where a.post_id = :p group by b.post_id order by 2 desc, 1;

-- with_both(a bigint, b bigint): 1 ; 2 | 2 ; 3
select p.id from posts p where exists (select from post_tags where post_id = p.id and tag_id = :a)
and exists (select from post_tags where post_id = p.id and tag_id = :b) order by p.id;

-- tagged_twice(t bigint): 1 | 3
select post_id from post_tags where tag_id = :t or weight > 1 group by post_id having count(*) >= 2 order by post_id;

-- heavy_tags(least int): 1 | 2
select tag_id, sum(weight) as weight from post_tags group by tag_id having sum(weight) >= :least order by tag_id;

-- in_array(t text): t0 | t2 | nothing
select id, tags from posts where :t = any(tags) order by id;

-- unnested(a text): author 1 | author 2
select tag, count(*) as n from posts, unnest(tags) as tag where author = :a group by tag order by tag;

-- in_language(l text): no | en | ''
select id, title from posts where meta ->> 'lang' = :l order by id;

-- holding(d jsonb): {"size": 1} | {"flags": [1]} | {}
select id from posts where meta @> :d order by id;

-- body_of(p bigint) row: 1 | 2 | 30
select title, length(body) as long, md5(body) as body from posts where id = :p;

-- bodies_by(a text): author 0 | author 1
select id, substr(body, 1, 40) as start, body like '%end' as ends from posts where author = :a order by id;

-- titles_by(a text): author 0 | author 1 | nobody
select id, title from posts where author = :a and published order by id;

-- drafts_by(a text): author 0 | author 2
select id, title, md5(body) as body from drafts where author = :a order by id;

-- whole_drafts(a text): author 1
select md5(d::text) as d, id from drafts d where author = :a order by id;

-- drafts_with(w text): end | fresh | Draft 3
select id, author from drafts where right(body, 5) = lpad(:w, 5, ' ') or title = :w order by id;

-- page(a text) value: author 0 | author 3
select array_agg(json_build_object('id', p.id, 'title', p.title, 'comments',
    array(select c.said from comments c where c.post_id = p.id order by c.id)) order by p.id)
from posts p where p.author = :a;

-- thread(c bigint): 1 | 2
with recursive thread as (
    select id, reply_to, said from comments where id = :c
    union select c.id, c.reply_to, c.said from comments c join thread t on c.reply_to = t.id)
select id, said from thread order by id;

-- commented_by_tag(t bigint): 1 | 4
select c.id, c.said from comments c where c.post_id in (select post_id from post_tags where tag_id = :t) order by c.id;

-- same_name(t text): rust | sql
select id, name from tags where lower(name) = :t order by id;

-- by_body(t text): Title 1 | Title 2
select d.id, p.id as post from posts p join drafts d on md5(d.body) = md5(p.body) where p.title = :t order by 1, 2;

-- draft_by_body(a text): author 1 | author 3
select d.id, p.id as post from drafts d join posts p on p.body = d.body where d.author = :a order by 1, 2;

-- long_posts(a text): author 1 | author 2
select id from posts where author = :a and body <> 'short end' order by id;

-- long_drafts(a text): author 1 | author 2
select id from drafts where author = :a and body not like 'z%' order by id;

-- unnested_path(t bigint): 1 | 2
select p.id, tag from posts p cross join unnest(p.tags) as tag join tags t on lower(t.name) <> tag where t.id = :t and p.published order by 1, 2;

-- replies_to_post(p bigint): 1 | 3
select r.id, r.said from comments r join comments c on c.id = r.reply_to where c.post_id = :p order by r.id;

-- authors_tagging(t text): sql | Rust
select p.author, count(distinct p.id) as n from posts p left join post_tags pt on pt.post_id = p.id left join tags t on t.id = pt.tag_id
where t.name = :t group by p.author order by 1;

-- tag_counts(p bigint): 1 | 2
select t.id, (select count(*) from post_tags other where other.tag_id = t.id) as n from tags t
join post_tags pt on pt.tag_id = t.id where pt.post_id = :p order by t.id;
