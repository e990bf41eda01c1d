using System;
using System.Collections.Generic;
using System.Numerics;
using System.Threading.Tasks;

class Program {
    static void Main() {
        var words = new SortedDictionary<string, int>(StringComparer.Ordinal);
        string line;
        while ((line = Console.ReadLine()) != null)
            foreach (var word in line.Split(new[] { ' ' }, StringSplitOptions.RemoveEmptyEntries))
                words[word] = words.ContainsKey(word) ? words[word] + 1 : 1;
        Console.WriteLine(Task.Run(() => Survey.Primes(20000)).Result);
        Console.WriteLine(new BigInteger(Survey.Sum(5000)));
        foreach (var pair in words) Console.WriteLine($"{pair.Key} {pair.Value}");
    }
}
