\set k random(1, 1000000)
insert into one (k, v) values (:k, 'value of ' || :k);
