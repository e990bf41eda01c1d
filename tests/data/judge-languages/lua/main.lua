local survey = require("survey")
local words, names = {}, {}
for word in io.read("a"):gmatch("%S+") do
  if not words[word] then names[#names + 1] = word end
  words[word] = (words[word] or 0) + 1
end
print(survey.primes(20000))
print(survey.sum(5000))
table.sort(names)
for _, word in ipairs(names) do print(word .. " " .. words[word]) end
