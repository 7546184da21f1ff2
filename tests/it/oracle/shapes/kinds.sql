-- by_uuid(u uuid) row: 00000000-0000-4000-8000-000000000003 | 00000000-0000-4000-8000-000000000033 | {000000000000-4000-8000-000000000001}
select n, word, feeling from kinds where id = :u;

-- by_flag(f boolean, n int): t ; 1 | f ; 2
select id, word from kinds where flag = :f and n = :n order by id;

-- by_small(s smallint, b bigint): 1 ; 1 | 3 ; 2
select id from kinds where small = :s and big = :b order by id;

-- across_ints(n bigint): 1 | 2
select id, small from kinds where small = :n and n = big order by id;

-- by_amount(a numeric): 10 | 10.0 | 10.5 | NaN
select id, amount from kinds where amount = :a order by id;

-- by_word(w text): a | b/c | '' | é"\
select id, n from kinds where word = :w order by id;

-- by_code(c varchar): c1 | c2
select id from kinds where code = :c order by id;

-- by_day(d date): 2026-03-01 | 2026-03-02
select id, n from kinds where day = :d order by id;

-- by_moment(m timestamp): 2026-03-01 12:00 | 2026-03-01T13:00:00.000
select id from kinds where moment = :m order by id;

-- by_instant(i timestamptz): 2026-03-29 01:00+00 | 2026-03-29 04:00+02
select id, instant from kinds where instant = :i order by id;

-- by_feeling(f mood): ok | happy
select id from kinds where feeling = :f order by id;

-- at_least_so(f mood): ok | happy
select id, feeling from kinds where feeling >= :f order by id;

-- by_bits(b bytea): \x01 | \x03
select id, bits from kinds where bits = :b order by id;

-- by_letters(l text[]): {x1,y1} | {x2,y0}
select id from kinds where letters = :l order by id;

-- by_numbers(n int[]): {1,1} | {}
select id, numbers from kinds where numbers @> :n order by id;

-- any_of_numbers(n int[]): {1,2} | {4}
select id from kinds where n = any(:n) order by id;

-- by_doc(d jsonb): {"a": 1, "b": [1]} | {"b": [0], "a": 2}
select id from kinds where doc = :d order by id;

-- kinds_after(d date, n int): 2026-03-02 ; 1 | 2026-03-01 ; 3
select id, day from kinds where day > :d and n < :n order by id;

-- joined_by_nulls(k bigint): 1 | 2
select a.id, b.id as other from plain a join plain b on b.v = a.k where a.k = :k order by 1, 2;

-- nulls_alike(k bigint): 1 | 3
select a.id, b.id as other from plain a join plain b on b.v is not distinct from a.k where a.id = :k order by 1, 2;

-- is_not(k bigint): 1 | 4
select id, k from plain where k is distinct from :k order by id;

-- unequal(k bigint): 1
select id from plain where k <> :k order by id;

-- as_rows(k bigint, v bigint): 1 ; 1 | 2 ; 3
select id, word from plain where (k, v) = (:k, :v) order by id;

-- row_before(k bigint, v bigint): 1 ; 2 | 3 ; 1
select id from plain where (k, v) < (:k, :v) order by id;

-- shifted(k bigint): 2 | 4
select id from plain where k + 1 = :k order by id;

-- given_or_all(w text): w1 | all
select id from plain where (:w = 'all' or word = :w) order by id;

-- by_slot(s int): 20 | 30 | 999
select id, v from keyed where slot = :s;

-- by_double_slot(s int): 40 | 200
select id, v from keyed where double_slot = :s order by id;

-- by_value(v text): v1 | v2 | swapped
select id, slot from keyed where v = :v order by slot;

-- whole_keyed(v text): v0 | v1
select k.* from keyed k where v = :v order by slot;

-- slots_from(a int, b int): 20 ; 60 | 100 ; 500
select slot, v from keyed where slot >= :a and slot <= :b order by slot;

-- cases(k bigint): 1 | 2
select id, case when k = :k then word when v = :k then 'v' end as what from plain where k = :k or v = :k order by id;

-- made_of_values(n int): 1 | 2
select v.a, p.id from (values (1, 'w0'), (2, 'w1'), (3, null)) v(a, w) left join plain p on p.word = v.w where v.a = :n order by p.id;
