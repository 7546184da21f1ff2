/* kck
result = "value"
min_interval = "0s"
*/
select h.n from hot h where h.id = :id
