-- below(c bigint): 1 | 2 | 4 | 40
with recursive below as (
    select id, parent_id from categories where id = :c
    union select c.id, c.parent_id from categories c join below b on c.parent_id = b.id)
select id, parent_id from below order by id;

-- above(c bigint): 5 | 9 | 14
with recursive above as (
    select id, parent_id from categories where id = :c
    union select c.id, c.parent_id from categories c join above a on c.id = a.parent_id)
select a.id, c.name from above a join categories c using (id) order by 1;

-- things_below(c bigint): 1 | 3 | 6
with recursive below as (
    select id from categories where id = :c union select c.id from categories c join below b on c.parent_id = b.id)
select t.id, t.title from things t join below b on b.id = t.category_id order by t.id;

-- children(c bigint): 1 | 2 | 5
select c.id, c.name, count(t.id) as things from categories c left join things t on t.category_id = c.id
where c.parent_id = :c group by c.id order by c.sort, c.id;

-- things_of_parent(c bigint): 1 | 2
select t.id, t.price from things t join categories c on c.id = t.category_id join categories p on p.id = c.parent_id
where p.id = :c order by t.id;

-- things_of_name(n text): c1 | c5 | moved
select t.id, t.title from things t join categories c on c.id = t.category_id where c.name = :n order by t.id;

-- dear_things(c bigint, least int): 1 ; 3 | 4 ; 5
select id, price from things where category_id = :c and price > :least order by id;

-- leaves(): none
select id from categories c where not exists (select from categories d where d.parent_id = c.id) order by id;
