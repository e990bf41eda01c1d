static class Survey {
    public static int Primes(int limit) {
        var composite = new bool[limit];
        int count = 0;
        for (int i = 2; i < limit; i++) {
            if (composite[i]) continue;
            count++;
            for (long j = (long)i * i; j < limit; j += i) composite[j] = true;
        }
        return count;
    }
    public static long Sum(long n) => n == 0 ? 0 : n + Sum(n - 1);
}
