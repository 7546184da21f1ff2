-- id: 1..16
-- id2: 1..16
-- nick: 'ann' | 'ANN' | 'Bob' | 'bob%20' | 'BOB%20' | null
-- place: 'p0' | 'p1' | null

insert into nicknames values ({id}, {nick}, {place}) on conflict do nothing
update nicknames set nick = {nick} where id = {id}
update nicknames set nick = upper(nick::text) where id = {id}
update nicknames set place = {place} where id in ({id}, {id2})
delete from nicknames where id = {id}
