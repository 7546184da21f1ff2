-- Each writer keeps to the rows that are its own: identifiers that leave its number when divided by four.

-- k: 0..5
-- k2: 0..5
-- e: 0..18
-- e2: 0..18
-- n: 0..3
-- amount: 0..50
-- session: 0..200
-- topic: 0..3

insert into accounts values ({k} * 4 + {owner}, {owner}, 'a' || {n}) on conflict do nothing
update accounts set name = 'b' || {amount} where id = {k} * 4 + {owner}
delete from accounts where id = {k} * 4 + {owner} and {n} = 1
update accounts set id = -1 - {owner} where id = {k} * 4 + {owner}; update accounts set id = {k} * 4 + {owner} where id = {k2} * 4 + {owner}; update accounts set id = {k2} * 4 + {owner} where id = -1 - {owner}
insert into entries values ({e} * 4 + {owner}, {k} * 4 + {owner}, {amount}) on conflict do nothing
update entries set account_id = {k} * 4 + {owner} where id = {e} * 4 + {owner}
update entries set account_id = null where id = {e} * 4 + {owner}
update entries set account_id = {k} * 4 + {owner} where account_id = {k2} * 4 + {owner}
update entries set amount = {amount} where id = {e} * 4 + {owner}
update entries set state = 'held' where id = {e} * 4 + {owner}
update entries set state = null where account_id = {k} * 4 + {owner}
update entries set id = {e2} * 4 + {owner} where id = {e} * 4 + {owner}
delete from entries where id = {e} * 4 + {owner}
insert into details select {e} * 4 + {owner}, {n}, 'd' || {amount} where exists (select from entries where id = {e} * 4 + {owner}) on conflict (entry_id, n) do update set label = excluded.label
update details set entry_id = {e2} * 4 + {owner} where entry_id = {e} * 4 + {owner} and exists (select from entries where id = {e2} * 4 + {owner})
update details set label = 'e' || {amount} where entry_id = {e} * 4 + {owner}
delete from details where entry_id = {e} * 4 + {owner} and n = {n}
insert into sessions values ({session} * 4 + {owner}, {topic}) on conflict do nothing
insert into hits (session_id) values ({session})
insert into hits (session_id) values ({session}), ({session} + 1), ({session} * 2)
