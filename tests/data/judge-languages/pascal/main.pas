program main;
{$mode objfpc}
uses survey, Classes, SysUtils;
var words: TStringList; word: string; i, j: integer; c: char;
begin
  words := TStringList.Create;
  words.CaseSensitive := true;
  words.UseLocale := false;
  word := '';
  while not eof do begin
    read(c);
    if c > ' ' then word := word + c
    else if word <> '' then begin words.Add(word); word := ''; end;
  end;
  if word <> '' then words.Add(word);
  words.Sort;
  writeln(primes(20000));
  writeln(sum(5000));
  i := 0;
  while i < words.Count do begin
    j := i;
    while (j < words.Count) and (words[i] = words[j]) do inc(j);
    writeln(words[i], ' ', j - i);
    i := j;
  end;
end.
