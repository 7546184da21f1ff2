-- device_sum(d int) row: 1 | 700 | 1500 | 9999
select sum(value) as value, count(*) as n from samples where device_id = :d;

-- site_sum(s text) row: site 1 | site 3 | site 9
select sum(m.value) as value, count(*) as n from samples m join devices d on d.id = m.device_id join sites s on s.id = d.site_id
where s.name = :s;

-- site_checked(s int) value: 1 | 5
select count(*) from samples m where m.checked and exists (select from devices d where d.id = m.device_id and d.site_id = :s);

-- site_devices(s int) value: 0 | 2
select count(*) from devices where site_id = :s;

-- model_without_samples(m text): m0 | m2
select d.id from devices d where d.model = :m and not exists (select from samples s where s.device_id = d.id) order by d.id;

-- values_above(least int) value: 50 | 99
select count(*) from samples where value > :least;
