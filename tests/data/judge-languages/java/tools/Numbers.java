package tools;

public class Numbers {
    public static int primes(int limit) {
        boolean[] composite = new boolean[limit];
        int count = 0;
        for (int i = 2; i < limit; i++) {
            if (composite[i]) continue;
            count++;
            for (long j = (long) i * i; j < limit; j += i) composite[(int) j] = true;
        }
        return count;
    }

    public static long sum(long n) {
        return n == 0 ? 0 : n + sum(n - 1);
    }
}
