var words: [String: Int] = [:]
while let line = readLine() {
    for word in line.split(separator: " ") { words[String(word), default: 0] += 1 }
}
print(primes(20000))
print(total(5000))
for word in words.keys.sorted() { print("\(word) \(words[word]!)") }
