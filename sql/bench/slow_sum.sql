/* kck
result = "value"
expire = "1h"
*/
select sum(h.n) from hot h, pg_sleep(2) where h.id >= :from
