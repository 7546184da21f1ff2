-- category: 1..18
-- category2: 1..18
-- thing: 1..36
-- price: 0..12

insert into categories values ({category}, {category2}, 'c' || {category}) on conflict do nothing
update categories set parent_id = {category2} where id = {category}
update categories set parent_id = null where id = {category}
update categories set name = 'moved' where id = {category}
update categories set name = 'c' || id where name = 'moved'
update categories set sort = {price} where id = {category}
update categories set id = -1 where id = {category}; update categories set id = {category} where id = {category2}; update categories set id = {category2} where id = -1
update categories set parent_id = {category} where parent_id = {category2}
delete from categories where id = {category} and {price} < 4
insert into things select {thing}, {category}, 't' || {thing}, {price} where exists (select from categories where id = {category}) on conflict do nothing
update things set category_id = c.id from categories c where things.id = {thing} and c.id = {category}
update things set price = {price} where id = {thing}
update things set title = title || '+' where id = {thing} and length(title) < 20
delete from things where id = {thing}

-- rarely
truncate things
truncate categories cascade; insert into categories select n, nullif(n / 3, 0), 'c' || n, n % 4 from generate_series(1, 14) n; insert into things select n, n % 14 + 1, 't' || n, n % 10 from generate_series(1, 30) n
update categories set parent_id = nullif(id / 3, 0)
insert into categories select n, nullif(n / 3, 0), 'c' || n, n % 4 from generate_series(1, 14) n on conflict do nothing
insert into things select n, (select min(id) from categories where id > n % 14), 't' || n, n % 10 from generate_series(1, 30) n on conflict do nothing

-- definitions
create index if not exists oracle_categories_parent on categories (parent_id)
drop index if exists oracle_categories_parent
