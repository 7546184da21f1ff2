/* kck
description = "The cities of a country"
result = "value"
*/
select coalesce(json_agg(name order by name), '[]') from cities where country = :country
