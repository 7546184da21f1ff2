-- event: 1..40
-- day: 0..110
-- day2: 0..110
-- account: 0 | 1 | 2 | 3 | 9 | null
-- account2: 0 | 1 | 2 | 3 | null
-- n: 0..5
-- place: 'hall' | 'attic' | 'roof' | 'garden'
-- place2: 'hall' | 'attic' | 'roof' | 'garden'

insert into events values ({event}, date '2026-01-10' + {day}, 'kind ' || {n}, {account}, jsonb_build_object('n', {n})) on conflict do nothing
update events set day = date '2026-01-10' + {day2} where id = {event}
update events set day = date '2026-01-10' + {day2} where day between date '2026-01-10' + {day} and date '2026-01-14' + {day}
update events set account = {account} where id = {event}
update events set account = {account} where kind = 'kind ' || {n}
update events_january set account = {account} where id = {event}
update events set kind = 'kind ' || {n} where account = {account2}
update events set payload = jsonb_build_object('n', {n}) where id = {event}
update events set id = {event} + 1 where id = {event} and {n} = 1
delete from events where id = {event}
delete from events_february where account = {account}
insert into events_other select {event}, date '2026-07-01' + {n}, 'kind 1', {account} on conflict do nothing
insert into readings values ({place}, {event}, {n} / 2.0, {account}) on conflict do nothing
update readings set place = {place2} where place = {place} and id = {event}
update readings set value = {n} * 0.50, account = {account} where id = {event}
update readings_inside set account = {account} where id % 4 = {n}
delete from readings where id = {event}

-- rarely
truncate events_january
truncate events_other; insert into events select n, date '2026-05-01' + n, 'kind 2', n % 4 from generate_series(1, 9) n on conflict do nothing
truncate events; insert into events select n, date '2026-01-20' + n::int * 2, 'kind ' || n % 3, nullif(n % 5, 0), jsonb_build_object('n', n % 4) from generate_series(1, 30) n
truncate readings_outside
truncate readings; insert into readings select (array['hall', 'attic', 'roof', 'garden'])[n % 4 + 1], n, n / 4.0, n % 5 from generate_series(1, 24) n

-- definitions
delete from events where day between '2026-04-01' and '2026-04-30'; create table if not exists events_april partition of events for values from ('2026-04-01') to ('2026-05-01'); insert into events values (77, '2026-04-11', 'kind 1', 1, null), (78, '2026-04-12', 'kind 1', 2, null)
drop table if exists events_april
create index if not exists oracle_events_account on events (account)
drop index if exists oracle_events_account
alter table readings add column if not exists unheard int default 1
alter table readings drop column if exists unheard
