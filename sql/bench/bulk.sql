insert into bulk select n, n % 1000, 'value of ' || n from generate_series(1, 1000000) n
