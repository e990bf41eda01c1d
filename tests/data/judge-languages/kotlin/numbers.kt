fun primes(limit: Int): Int {
    val composite = BooleanArray(limit)
    var count = 0
    for (i in 2 until limit) {
        if (composite[i]) continue
        count++
        var j = i.toLong() * i
        while (j < limit) {
            composite[j.toInt()] = true
            j += i
        }
    }
    return count
}

fun total(n: Long): Long = if (n == 0L) 0 else n + total(n - 1)
