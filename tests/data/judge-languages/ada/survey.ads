package Survey is
   function Primes (Limit : Positive) return Natural;
   function Sum (N : Long_Integer) return Long_Integer is (if N = 0 then 0 else N + Sum (N - 1));
end Survey;
