require "survey"
words = Hash.new(0)
STDIN.read.split.each { |word| words[word] += 1 }
puts primes(20000), sum(5000)
words.keys.sort.each { |word| puts "#{word} #{words[word]}" }
