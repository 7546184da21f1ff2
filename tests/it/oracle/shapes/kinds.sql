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

-- priced_alike(l text): label 0 | label 2
select k.id, p.id as price from kinds k join prices p on p.amount = k.amount where p.label = :l order by 1, 2;

-- price_of_amount(a numeric): 10 | 10.00 | 0
select p.id, k.word from prices p left join kinds k on k.amount = p.amount and k.flag where p.amount = :a order by 1, 2;

-- tagged_alike(c varchar): c1 | c2
select k.id, p.id as price from kinds k join prices p on p.tag = k.code where k.code = :c order by 1, 2;

-- by_padded(t bpchar): c1 | c2
select id, tag from prices where tag = :t order by id;

-- padded_as_text(t text): c1 | c2
select id from prices where tag::text = :t order by id;

-- days_alike(d date): 2026-03-01 | 2026-03-02
select k.id, p.id as price from kinds k join prices p on p.at = k.day where k.day = :d order by 1, 2;

-- times_of_label(l text): label 1
select k.id, p.id as price from kinds k join prices p on k.day = p.at::date where p.label = :l order by 1, 2;

-- valid_on(d date): 2026-03-02 | 2026-03-04 | 2030-01-01
select id from prices where :d between starts and ends order by id;

-- starting_by(d date): 2026-03-01 | 2026-03-03
select id, starts from prices where :d >= starts order by id;

-- not_ended(d date): 2026-03-04 | 2026-03-06
select id from prices where not (ends < :d) order by id;

-- amounts_over(a numeric): 7 | 10 | NaN
select id, amount from kinds where amount > :a order by id;

-- words_from(w text): a | b
select id, word from kinds where word >= :w order by id;

-- words_from_c(w text): A | b
select id, word from kinds where word collate "C" >= :w order by id;

-- small_up_to(s smallint): 1 | 2
select id from kinds where small <= :s and flag order by id;

-- ranges_by_label(l text, a numeric): label 1 ; 5 | label 2 ; 10
select p.id, k.id as kind from prices p join kinds k on k.amount >= p.amount where p.label = :l and k.amount < :a + 5 order by 1, 2;

-- pairs(f mood, l text): ok ; label 1 | happy ; label 2
select k.id, p.id as price from kinds k, prices p where k.feeling = :f and p.label = :l and k.n < 2 order by 1, 2;

-- feelings_by_slot(s int, f mood): 20 ; ok | 30 ; happy
select y.slot, k.id from keyed y cross join kinds k where y.slot = :s and k.feeling = :f order by 1, 2;

-- constant_amount(w text): a | A
select id from kinds where amount = 10 and word = :w order by id;

-- constant_not(n int): 1 | 2
select id from kinds where feeling <> 'ok' and n = :n order by id;

-- constant_untrue(n int): 1 | 2
select id from kinds where flag is not true and n = :n order by id;

-- constant_listed(n int): 1 | 2
select id from kinds where small in (1, 3, null) and n = :n order by id;

-- constant_unlisted(n int): 1 | 3
select id from kinds where small not in (1, 2) and n = :n order by id;

-- constant_day(n int): 1 | 2
select id, day from kinds where day >= '2026-03-02' and day < '2026-03-04' and n = :n order by id;

-- constant_instant(n int): 0 | 1
select id from kinds where instant > '2026-03-29 01:00Z' and n = :n order by id;

-- constant_like(n int): 1 | 2
select id, word from kinds where word like 'b%' and n = :n order by id;

-- constant_distinct(n int): 1 | 4
select id from kinds where word is distinct from 'a' and n = :n order by id;

-- constant_array(n int): 1 | 2
select id from kinds where letters && array['x1', 'y1'] and n = :n order by id;

-- constant_doc(n int): 1 | 2
select id from kinds where doc ->> 'a' = '1' and n = :n order by id;

-- constant_two_columns(n int): 1 | 2
select id from kinds where small = big and n = :n order by id;

-- constant_or(n int): 1 | 2
select id from kinds where (flag or feeling = 'sad') and n = :n order by id;

-- by_joined_expression(s int): 20 | 40
select y.id, p.id as plain from keyed y join plain p on p.id + 10 = y.slot where y.slot = :s order by 1, 2;

-- by_generated_path(k bigint): 1 | 2
select y.id, p.id as plain from keyed y join plain p on p.id * 20 = y.double_slot where p.k = :k order by 1, 2;

-- by_two_columns(w text): w1 | w2
select a.id, b.id as other from plain a join plain b on b.k = a.v and b.v = a.k where a.word = :w order by 1, 2;

-- by_member(s int): 1 | 2
select k.id, p.id as plain from plain p join kinds k on p.k = any(k.numbers) where p.v = :s order by 1, 2;

-- by_doc_path(w text): w0 | w1
select k.id, p.id as plain from plain p join kinds k on (k.doc ->> 'a')::bigint = p.k where p.word = :w order by 1, 2;

-- versions_of(v text): v0 | v1
select id, xmin::text as version, ctid::text as place from keyed where v = :v order by id;

-- price_versions(l text): label 1
select id, xmin::text as version from prices where label = :l order by id;

-- twice_the_same(k bigint): 1 | 2
select id from plain where k = :k and v = k order by id;

-- flipped(k bigint): 1 | 3
select id from plain where :k = v and word is not null order by id;

-- least_of_key(k bigint): 1 | 2
select id from plain where v = (select min(v) from plain where k = :k) order by id;
