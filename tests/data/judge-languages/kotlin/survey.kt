import java.util.TreeMap

fun main() {
    val words = TreeMap<String, Int>()
    generateSequence(::readLine).flatMap { it.split(" ").asSequence() }.filter { it != "" }.forEach { words[it] = (words[it] ?: 0) + 1 }
    println(primes(20000))
    println(total(5000))
    for ((word, count) in words) println("$word $count")
}
