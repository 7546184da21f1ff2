-- As many small answers as are asked for, each by its own key.
create table items (
    id bigint primary key,
    label text not null
);
alter table items replica identity full;
