import { primes, sum } from "./survey";
declare function require(name: string): any;
const words: Record<string, number> = {};
for (const word of require("fs").readFileSync(0, "utf8").split(/\s+/).filter(Boolean) as string[]) words[word] = (words[word] ?? 0) + 1;
console.log(primes(20000));
console.log(sum(5000));
for (const word of Object.keys(words).sort()) console.log(`${word} ${words[word]}`);
