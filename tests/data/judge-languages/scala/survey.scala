object Survey extends App {
  def total(n: Long): Long = if (n == 0) 0 else n + total(n - 1)
  val words = scala.io.Source.stdin.getLines().flatMap(_.split(" ")).filter(_.nonEmpty).toList.groupBy(identity)
  println(Numbers.primes(20000))
  println(total(5000))
  for (word <- words.keys.toList.sorted) println(word + " " + words(word).size)
}
