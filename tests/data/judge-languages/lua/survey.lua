local survey = {}
function survey.primes(limit)
  local composite, count = {}, 0
  for i = 2, limit - 1 do
    if not composite[i] then
      count = count + 1
      for j = i * i, limit - 1, i do composite[j] = true end
    end
  end
  return count
end
function survey.sum(n)
  if n == 0 then return 0 end
  return n + survey.sum(n - 1)
end
return survey
