import std.stdio, std.algorithm, std.array, std.parallelism;

int primes(int limit) {
    auto composite = new bool[limit];
    int count;
    foreach (i; 2 .. limit) {
        if (composite[i]) continue;
        count++;
        for (long j = cast(long) i * i; j < limit; j += i) composite[j] = true;
    }
    return count;
}

long sum(long n) { return n ? n + sum(n - 1) : 0; }

void main() {
    int[string] words;
    foreach (line; stdin.byLine) foreach (word; line.split) words[word.idup]++;
    writeln(primes(20000));
    writeln(sum(5000));
    foreach (word; words.keys.sort) writeln(word, " ", words[word]);
}
