Imports System
Imports System.Collections.Generic
Imports System.Threading.Tasks

Module Program
    Sub Main()
        Dim words As New SortedDictionary(Of String, Integer)(StringComparer.Ordinal)
        For Each word In Console.In.ReadToEnd().Split({" "c, Convert.ToChar(10)}, StringSplitOptions.RemoveEmptyEntries)
            Dim count As Integer = 0
            words.TryGetValue(word, count)
            words(word) = count + 1
        Next
        Console.WriteLine(Task.Run(Function() Survey.Primes(20000)).Result)
        Console.WriteLine(Survey.Sum(5000))
        For Each pair In words
            Console.WriteLine(pair.Key & " " & pair.Value.ToString())
        Next
    End Sub
End Module
