unit survey;
interface
function primes(limit: longint): longint;
function sum(n: int64): int64;
implementation
function primes(limit: longint): longint;
var composite: array of boolean; i, j: int64;
begin
  setlength(composite, limit);
  primes := 0;
  for i := 2 to limit - 1 do
    if not composite[i] then begin
      inc(primes);
      j := i * i;
      while j < limit do begin composite[j] := true; j := j + i; end;
    end;
end;
function sum(n: int64): int64;
begin
  if n = 0 then sum := 0 else sum := n + sum(n - 1);
end;
end.
