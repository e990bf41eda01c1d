const survey = require("./survey.js");
const words = {};
for (const word of require("fs").readFileSync(0, "utf8").split(/\s+/).filter(Boolean)) words[word] = (words[word] || 0) + 1;
console.log(survey.primes(20000));
console.log(survey.sum(5000));
for (const word of Object.keys(words).sort()) console.log(`${word} ${words[word]}`);
