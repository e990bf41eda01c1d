object Numbers {
  def primes(limit: Int): Int = {
    val composite = new Array[Boolean](limit)
    var count = 0
    for (i <- 2 until limit if !composite(i)) {
      count += 1
      var j = i.toLong * i
      while (j < limit) { composite(j.toInt) = true; j += i }
    }
    count
  }
}
