/* kck
result = "value"
min_interval = "1s"
*/
select h.n from hot h where h.id = :id
