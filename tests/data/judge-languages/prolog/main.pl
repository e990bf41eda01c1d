:- use_module(library(readutil)).
:- use_module(library(assoc)).

main :-
    read_string(user_input, _, Text),
    split_string(Text, " \n", " \n", Parts),
    exclude(==(""), Parts, Words),
    primes(20000, Count), sum(5000, Sum),
    format("~w~n~w~n", [Count, Sum]),
    msort(Words, Sorted), report(Sorted).

report([]).
report([Word | Rest]) :-
    partition(==(Word), Rest, Same, Others), length(Same, N), M is N + 1, format("~w ~w~n", [Word, M]), report(Others).

primes(Limit, Count) :-
    functor(Sieve, sieve, Limit), Last is Limit - 1,
    aggregate_all(count, (between(2, Last, I), arg(I, Sieve, Mark), var(Mark), Square is I * I, mark(Square, I, Last, Sieve)), Count0),
    ( Count0 > 0 -> Count = Count0 ; Count = 0 ).
mark(J, _, Last, _) :- J > Last, !.
mark(J, I, Last, Sieve) :- nb_setarg(J, Sieve, 1), K is J + I, mark(K, I, Last, Sieve).

sum(0, 0) :- !.
sum(N, S) :- M is N - 1, sum(M, T), S is T + N.
