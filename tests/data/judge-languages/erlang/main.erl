-module(main).
-export([main/1]).

main(_) ->
    Words = lists:sort(read([])),
    Parent = self(),
    spawn(fun() -> Parent ! {primes, survey:primes(20000)} end),
    receive {primes, Count} -> io:format("~p~n", [Count]) end,
    io:format("~p~n", [survey:sum(5000)]),
    report(Words).

read(Words) ->
    case io:get_line("") of
        eof -> Words;
        Line -> read(string:lexemes(Line, " \n") ++ Words)
    end.

report([]) -> ok;
report([Word | _] = Words) ->
    {Same, Rest} = lists:splitwith(fun(Other) -> Other =:= Word end, Words),
    io:format("~s ~p~n", [Word, length(Same)]),
    report(Rest).
