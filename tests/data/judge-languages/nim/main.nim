import std/[tables, strutils, algorithm, sequtils]
import survey

var words = initTable[string, int]()
for line in stdin.lines:
  for word in line.splitWhitespace: words.mgetOrPut(word, 0) += 1
echo primes(20000)
echo sum(5000)
for word in toSeq(words.keys).sorted: echo word, " ", words[word]
