-- kind: 1..30
-- kind2: 1..30
-- n: 0..6
-- row: 1..24
-- row2: 1..24
-- slot: 1..13
-- slot2: 1..13
-- flag: true | false | null
-- amount: 10 | 10.0 | 10.50 | 10.500 | 0 | 'NaN' | null
-- word: 'a' | 'A' | 'b/c' | '' | 'é"\' | null
-- price: 1..18
-- feeling: 'sad' | 'ok' | 'happy' | null
-- key: 0 | 1 | 2 | 3 | 4 | null
-- key2: 0 | 1 | 2 | 3 | 4 | null

insert into kinds (id, flag, n, amount, word, day) values (('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid, {flag}, {n}, {amount}, {word}, date '2026-03-01' + {n}) on conflict do nothing
update kinds set flag = {flag}, n = {n} where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set id = ('00000000-0000-4000-8000-' || lpad('{kind2}', 12, '0'))::uuid where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set small = {n}, big = {n} - 1 where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set amount = {amount} where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set word = {word}, code = 'c' || {n} where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set day = date '2026-03-01' + {n}, moment = timestamp '2026-03-01 12:00' + {n} * interval '30 minutes' where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set instant = timestamptz '2026-03-29 00:30Z' + {n} * interval '30 minutes' where n = {n}
update kinds set feeling = {feeling} where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set bits = decode('0{n}', 'hex') where n = {n}
update kinds set letters = array['x' || {n}, 'y1'], numbers = array[{n}, 1] where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set doc = jsonb_build_object('a', {n}, 'b', array[1]) where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
update kinds set doc = null where n = {n}
update kinds set n = n + 1 where flag = {flag} and n < 8
delete from kinds where id = ('00000000-0000-4000-8000-' || lpad('{kind}', 12, '0'))::uuid
insert into plain values ({row}, {key}, {key2}, 'w' || {n} % 3) on conflict do nothing
update plain set k = {key} where id = {row}
update plain set v = {key} where id in ({row}, {row2})
update plain set k = v, v = k where id = {row}
update plain set word = 'w' || {n} % 3 where id = {row}
update plain set unread = unread + 1
update plain set unread = unread + 1 where id = {row}
update plain set id = -1 where id = {row}; update plain set id = {row} where id = {row2}; update plain set id = {row2} where id = -1
delete from plain where id = {row} and {n} < 3
insert into keyed values ({slot}, {slot2} * 10, 'v' || {n} % 3) on conflict do nothing
update keyed set slot = {slot} * 10 where id = {slot2}
update keyed set slot = -1 where slot = {slot} * 10; update keyed set slot = {slot} * 10, v = 'swapped' where slot = {slot2} * 10; update keyed set slot = {slot2} * 10 where slot = -1
update keyed set v = 'v' || {n} % 3 where id = {slot}
delete from keyed where slot = {slot} * 10
insert into prices values ({price}, {amount}, 'c' || {n}, 'label ' || {n} % 3, date '2026-03-01' + {n}, date '2026-03-04' + {n}, timestamp '2026-03-01 00:00' + {n} * interval '12 hours') on conflict (id) do update set amount = excluded.amount
update prices set amount = {amount} where id = {price}
update prices set tag = 'c' || {n}, label = 'label ' || {n} % 3 where id = {price}
update prices set starts = starts + 1 where id = {price} and starts < '2026-04-01'
update prices set ends = null, at = date '2026-03-01' + {n} where id = {price}
update prices set ends = 'infinity' where id = {price}
delete from prices where id = {price} and {n} < 3

-- rarely
update prices set label = label
update keyed set v = v
truncate plain; insert into plain select n, nullif(n % 5, 0), nullif(n % 4, 0), 'w' || n % 3, 0 from generate_series(1, 20) n
update kinds set word = {word}
update kinds set amount = {amount}
truncate keyed; insert into keyed select n, n * 10, 'v' || n % 3 from generate_series(1, 12) n
insert into kinds (id, n, big, small) select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, n % 3, n % 4, n % 4 from generate_series(1, 24) n on conflict do nothing

-- definitions
alter table keyed add column if not exists unheard int default 1
alter table keyed drop column if exists unheard
alter table plain add column if not exists unheard int
alter table plain drop column if exists unheard
create index if not exists oracle_kinds_n on kinds (n)
drop index if exists oracle_kinds_n
