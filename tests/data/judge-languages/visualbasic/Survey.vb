Module Survey
    Function Primes(limit As Integer) As Integer
        Dim composite(limit) As Boolean
        Dim count As Integer = 0
        For i As Long = 2 To limit - 1
            If Not composite(CInt(i)) Then
                count += 1
                For j As Long = i * i To limit - 1 Step i
                    composite(CInt(j)) = True
                Next
            End If
        Next
        Return count
    End Function

    Function Sum(n As Long) As Long
        Return If(n = 0, 0, n + Sum(n - 1))
    End Function
End Module
