\set a random(1, 9999)
update multi set n = n + 1 where id between :a * 10 and :a * 10 + 9;
