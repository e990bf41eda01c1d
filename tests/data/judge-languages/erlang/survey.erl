-module(survey).
-export([primes/1, sum/1]).

primes(Limit) -> length([N || N <- lists:seq(2, Limit - 1), prime(N, 2)]).
prime(N, D) when D * D > N -> true;
prime(N, D) when N rem D =:= 0 -> false;
prime(N, D) -> prime(N, D + 1).

sum(0) -> 0;
sum(N) -> N + sum(N - 1).
