-- device: 1..1600
-- device2: 1..1600
-- site: 0..7
-- value: 0..110
-- many: 10..300
-- sample: 1..6000
-- name: 'site 1' | 'site 3' | 'site 9'

update samples set value = {value} where device_id = {device}
update samples set value = value + 1 where id between {sample} and {sample} + {many}
update samples set device_id = {device2} where device_id = {device}
update samples set device_id = device_id % 1500 + 1 where id between {sample} and {sample} + {many}
update samples set checked = not checked where id between {sample} and {sample} + {many}
update devices set site_id = {site} where id = {device}
update devices set site_id = {site} where id between {device} and {device} + {many}
update devices set model = 'm0' where id between {device} and {device} + 3
update sites set name = {name} where id = {site}
delete from samples where device_id = {device}
delete from samples where id between {sample} and {sample} + {many}
insert into samples select n, {device}, {value} from generate_series({sample}, {sample} + {many}) n on conflict do nothing
insert into devices values ({device}, {site}, 'm2') on conflict (id) do update set site_id = excluded.site_id
delete from devices where id = {device}

-- rarely
update samples set value = (value + 7) % 101
update samples set device_id = (device_id * 7) % 1500 + 1
update devices set site_id = (site_id + 1) % 6
truncate samples; insert into samples select n, n % 1500 + 1, n % 100 from generate_series(1, 6000) n
insert into sites select n, 'site ' || n from generate_series(1, 5) n on conflict (id) do update set name = excluded.name
