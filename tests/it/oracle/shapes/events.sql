-- account_events(a bigint): 1 | 2 | 9
select id, day, kind from events where account = :a order by day, id;

-- january_events(a bigint): 1 | 2
select id, day from events_january where account = :a order by day, id;

-- other_kinds(): none
select kind, count(*) as n from events_other group by kind order by kind;

-- leaf_beside_root(a bigint): 1 | 3
select (select count(*) from events where account = :a) as everywhere,
       (select count(*) from events_february where account = :a) as february;

-- kinds_between(a date, b date): 2026-01-15 ; 2026-02-15 | 2026-03-01 ; 2026-12-31
select kind, count(*) as n from events where day between :a and :b group by kind order by kind;

-- events_holding(d jsonb): {"n": 1} | {"n": 3}
select id from events where payload @> :d order by id, day;

-- places(p text): hall | roof | nowhere
select id, value from readings where place = :p order by id;

-- inside(a bigint): 1 | 2
select place, id, value from readings_inside where account = :a order by place, id;

-- readings_at(n numeric): 1 | 2.50
select place, id from readings where value = :n order by place, id;

-- events_beside_readings(a bigint): 1 | 2
select e.id, r.place, r.id as reading from events e join readings r on r.account = e.account
where e.account = :a and e.kind = 'kind 1' order by 1, 2, 3;

-- events_of_word(v numeric): 1 | 0.50
select e.id, e.day from events e join readings r on r.account = e.account and r.place = 'hall' where r.value = :v order by 1, 2;

-- leaf_path(k text): kind 0 | kind 1
select r.place, r.id from readings_outside r join events_january e on e.account = r.account where e.kind = :k order by 1, 2, e.id;

-- places_of_day(d date): 2026-01-22 | 2026-02-01
select distinct r.place from events e join readings r using (account) where e.day = :d order by 1;
